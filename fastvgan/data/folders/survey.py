"""Looking through a folder of clips: each is decoded from end to end, side by side, and judged."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from fastvgan.data.folders.layouts import Entry, Rejected
from fastvgan.data.media import pictures
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import BadVideo, Probe, check
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors

_BLOCK = 2**20  # bytes
Given, Made = TypeVar("Given"), TypeVar("Made")


class Found(NamedTuple):
    """A clip that can be used."""

    entry: Entry
    probe: Probe


def examine(entry: Entry, tolerant: bool = False, min_frames: int = 2) -> Found | Rejected:
    """Decode a clip from end to end.

    Args:
        tolerant: take frames that the decoder mended. min_frames: with fewer it is no clip.
    """
    try:
        found = probe(entry.media, tolerant)
        check(found)
        check_length(found.frames, min_frames)
    except BadVideo as error:
        return Rejected.because(entry.name, error)
    return Found(entry, found)


def check_length(frames: int, least: int, fps: float | None = None) -> None:
    """Refuse a clip of fewer frames than `least`; `fps`, if they were changed to another rate, is that.

    Raises:
        BadVideo: it has fewer.
    """
    if frames < least:
        count = "one frame" if frames == 1 else f"{frames} frames"
        rate = f" at {fps:g} a second" if fps else ""
        raise BadVideo(f"has {count} only{rate}, of at least {least}")


def map_in_threads(
    work: Callable[[Given], Made], items: Iterable[Given], what: str, workers: int | None = None
) -> Iterator[Made]:
    """work(item) for each, in order, several at a time, with a progress bar named `what`.

    In threads, not processes: FFmpeg and hashlib do their work outside Python's lock.
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


def unsteady(clip: Found, made_constant: bool = False) -> str | None:
    """A sentence on a clip of variable frame rate, whose frames lie differently far apart in time."""
    if clip.probe.steady:
        return None
    mean = f"{clip.probe.fps:g} frames a second in the mean" if clip.probe.fps else "of unknown mean"
    end = "made constant" if made_constant else "its frames are counted, whatever time lies between them"
    return f"{clip.entry.name}: has a variable frame rate, {mean}; {end}"


def notes(clip: Found, made_constant: bool = False) -> list[str]:
    """What there is to say of a clip that is used: of its rate, and of fields that are made into frames."""
    said = [unsteady(clip, made_constant)]
    if clip.probe.interlaced:
        said.append(f"{clip.entry.name}: is interlaced; FFmpeg's filter bwdif makes one frame of each two fields")
    return [note for note in said if note]


def divide(results: Iterable[Found | Rejected]) -> tuple[list[Found], list[Rejected]]:
    """The clips that can be used, and those that cannot."""
    good, bad = [], []
    for result in results:
        (bad if isinstance(result, Rejected) else good).append(result)
    return good, bad


def check_share(folder: Path, count: int, bad: list[Rejected], max_bad: float) -> None:
    """Refuse a folder of which too much is unusable.

    Raises:
        UserError: more than the share `max_bad` of its `count` clips is, or all of it.
    """
    if len(bad) == count or len(bad) > max_bad * count:
        named = "; ".join(f"{item.name} {item.reason}" for item in bad[:5]) + ("; …" if len(bad) > 5 else "")
        raise UserError(
            f"{len(bad)} of {count} files in {folder} are unusable, more than --max-bad {max_bad:g} allows: {named}"
        )


def files_of(entry: Entry) -> list[Path]:
    """The file of a clip, or the pictures of its folder."""
    path = Path(entry.media.path)
    if entry.media.kind != "frames":
        return [path]
    return sorted(path / name for name in pictures.names_in(entry.media))


def size_of(entry: Entry) -> int:
    """Bytes of a clip's file (in a tar, of its member); of a folder, of its pictures together."""
    return entry.media.span[1] if entry.media.span else sum(path.stat().st_size for path in files_of(entry))


def checksum(entry: Entry) -> str:
    """SHA-256 of a clip's file (in a tar, of its member); of a folder, of its files' names and their sums in order."""
    if entry.media.kind == "frames":
        total = hashlib.sha256()
        for path in files_of(entry):
            total.update(f"{path.name}\0{checksum_of(path)}\n".encode())
        return f"sha256:{total.hexdigest()}"
    return checksum_of(Path(entry.media.path), entry.media.span)


def checksum_of(path: Path, span: tuple[int, int] | None = None) -> str:
    """SHA-256 of a file, or of `span` in it, where it begins and how long it is in bytes: "sha256:…"."""
    stat = path.stat()
    return f"sha256:{_sha256(path, span or (0, stat.st_size), stat.st_mtime_ns)}"


@functools.lru_cache(1024)  # a zip file holds many clips
def _sha256(path: Path, span: tuple[int, int], _changed: int) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        begin, left = span
        file.seek(begin)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            total.update(block)
            left -= len(block)
    return total.hexdigest()
