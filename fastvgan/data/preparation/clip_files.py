"""Clips as video files that are easy to read: constant rate, yuv420p, upright, a key frame every few frames."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fastvgan.data.folders.layouts import Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found, check_length, checksum_of, map_in_threads
from fastvgan.data.media.frames import probe, walk
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.paths import LEADS_OUT, leads_out
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import MIB, Made, once, remove_others, signature_of, together
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.resample import at_rate, most_at_rate
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.errors import UserError
from fastvgan.files.atomic import whole
from fastvgan.files.video import encode

SUFFIXES = {"vp9": ".webm", "h264": ".mp4"}
_UNTOLD = 25.0  # frames a second of pictures whose rate nobody says


def rate(found: Probe, settings: PrepareConfig) -> float:
    """Frames a second that a clip is written at."""
    return settings.fps or found.fps or _UNTOLD


def frames(clip: Found, settings: PrepareConfig, channels: int = 3) -> Iterator[np.ndarray]:
    """All frames of a clip as they are to be written, uint8 (H, W, channels).

    Raises:
        BadVideo: one cannot be decoded.
    """
    found = clip.probe
    height, width = settings.height or found.height, settings.width or found.width
    # A clip of constant rate that keeps its rate keeps its frames, whatever its times are rounded to.
    fps = None if found.steady and settings.fps in (None, found.fps) else rate(found, settings)
    timed = walk(clip.entry.media, height, width, channels, found)
    # The first look may have taken a damaged clip up to where it breaks off.
    timed = itertools.islice(timed, found.frames) if settings.tolerant else timed
    yield from at_rate(timed, fps, 1 / found.fps if found.fps else None, most_at_rate(found.frames))


def write_clip(path: Path, clip: Found, settings: PrepareConfig) -> Probe:
    """Write a clip as a video file, whole or not at all; gives what decoding it again finds.

    Raises:
        BadVideo: it cannot be decoded, has too few frames, or comes out of the encoder other than it went in.
        UserError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        count = encode(temporary, frames(clip, settings), rate(clip.probe, settings), settings.codec, settings.gop)
        check_length(count, settings.min_frames, settings.fps)
        made = probe(Media("video", temporary))
        if made.frames != count:
            raise BadVideo(f"{count} frames were encoded and {made.frames} came out")
    return made


def write_clips(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Made:
    """Video files in out/clips, under the names of what they were made from; see `write_clip`."""
    paths = {clip.entry.name: out / "clips" / name for clip, name in zip(clips, _names(clips, settings), strict=True)}

    def one(clip: Found) -> Made:
        path = paths[clip.entry.name]
        signature = signature_of([clip], sums, settings)
        return once(journal, out, path, signature, lambda: _encoded(out, path, clip, settings))

    made = together(map_in_threads(one, clips, "writing clips", settings.workers or None), clips)
    remove_others(journal, out, out / "clips", made)
    return made


def _encoded(out: Path, path: Path, clip: Found, settings: PrepareConfig) -> Made:
    # A file of the same quality is about as large as it was; what is sure is that there must be some room.
    check_room(out, 2 * MIB, settings.keep_free, path.name)
    try:
        found = write_clip(path, clip, settings)
    except BadVideo as error:
        return [], [Rejected.because(clip.entry.name, error)]
    total = checksum_of(path)
    return [dataclasses.replace(record_of(path, out, clip, found), checksum=total, bytes=path.stat().st_size)], []


def _names(clips: Iterable[Found], settings: PrepareConfig) -> Iterator[str]:
    """A file name for each clip: its own with the new suffix; with both where two would be the same.

    Raises:
        UserError: it would lie outside of the folder that it is written to.
    """
    taken: set[str] = set()
    for clip in clips:
        name = clip.entry.name
        short = str(Path(name).with_suffix("")) + SUFFIXES[settings.codec]
        if short in taken:
            short = name + SUFFIXES[settings.codec]
        taken.add(short)
        if leads_out(short):
            raise UserError(f"{name} {LEADS_OUT}")
        yield short


def record_of(path: Path, out: Path, clip: Found, found: Probe, **place) -> Record:
    """The line of a manifest for a written video file, or for one in a tar."""
    return Record(
        path=path.relative_to(out).as_posix(),
        kind="tar" if place else "video",
        frames=found.frames,
        height=found.height,
        width=found.width,
        codec=found.codec,
        fps=found.fps,
        pts=found.pts,
        keys=found.keys,
        source=clip.entry.name,
        **place,
    )
