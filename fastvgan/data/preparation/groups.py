"""Grouping clips into files, and writing each file once even if the process is stopped in between."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found
from fastvgan.data.media.types import Probe
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import UNFINISHED

MIB = 2**20
Results = tuple[list[Record], list[Rejected]]
# Settings that do not change the written files, or that signatures hold for each clip.
_UNRELATED = {"max_bad", "keep_free", "workers", "layout", "split_file", "strip_frames", "follow_links", "to"}


def group_by_size(clips: Iterable[Found], size_of: Callable[[Found], int], limit: int) -> Iterator[list[Found]]:
    """Group consecutive clips, at most `limit` bytes per group, but at least one clip.

    Args:
        clips: The clips.
        size_of: Returns a clip's size in bytes.
        limit: Bytes per group.
    """
    group: list[Found] = []
    size = 0
    for clip in clips:
        more = size_of(clip)
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group.append(clip)
        size += more
    if group:
        yield group


def run_once(journal: Journal, out: Path, path: Path, signature: object, make: Callable[[], Results]) -> Results:
    """Return the result of `make`, or the journal's if `make` has written this file with the same signature before.

    The journal's result is valid only while the file exists in its original size (or does not exist, if all clips were
    rejected), and only if no clip was rejected for a temporary reason.

    Args:
        journal: Finished files.
        out: The folder of the manifest.
        path: The file, below `out`.
        signature: Everything that the file depends on, as JSON values.
        make: Writes the file.
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
    # A clip that was unreadable may be readable next time. Then the file is known, but not finished.
    journal.add(name, signature if all(item.lasts for item in rejected) else None, result)
    return records, rejected


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def remove_stale(journal: Journal, out: Path, folder: Path, results: Results) -> None:
    """Remove files of earlier settings and unfinished files from a folder, but no files that others put there.

    Args:
        journal: Names of all files that were ever written.
        out: The folder of the manifest.
        folder: The folder of the files.
        results: The records whose files stay.
    """
    if not folder.is_dir():
        return
    keep = {record.path for record in results[0]}
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in keep and (
            name in journal.names() or UNFINISHED in path.name or UNFINISHED in path.parent.name
        ):
            path.unlink()


def compute_signature(group: Sequence[Found], sums: dict[str, str], settings: PrepareConfig) -> list[Any]:
    """List everything that a file of these clips depends on; `sums` are the clips' checksums by name."""
    names = [
        (clip.entry.name, sums[clip.entry.name], *_display_properties(clip.probe), *strip_facts(clip.entry))
        for clip in group
    ]
    return [settings.model_dump(mode="json", exclude=_UNRELATED), names]


def strip_facts(entry: Entry) -> tuple[str | int | None, ...]:
    """Return what the frames of a strip depend on besides its file; empty for other clips."""
    media = entry.media
    return (media.kind, media.strip_frames) if media.kind == "strip" else ()


def _display_properties(found: Probe) -> tuple[int | bool, ...]:
    # Empty by default, so that results from before these properties existed stay valid.
    default = (0, False, True, False, False)
    properties = (found.stream, found.mirrored, found.square_pixels, found.interlaced, found.transparent)
    return () if properties == default else properties


def merge_results(results: Iterable[Results], clips: Sequence[Found]) -> Results:
    """Merge records and rejects; the records get the current captions and classes of their clips."""
    entries = {clip.entry.name: clip.entry for clip in clips}
    records: list[Record] = []
    rejected: list[Rejected] = []
    for written, failed in results:
        for record in written:
            entry = entries[record.source]
            records.append(dataclasses.replace(record, captions=entry.captions, label=entry.label))
        rejected += failed
    return records, rejected
