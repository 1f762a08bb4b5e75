"""Clips that go into one file together, and the files made of them: each once, whatever stops the process."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fastvgan.data.folders.layouts import Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found
from fastvgan.data.media.types import Probe
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import UNFINISHED

MIB = 2**20
Made = tuple[list[Record], list[Rejected]]
# What does not change a byte of what is written.
_FREE = {"max_bad", "keep_free", "workers", "layout", "split_file", "strip_frames", "follow_links", "to"}


def by_size(clips: Iterable[Found], size_of: Callable[[Found], int], limit: int) -> Iterator[list[Found]]:
    """Clips in order, as many to a group as stay below `limit` bytes, but at least one."""
    group, size = [], 0
    for clip in clips:
        more = size_of(clip)
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group.append(clip)
        size += more
    if group:
        yield group


def once(journal: Journal, out: Path, path: Path, signature: object, make: Callable[[], Made]) -> Made:
    """What `make` gives, or what it gave when it was called for this file under the same signature and came to its end.

    The result counts only as long as the file, below `out`, is there in the size it was written with; where all of a
    group was rejected there is none. Nor does it count where a clip was rejected for a reason that may not last.
    """
    name = path.relative_to(out).as_posix()
    before = journal.get(name, signature)
    if before is not None and before["size"] == _size(path):
        records = [Record.from_json(values) for values in before["records"]]
        return records, [Rejected(*values) for values in before["rejected"]]
    records, rejected = make()
    result = {
        "size": _size(path) if records else None,
        "records": [record.to_json() for record in records],
        "rejected": [(item.name, item.reason) for item in rejected],
    }
    # What could not be read may be the next time: the file is ours, but not done.
    journal.add(name, signature if all(item.lasts for item in rejected) else None, result)
    return records, rejected


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def remove_others(journal: Journal, out: Path, folder: Path, made: Made) -> None:
    """Remove what earlier settings, or an end before its time, left in a folder: files in the journal, unfinished ones.

    What belongs to `made` stays, and whatever else somebody has put there.
    """
    if not folder.is_dir():
        return
    keep = {record.path for record in made[0]}
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in keep and (
            name in journal.names() or UNFINISHED in path.name or UNFINISHED in path.parent.name
        ):
            path.unlink()


def signature_of(group: Sequence[Found], sums: dict[str, str], settings: PrepareConfig) -> list:
    """What a file made of these clips depends on; `sums` are their checksums by name."""
    names = [(clip.entry.name, sums[clip.entry.name], *_how_shown(clip.probe)) for clip in group]
    return [settings.model_dump(mode="json", exclude=_FREE), names]


def _how_shown(found: Probe) -> tuple:
    # Empty for plain files, whose results from before these were heeded still hold; rotation was heeded already.
    plain = (0, False, True, False, False)
    shown = (found.stream, found.mirrored, found.square_pixels, found.interlaced, found.transparent)
    return () if shown == plain else shown


def together(results: Iterable[Made], clips: Sequence[Found]) -> Made:
    """All records and rejects, the records with the captions and classes that their clips have today."""
    entries = {clip.entry.name: clip.entry for clip in clips}
    records, rejected = [], []
    for made, failed in results:
        for record in made:
            entry = entries[record.source]
            records.append(dataclasses.replace(record, captions=entry.captions, label=entry.label))
        rejected += failed
    return records, rejected
