"""Clips as decoded frames, many to a safetensors file, which training maps into memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fastvgan.data.folders.layouts import Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found, check_length, checksum_of, map_in_threads
from fastvgan.data.media.types import BadVideo, cover
from fastvgan.data.preparation.clip_files import frames, rate
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import MIB, Made, by_size, once, remove_others, signature_of, together
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.resample import count_at_rate
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import whole
from fastvgan.files.tensor_file import save_tensors


def estimate_bytes(clip: Found, settings: PrepareConfig) -> int:
    """Bytes of a clip's frames, about."""
    found = clip.probe
    height, width = cover((found.height, found.width), settings.height, settings.width)
    return count_at_rate(found.frames, found.fps, settings.fps) * height * width * settings.channels


def write_shard(path: Path, clips: Sequence[Found], settings: PrepareConfig, root: Path) -> Made:
    """Decode clips into one safetensors file: a tensor each, by the clip's name, uint8 (T, H, W, C).

    Frames are scaled to just cover the size asked for, so that crops can still be drawn.

    Raises:
        UserError: the file cannot be written.
    """

    def decode(clip: Found) -> "torch.Tensor | Rejected":
        try:
            taken = list(frames(clip, settings, settings.channels))
            check_length(len(taken), settings.min_frames, settings.fps)
            return torch.from_numpy(np.stack(taken))
        except BadVideo as error:
            return Rejected.because(clip.entry.name, error)

    results = list(map_in_threads(decode, clips, path.name, settings.workers or None))
    rejected = [result for result in results if isinstance(result, Rejected)]
    good = [(clip, made) for clip, made in zip(clips, results, strict=True) if not isinstance(made, Rejected)]
    if good:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            save_tensors({clip.entry.name: video for clip, video in good}, temporary)
    total = checksum_of(path) if good else ""
    name = path.relative_to(root).as_posix()
    return [_record(name, total, clip, video, settings) for clip, video in good], rejected


def _record(path: str, total: str, clip: Found, video: torch.Tensor, settings: PrepareConfig) -> Record:
    frames, height, width, _ = video.shape
    return Record(
        path=path,
        kind="shard",
        frames=frames,
        height=height,
        width=width,
        codec="gray8" if settings.channels == 1 else "rgb24",
        fps=rate(clip.probe, settings) if settings.fps or clip.probe.fps else None,
        captions=clip.entry.captions,
        label=clip.entry.label,
        checksum=total,
        bytes=video.nbytes,
        member=clip.entry.name,
        source=clip.entry.name,
    )


def write_shards(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Made:
    """Decoded frames in out/shards; see `write_shard`.

    Args:
        sums: checksums of the clips by name.

    Raises:
        UserError: all of them would leave too little room on the disk.
    """
    needed = sum(estimate_bytes(clip, settings) for clip in clips)
    groups = list(by_size(clips, lambda clip: estimate_bytes(clip, settings), settings.shard_size * MIB))
    paths = [out / "shards" / f"{number:05d}.safetensors" for number in range(len(groups))]
    there = sum(path.stat().st_size for path in paths if path.exists())
    check_room(out, needed - there, settings.keep_free, f"{len(clips)} decoded clips")

    def one(path: Path, group: list[Found]) -> Made:
        def make() -> Made:
            check_room(out, sum(estimate_bytes(clip, settings) for clip in group), settings.keep_free, path.name)
            return write_shard(path, group, settings, out)

        return once(journal, out, path, signature_of(group, sums, settings), make)

    # One after the other: a shard's clips are decoded side by side, and its frames fill memory enough.
    made = together((one(path, group) for path, group in zip(paths, groups, strict=True)), clips)
    remove_others(journal, out, out / "shards", made)
    return made
