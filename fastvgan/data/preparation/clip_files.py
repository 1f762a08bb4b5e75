"""Writing clips as video files that are fast to read: constant rate, yuv420p, upright, frequent key frames."""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from fastvgan.data.folders.entry import Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found, check_length, checksum_of, map_in_threads
from fastvgan.data.media.frames import probe, walk
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.paths import LEADS_OUT, leads_out
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import MIB, Results, compute_signature, merge_results, remove_stale, run_once
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.resample import limit_resampled, resample
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.errors import UserError
from fastvgan.files.atomic import LONGEST_NAME, whole
from fastvgan.files.encoding import encode

SUFFIXES = {"vp9": ".webm", "h264": ".mp4"}
_DEFAULT_RATE = 25.0  # frames per second of clips without a known rate


def output_rate(found: Probe, settings: PrepareConfig) -> float:
    """Return the frames per second at which a clip is written."""
    return settings.fps or found.fps or _DEFAULT_RATE


def output_frames(clip: Found, settings: PrepareConfig, channels: int = 3) -> Iterator[np.ndarray]:
    """Yield the frames of a clip as they are written, uint8 (H, W, channels).

    Args:
        clip: The clip.
        settings: Size and rate of the frames.
        channels: 1 for grey, 3 for RGB.

    Raises:
        BadVideo: A frame cannot be decoded.
    """
    found = clip.probe
    height, width = settings.height or found.height, settings.width or found.width
    # A clip of constant rate whose rate stays the same keeps all frames, however its times are rounded.
    fps = None if found.steady and settings.fps in (None, found.fps) else output_rate(found, settings)
    timed = walk(clip.entry.media, height, width, channels, found)
    # `found` may describe only the part of a damaged clip before the damage.
    timed = itertools.islice(timed, found.frames) if settings.tolerant else timed
    yield from resample(timed, fps, 1 / found.fps if found.fps else None, limit_resampled(found.frames))


def write_clip(path: Path, clip: Found, settings: PrepareConfig) -> Probe:
    """Write a clip as a video file, atomically, and decode it again.

    Args:
        path: The file.
        clip: The clip.
        settings: Size, rate and codec of the file.

    Returns:
        What decoding the file found.

    Raises:
        BadVideo: The clip cannot be decoded or encoded or has too few frames, or the file has another number of frames.
        UserError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        fps = output_rate(clip.probe, settings)
        try:
            count = encode(temporary, output_frames(clip, settings), fps, settings.codec, settings.gop)
        except av.error.ExternalError as error:  # the encoder's own, such as for a clip that is too wide
            raise BadVideo(f"cannot be encoded as {settings.codec} ({error.strerror}); try another --codec") from error
        check_length(count, settings.min_frames, settings.fps)
        found = probe(Media("video", temporary))
        if found.frames != count:
            raise BadVideo(f"{count} frames were encoded, but {found.frames} were decoded")
    return found


def write_clips(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Results:
    """Write clips as video files in out/clips, named after their sources; see `write_clip`.

    Args:
        out: The folder of the manifest.
        clips: The clips.
        sums: Checksums of the clips by name.
        settings: Size, rate and codec of the files.
        journal: Finished files.
    """
    paths = {clip.entry.name: out / "clips" / name for clip, name in zip(clips, _names(clips, settings), strict=True)}

    def write(clip: Found) -> Results:
        path = paths[clip.entry.name]
        signature = compute_signature([clip], sums, settings)
        return run_once(journal, out, path, signature, lambda: _write_record(out, path, clip, settings))

    results = merge_results(map_in_threads(write, clips, "writing clips", settings.workers or None), clips)
    remove_stale(journal, out, out / "clips", results)
    return results


def _write_record(out: Path, path: Path, clip: Found, settings: PrepareConfig) -> Results:
    # The size of the file is unknown, but some room is needed in any case.
    check_room(out, 2 * MIB, settings.keep_free, path.name)
    try:
        found = write_clip(path, clip, settings)
    except BadVideo as error:
        return [], [Rejected.because(clip.entry.name, error)]
    total = checksum_of(path)
    return [dataclasses.replace(make_record(path, out, clip, found), checksum=total, bytes=path.stat().st_size)], []


def _names(clips: Iterable[Found], settings: PrepareConfig) -> Iterator[str]:
    """A file name for each clip: its own with the new suffix, or with both suffixes if two would be equal.

    A name that is too long for the file system becomes a checksum of it.

    Raises:
        UserError: A name leads out of the folder that is written to.
    """
    taken: set[str] = set()
    for clip in clips:
        name = clip.entry.name
        short = str(Path(name).with_suffix("")) + SUFFIXES[settings.codec]
        if short in taken:
            short = name + SUFFIXES[settings.codec]
        if len(os.fsencode(Path(short).name)) > LONGEST_NAME:
            short = str(Path(name).with_name(hashlib.sha256(name.encode()).hexdigest() + SUFFIXES[settings.codec]))
        taken.add(short)
        if leads_out(short):
            raise UserError(f"{name} {LEADS_OUT}")
        yield short


def make_record(path: Path, out: Path, clip: Found, found: Probe) -> Record:
    """Make the manifest's record of a written video file, without checksum and size.

    Args:
        path: The file.
        out: The manifest's root.
        clip: The clip that the file was made from.
        found: What decoding the file found.
    """
    return Record(
        path=path.relative_to(out).as_posix(),
        kind="video",
        frames=found.frames,
        height=found.height,
        width=found.width,
        codec=found.codec,
        fps=found.fps,
        pts=found.pts,
        keys=found.keys,
        source=clip.entry.name,
    )
