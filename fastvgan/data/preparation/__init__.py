"""Preparation of a folder of clips for training: the work of `python -m fastvgan.prepare`."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.layouts import Layout, Scan, scan
from fastvgan.data.folders.manifest import MANIFEST, REJECTS, Record, is_manifest, write_lines, write_manifest
from fastvgan.data.folders.survey import (
    Found,
    check_share,
    checksum,
    divide,
    examine,
    list_files,
    map_in_threads,
    notes,
    size_of,
)
from fastvgan.data.preparation.groups import strip_facts
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.errors import UserError
from fastvgan.files.lock import FolderLock

if TYPE_CHECKING:
    from fastvgan.data.preparation.groups import Results

__all__ = ["Prepared", "PrepareConfig", "prepare"]

logger = logging.getLogger("fastvgan")

_JOURNALS = ".prepare"
_IN_USE = "{holder} is preparing clips into {folder.parent}; wait until it has ended, or choose another folder"
_VERSION = 3  # of the check of a clip; raising it makes every clip be checked again


class Prepared(NamedTuple):
    """The result of `prepare`: clips of the manifest, rejected files, remarks, and the manifest's root."""

    records: list[Record]
    rejected: list[Rejected]
    remarks: list[str]
    root: str


def prepare(source: Path, out: Path, settings: PrepareConfig) -> Prepared:
    """Check every clip of a folder by decoding it in full; write the manifest, the rejects and the prepared files.

    It may be stopped at any moment and called again: finished work is not repeated, and the result is the same.

    Args:
        source: The folder of clips, or one file of clips; nothing in it is changed.
        out: The folder to write to; it may be `source` only if nothing but a manifest is written.
        settings: What to write.

    Raises:
        UserError: The folder is unusable or has too many unusable clips, the disk is too full, `out` is not writable,
            or another process prepares clips into it.
    """
    _check_out(source, out, settings.to)
    layout = Layout(settings.layout, settings.split_file, settings.strip_frames, settings.follow_links)
    scanned = scan(source, layout, _output_folder(source, out, settings.to))
    source = source if source.is_dir() else source.parent
    with _lock_journals(out) as journals:
        return _prepare(source, out, settings, scanned, journals)


def _prepare(source: Path, out: Path, settings: PrepareConfig, scanned: Scan, journals: Path) -> Prepared:
    entries, rejected, remarks = scanned
    checked = _check_all(entries, source, settings, Journal(journals / "checked.jsonl"))
    good, bad = divide(result for result, _ in checked)
    check_share(source, len(entries), bad, settings.max_bad)
    sums = {result.entry.name: total for result, total in checked if isinstance(result, Found)}
    root = "." if out.resolve() == source.resolve() else str(source.resolve())
    if settings.to == "manifest":
        records, failed = [record(clip, source, sums[clip.entry.name]) for clip in good], []
    else:
        journal = journals / f"{settings.to}.jsonl"
        journal.touch()  # before anything else is written: `_check_out` accepts the folder next time because of it
        records, failed = _writer(settings.to)(out, good, sums, settings, Journal(journal))
        root = "."
    rejected = sorted([*rejected, *bad, *failed], key=lambda item: item.name)
    _write(out, records, rejected, root)
    remarks += [note for clip in good for note in notes(clip, is_made_constant=settings.to != "manifest")]
    return Prepared(records, rejected, remarks, root)


def record(clip: Found, source: Path, total: str) -> Record:
    """Make the manifest's record of a clip whose file is not copied.

    Args:
        clip: The clip.
        source: The manifest's root.
        total: The clip's checksum.
    """
    media, found = clip.entry.media, clip.probe
    return Record(
        path=Path(media.path).relative_to(source).as_posix(),
        kind=media.kind,
        frames=found.frames,
        height=found.height,
        width=found.width,
        codec=found.codec,
        fps=found.fps,
        steady=found.steady,
        rotation=found.rotation,
        captions=clip.entry.captions,
        label=clip.entry.label,
        checksum=total,
        bytes=size_of(clip.entry),
        member=media.member,
        span=media.span,
        strip_frames=media.strip_frames,
        pts=found.pts,
        keys=found.keys,
        colours=found.colours,
        stream=found.stream,
        mirrored=found.mirrored,
        square_pixels=found.square_pixels,
        interlaced=found.interlaced,
        transparent=found.transparent,
    )


