"""Decoded clips in a device's memory, cut there by a few operations that a CUDA graph can capture."""

import math
from collections.abc import Generator, Iterator, Sequence

import torch

from fastvgan.data.sampling import Sampler
from fastvgan.data.source import Clips
from fastvgan.random_draws import below

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class ResidentClips:
    """All clips of a set in one tensor, from which rows of pixels are gathered.

    Args:
        videos: Frames of each clip, uint8 (t, h, w, C), at least as large as a sample.
        sampler: Draws samples of these clips.
        device: Holds the clips.
    """

    def __init__(self, videos: Sequence[torch.Tensor], sampler: Sampler, device: torch.device):
        self._sampler, self._device = sampler, device
        cut = self._cut = sampler.cut
        self.nbytes = sum(video.nbytes for video in videos)
        sizes = torch.tensor([video.shape[:3] for video in videos], dtype=torch.int64, device="cpu")
        _, heights, widths = sizes.unbind(1)
        # Rows are gathered as the widest integers to whose size every row of a frame, and every crop, is aligned.
        crops = [cut.channels] if bool((widths > cut.width).any()) else []
        row = cut.width * cut.channels
        unit = math.gcd(8, row, *(widths * cut.channels).unique().tolist(), *crops)
        # A row of a sample from every unit on: overlapping views of the same memory.
        self._windows = _concatenate_bytes(videos, device).view(_INTEGERS[unit]).unfold(0, row // unit, 1)
        self._column = cut.channels // unit
        pitch = widths * cut.channels // unit
        first = (sizes.prod(1).cumsum(0) - sizes.prod(1)) * cut.channels // unit
        beyond = torch.stack([heights - cut.height + 1, widths - cut.width + 1], 1)
        table = torch.cat([torch.stack([first, heights * pitch, pitch], 1), beyond], 1)
        self._is_cropped = bool((beyond > 1).any())
        # Columns: first unit, units per frame, units per row, possible tops, possible lefts.
        self._table = table.to(device)  # (clips, 5)
        self._rows = torch.arange(cut.height, device=device)

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield a batch per range of sample numbers; see `fastvgan.data.readers.Decoder.batches`."""
        for batch in numbers:
            clips = torch.tensor(self._sampler.clips(seed, batch), device=self._device)
            samples = torch.arange(batch.start, batch.stop, device=self._device)
            yield self.draw(self._sampler.words(seed, samples), clips)

    def draw(self, words: torch.Tensor, clips: torch.Tensor) -> Clips:
        """Cut samples as `Sampler.pick` draws them, without a synchronization with the host.

        Args:
            words: int64 (N, WORDS) in [0, 2**32), on the device.
            clips: int64 (N,), indices of the videos, on the device.
        """
        cut, picks = self._cut, self._sampler.pick(words, clips)
        row = self._table[clips]  # (N, 5)
        first, frame, pitch = row[:, :3].unbind(1)
        if self._is_cropped:
            top, left = below(picks.crop, row[:, 3:]).unbind(1)
            first = torch.addcmul(first, top, pitch).add_(left, alpha=self._column)
        indices = picks.indices
        if cut.reverse:
            indices = torch.where(picks.reverse[:, None] > 0, indices.flip(1), indices)
        frames = torch.addcmul(first[:, None], indices, frame[:, None])  # (N, T)
        rows = torch.addcmul(frames[:, :, None], self._rows, pitch[:, None, None])  # (N, T, H)
        video = self._windows[rows].view(torch.uint8).unflatten(3, (cut.width, cut.channels))
        if cut.mirror:
            video = torch.where(picks.mirror.view(-1, 1, 1, 1, 1) > 0, video.flip(3), video)
        return Clips(video, picks.caption, picks.label)


def _concatenate_bytes(videos: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Concatenate the bytes of uint8 tensors, copied one by one so that memory holds them once."""
    joined = torch.empty(sum(video.nbytes for video in videos), dtype=torch.uint8, device=device)
    for place, video in zip(joined.split([video.nbytes for video in videos]), videos, strict=True):
        place.view(video.shape).copy_(video)
    return joined
