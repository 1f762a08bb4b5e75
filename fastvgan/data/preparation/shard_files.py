"""Writing decoded frames of many clips to safetensors files, which training maps into memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastvgan.data.folders.entry import Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found, check_length, checksum_of, map_in_threads
from fastvgan.data.media.types import BadVideo, cover
from fastvgan.data.preparation.clip_files import output_frames, output_rate
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import (
    MIB,
    Results,
    compute_signature,
    group_by_size,
    merge_results,
    remove_stale,
    run_once,
)
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.resample import count_resampled
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import whole
from fastvgan.files.tensor_file import save_tensors


def estimate_bytes(clip: Found, settings: PrepareConfig) -> int:
    """Estimate the bytes of a clip's frames in a shard."""
    found = clip.probe
    assert settings.height is not None and settings.width is not None  # PrepareConfig requires them for shards
    height, width = cover((found.height, found.width), settings.height, settings.width)
    return count_resampled(found.frames, found.fps, settings.fps) * height * width * settings.channels


def write_shard(path: Path, clips: Sequence[Found], settings: PrepareConfig, root: Path) -> Results:
    """Decode clips into one safetensors file: a tensor per clip, uint8 (T, H, W, C), with the clip's name.

    Frames are scaled to cover the height and width of `settings`, so that training can still crop them.

    Args:
        path: The file.
        clips: The clips.
        settings: Size, channels and rate of the frames.
        root: The manifest's root.

    Raises:
        UserError: The file cannot be written.
    """

    def decode(clip: Found) -> torch.Tensor | Rejected:
        try:
            expected = count_resampled(clip.probe.frames, clip.probe.fps, settings.fps)
            video = _stack(output_frames(clip, settings, settings.channels), expected)
            check_length(len(video), settings.min_frames, settings.fps)
            return torch.from_numpy(video)
        except BadVideo as error:
            return Rejected.because(clip.entry.name, error)

    results = list(map_in_threads(decode, clips, path.name, settings.workers or None))
    rejected = [result for result in results if isinstance(result, Rejected)]
    good = [(clip, video) for clip, video in zip(clips, results, strict=True) if not isinstance(video, Rejected)]
    if good:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            save_tensors({clip.entry.name: video for clip, video in good}, temporary)
    total = checksum_of(path) if good else ""
    name = path.relative_to(root).as_posix()
    return [_record(name, total, clip, video, settings) for clip, video in good], rejected


def _stack(frames: Iterable[np.ndarray], expected: int) -> np.ndarray:
    """Copy frames into one array with room for the `expected` ones: with a list, a film would take memory twice."""
    video, count = np.empty((0,), np.uint8), 0
    for count, frame in enumerate(frames, 1):
        if count == 1:
            video = np.empty((max(1, expected), *frame.shape), np.uint8)
        elif count > len(video):
            video.resize((len(video) + len(video) // 8 + 1, *frame.shape), refcheck=False)
        video[count - 1] = frame
    return video[:count]


def _record(path: str, total: str, clip: Found, video: torch.Tensor, settings: PrepareConfig) -> Record:
    frames, height, width, _ = video.shape
    return Record(
        path=path,
        kind="shard",
        frames=frames,
        height=height,
        width=width,
        codec="gray8" if settings.channels == 1 else "rgb24",
        fps=output_rate(clip.probe, settings) if settings.fps or clip.probe.fps else None,
        captions=clip.entry.captions,
        label=clip.entry.label,
        checksum=total,
        bytes=video.nbytes,
        member=clip.entry.name,
        source=clip.entry.name,
    )


def write_shards(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Results:
    """Write decoded frames to out/shards; see `write_shard`.

    Args:
        out: The folder of the manifest.
        clips: The clips.
        sums: Checksums of the clips by name.
        settings: Size, channels and rate of the frames.
        journal: Finished files.

    Raises:
        UserError: The shards would leave too little space on the disk.
    """
    needed = sum(estimate_bytes(clip, settings) for clip in clips)
    groups = list(group_by_size(clips, lambda clip: estimate_bytes(clip, settings), settings.shard_size * MIB))
    paths = [out / "shards" / f"{number:05d}.safetensors" for number in range(len(groups))]
    existing = sum(path.stat().st_size for path in paths if path.exists())
    check_room(out, needed - existing, settings.keep_free, f"{len(clips)} decoded clips")

    def write(path: Path, group: list[Found]) -> Results:
        def make() -> Results:
            check_room(out, sum(estimate_bytes(clip, settings) for clip in group), settings.keep_free, path.name)
            return write_shard(path, group, settings, out)

        return run_once(journal, out, path, compute_signature(group, sums, settings), make)

    # One shard at a time: its clips are decoded in parallel, and its frames take enough memory.
    results = merge_results((write(path, group) for path, group in zip(paths, groups, strict=True)), clips)
    remove_stale(journal, out, out / "shards", results)
    return results