def _check_out(source: Path, out: Path, to: str) -> None:
    """Refuse to overwrite the clips, or files that `prepare` did not write."""
    if to != "manifest" and out.resolve() == source.resolve():
        raise UserError(f"{out} is the folder of clips itself; choose another folder for the {to}")
    target = out / to
    if to != "manifest" and (source.resolve() == target.resolve() or target.resolve() in source.resolve().parents):
        raise UserError(f"{to} would be written to {target}, which contains {source}; choose another folder than {out}")
    if target.is_dir() and any(target.iterdir()) and not (out / _JOURNALS / f"{to}.jsonl").exists():
        raise UserError(f"{target} holds files that were not written by prepare; choose another folder than {out}")
    manifest = out / MANIFEST
    if manifest.is_file() and not is_manifest(manifest):
        raise UserError(f"{manifest} was not written by prepare; move it, or choose another folder than {out}")


def _output_folder(source: Path, out: Path, to: str) -> Path:
    """The folder that is written to, which the scan of `source` skips."""
    real = source.resolve()
    return out / to if out.resolve() in (real, *real.parents) else out


@contextmanager
def _lock_journals(out: Path) -> Iterator[Path]:
    """Yield the folder of the journals, in which no other process works until the block ends."""
    journals = out / _JOURNALS
    try:
        journals.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(journals, _IN_USE)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another folder") from error
    try:
        yield journals
    finally:
        lock.release()


def _check_all(
    entries: Sequence[Entry], source: Path, settings: PrepareConfig, journal: Journal
) -> list[tuple[Found | Rejected, str]]:
    """Check each entry; return the result and the checksum of the file ("" if it was rejected)."""

    def check(entry: Entry) -> tuple[Found | Rejected, str]:
        try:
            signature = _signature(entry, settings)
            known = journal.get(entry.name, signature)
            result = known or _check_entry(entry, source, settings)
        except OSError as error:
            return Rejected(entry.name, f"cannot be read: {error.strerror or error}", lasts=False), ""
        if isinstance(result, Rejected):
            return result, ""
        if known is None:
            journal.add(entry.name, signature, result)
        if "reason" in result:
            return Rejected(entry.name, result["reason"]), ""
        record = Record.from_json(result)
        return Found(entry, record.found), record.checksum

    return list(map_in_threads(check, entries, "checking files", settings.workers or None))


def _signature(entry: Entry, settings: PrepareConfig) -> list[Any]:
    """Everything that the check of a clip depends on."""
    media = [entry.media.member, entry.media.span, entry.media.strip_frames]
    stats = [path.stat() for path in list_files(entry)]
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    return [_VERSION, settings.tolerant, settings.min_frames, [*media, *strip_facts(entry)[:1]], facts]


def _check_entry(entry: Entry, source: Path, settings: PrepareConfig) -> dict[str, Any] | Rejected:
    """Check a clip; return JSON values for the journal, or Rejected if it has to be checked again next time."""
    total = checksum(entry)  # before decoding: FFmpeg takes some read errors for the end of the file
    result = examine(entry, settings.tolerant, settings.min_frames)
    if isinstance(result, Rejected):
        return {"reason": result.reason} if result.lasts else result
    # Captions and classes may change while the file does not, so the journal holds neither.
    bare = Found(dataclasses.replace(entry, captions=(), label=None), result.probe)
    return record(bare, source, total).to_json()


def _writer(to: str) -> Callable[[Path, Sequence[Found], dict[str, str], PrepareConfig, Journal], "Results"]:
    if to == "clips":
        from fastvgan.data.preparation.clip_files import write_clips

        return write_clips
    if to == "shards":
        from fastvgan.data.preparation.shard_files import write_shards

        return write_shards
    from fastvgan.data.preparation.tar_files import write_tars

    return write_tars


def _write(out: Path, records: list[Record], rejected: list[Rejected], root: str) -> None:
    if not records:
        raise UserError(f"no clip could be written to {out}: {rejected[0].name} {rejected[0].reason}; …")
    write_lines(out / REJECTS, ({"path": item.name, "reason": item.reason} for item in rejected))
    write_manifest(out / MANIFEST, records, root)
