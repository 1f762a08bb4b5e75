"""Decoder for shards, whose frames are decoded already: mapped into memory, or in a GPU's memory if they fit."""

from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fastvgan.data.decoders.resident import ResidentClips
from fastvgan.data.media.types import Probe, cover
from fastvgan.data.readers import ClipSet, stack_conditions
from fastvgan.data.sampling import Cut, Draw
from fastvgan.data.source import Clips
from fastvgan.errors import UserError

_SHARE = 0.5  # share of a GPU's free memory that a set may fill


class ShardDecoder:
    """Cuts samples from shards; see `fastvgan.data.readers.Decoder`.

    If the device is a GPU and all frames fit into half of its free memory, each training process keeps them there
    (`resident`). Otherwise the files are mapped into memory.

    Args:
        clips: The set, all of kind "shard".
        device: Device of the batches.

    Raises:
        UserError: A shard is missing or damaged, or its frames have another size or number of channels than samples.
    """

    def __init__(self, clips: ClipSet, device: torch.device):
        self._clips = clips
        videos = _map_shards(clips)
        fits = _fits(sum(video.nbytes for video in videos), device)
        self.resident = ResidentClips(videos, clips.sampler, device) if fits else None
        self._videos = [] if fits else videos

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield a batch per range of sample numbers; see `fastvgan.data.readers.Decoder.batches`."""
        if self.resident:
            yield from self.resident.batches(seed, numbers)
            return
        cut = self._clips.sampler.cut
        for batch in numbers:
            draws = self._clips.sampler.draws(seed, batch)
            video = torch.empty(len(draws), cut.frames, cut.height, cut.width, cut.channels, dtype=torch.uint8)
            for place, draw in zip(video, draws, strict=True):
                self._cut(draw, place)
                if draw.reverse:
                    place.copy_(place.flip(0))
            yield Clips(video, *stack_conditions(draws))

    def _cut(self, draw: Draw, out: torch.Tensor) -> None:
        video, cut = self._videos[draw.clip], self._clips.sampler.cut
        top, left = draw.offsets((video.shape[1], video.shape[2]), cut.height, cut.width)
        part = video[:, top : top + cut.height, left : left + cut.width]
        first, last = draw.indices[0], draw.indices[-1]
        # Equidistant frames are a view; repetitions of the last frame are copied after them.
        stride = max(1, draw.indices[1] - first) if len(draw.indices) > 1 else 1
        moving = part[first : last + 1 : stride]
        moving = moving[: len(draw.indices)]
        if draw.mirror:
            moving = moving.flip(2)
        out[: len(moving)].copy_(moving)
        if len(moving) < len(draw.indices):
            held = part[last]
            out[len(moving) :].copy_(held.flip(1) if draw.mirror else held)


def _fits(size: int, device: torch.device) -> bool:
    """Whether a device can hold so many bytes."""
    return device.type == "cuda" and size < _SHARE * torch.cuda.mem_get_info(device)[0]


def _map_shards(clips: ClipSet) -> list[torch.Tensor]:
    """Map each clip's frames, uint8 (T, H, W, C), into memory."""
    cut = clips.sampler.cut
    opened: dict[Path, safe_open] = {}
    videos = []
    for name, media, found in zip(clips.names, clips.media, clips.found, strict=True):
        path = Path(media.path)
        try:
            if path not in opened:
                opened[path] = safe_open(path, "pt")
            video = opened[path].get_tensor(media.member)
        except (SafetensorError, OSError) as error:
            raise UserError(f"the shard {path} cannot be read ({error}); prepare the data again") from error
        _check(name, video, found, cut)
        videos.append(video)
    return videos


def _check(name: str, video: torch.Tensor, found: Probe, cut: Cut) -> None:
    if video.dtype != torch.uint8 or video.shape[:3] != (found.frames, found.height, found.width):
        raise UserError(f"{name}: the frames of the shard do not match its manifest; prepare the data again")
    if video.shape[3] != cut.channels:
        raise UserError(
            f"{name}: the shard has {video.shape[3]} channels, not {cut.channels}; prepare the data again with "
            f"--channels {cut.channels}"
        )
    size = video.shape[1], video.shape[2]
    if size != cover(size, cut.height, cut.width):
        raise UserError(
            f"{name}: the shard has frames of {size[1]}x{size[0]}, not made for {cut.width}x{cut.height}; prepare the "
            f"data again with --height {cut.height} --width {cut.width}, or train at the size it was made for"
        )
