"""Checking clips by decoding them from end to end, in parallel; checksums and sizes of their files."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.media import pictures
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import BadVideo, Probe, check_probe
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors

_BLOCK = 2**20  # bytes
_QUICK = 300  # frames that are decoded from the start quickly enough
Given = TypeVar("Given")
Made = TypeVar("Made")


class Found(NamedTuple):
    """A usable clip, and what decoding found out about it."""

    entry: Entry
    probe: Probe


def examine(entry: Entry, tolerant: bool = False, min_frames: int = 2) -> Found | Rejected:
    """Decode a clip from end to end, and reject it if it is unusable.

    Args:
        entry: The clip.
        tolerant: Take frames in which the decoder concealed errors.
        min_frames: Smallest number of frames.
    """
    try:
        found = probe(entry.media, tolerant)
        check_probe(found)
        check_length(found.frames, min_frames)
    except BadVideo as error:
        return Rejected.because(entry.name, error)
    return Found(entry, found)


def check_length(frames: int, least: int, fps: float | None = None) -> None:
    """Refuse a clip of fewer frames than `least`.

    Args:
        frames: Number of frames.
        least: Smallest number of frames.
        fps: The rate, in frames per second, that the clip was resampled to, if it was.

    Raises:
        BadVideo: The clip has fewer frames.
    """
    if frames < least:
        count = "one frame" if frames == 1 else f"{frames} frames"
        rate = f" at {fps:g} frames per second" if fps else ""
        raise BadVideo(f"has only {count}{rate}, fewer than {least}")


def map_in_threads(
    work: Callable[[Given], Made], items: Iterable[Given], what: str, workers: int | None = None
) -> Iterator[Made]:
    """Yield work(item) for each item, in order, computed by threads, with a progress bar.

    FFmpeg and hashlib release Python's lock, so that threads suffice.

    Args:
        work: The function.
        items: Its arguments.
        what: Title of the progress bar.
        workers: Number of threads; by default the number of processors.
    """
    items = list(items)
    with ThreadPoolExecutor(workers or count_processors()) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in tqdm(futures, what, leave=False, unit="file", dynamic_ncols=True):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def notes(clip: Found, is_made_constant: bool = False) -> list[str]:
    """Write sentences on a usable clip that has a variable frame rate, is interlaced or is slow to read.

    Args:
        clip: The clip.
        is_made_constant: Whether `prepare` writes it at a constant rate.
    """
    sentences = []
    is_video = clip.entry.media.kind in ("video", "tar")
    if is_video and clip.probe.pts is None and clip.probe.frames > _QUICK and not is_made_constant:
        sentences.append(
            f"{clip.entry.name}: has no usable times, so each sample decodes it from its start; "
            "`fastvgan prepare --to clips` makes this fast"
        )
    if not clip.probe.steady:
        mean = f"mean {clip.probe.fps:g} frames per second" if clip.probe.fps else "unknown mean"
        end = "resampled to a constant rate" if is_made_constant else "its frames are treated as equidistant"
        sentences.append(f"{clip.entry.name}: has a variable frame rate, {mean}; {end}")
    if clip.probe.interlaced:
        sentences.append(f"{clip.entry.name}: is interlaced; FFmpeg's filter bwdif makes one frame of each two fields")
    return sentences


def divide(results: Iterable[Found | Rejected]) -> tuple[list[Found], list[Rejected]]:
    """Separate the usable clips from the rejected ones."""
    good: list[Found] = []
    bad: list[Rejected] = []
    for result in results:
        if isinstance(result, Rejected):
            bad.append(result)
        else:
            good.append(result)
    return good, bad


def check_share(folder: Path, count: int, bad: list[Rejected], max_bad: float) -> None:
    """Refuse a folder with too many unusable clips.

    Args:
        folder: The folder, for the message.
        count: Number of its clips.
        bad: The unusable ones.
        max_bad: Their largest share, in [0, 1].

    Raises:
        UserError: All clips are unusable, or a share of more than `max_bad`.
    """
    if len(bad) == count or len(bad) > max_bad * count:
        named = "; ".join(f"{item.name} {item.reason}" for item in bad[:5]) + ("; …" if len(bad) > 5 else "")
        limit = f", more than --max-bad {max_bad:g} allows" if len(bad) > max_bad * count else ""
        raise UserError(f"{len(bad)} of {count} files in {folder} are unusable{limit}: {named}")


def list_files(entry: Entry) -> list[Path]:
    """List the file of a clip, or the pictures in its folder."""
    path = Path(entry.media.path)
    if entry.media.kind != "frames":
        return [path]
    return sorted(path / name for name in pictures.names_in(entry.media))


def size_of(entry: Entry) -> int:
    """Return the size in bytes of a clip's file (in a tar, of its member), or of all pictures in its folder."""
    return entry.media.span[1] if entry.media.span else sum(path.stat().st_size for path in list_files(entry))


def checksum(entry: Entry) -> str:
    """Compute the SHA-256 of a clip's file (in a tar, of its member), or of the names and checksums in its folder."""
    if entry.media.kind == "frames":
        total = hashlib.sha256()
        for path in list_files(entry):
            total.update(f"{path.name}\0{checksum_of(path)}\n".encode())
        return f"sha256:{total.hexdigest()}"
    return checksum_of(Path(entry.media.path), entry.media.span)


def checksum_of(path: Path, span: tuple[int, int] | None = None) -> str:
    """Compute the SHA-256, as "sha256:…", of a file, or of `span` in it: its first byte and number of bytes."""
    stat = path.stat()
    return f"sha256:{_sha256(path, span or (0, stat.st_size), stat.st_mtime_ns)}"


@functools.lru_cache(1024)  # many clips may share a zip file
def _sha256(path: Path, span: tuple[int, int], _changed: int) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        begin, left = span
        file.seek(begin)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            total.update(block)
            left -= len(block)
    return total.hexdigest()
