"""A folder of clips of any kind, checked once and written down: what `python -m fastvgan.prepare` does."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastvgan.data.folders.layouts import Entry, Layout, Rejected, scan
from fastvgan.data.folders.manifest import MANIFEST, REJECTS, Record, is_manifest, write_lines, write_manifest
from fastvgan.data.folders.survey import (
    Found,
    check_share,
    checksum,
    divide,
    examine,
    files_of,
    map_in_threads,
    notes,
    size_of,
)
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.errors import UserError

__all__ = ["Prepared", "PrepareConfig", "prepare"]

logger = logging.getLogger("fastvgan")

_JOURNALS = ".prepare"
_VERSION = 3  # of what is looked for in a file; a change makes all files be looked through again


class Prepared(NamedTuple):
    """What came of a folder: the clips of the manifest, what was rejected, and what else there is to say."""

    records: list[Record]
    rejected: list[Rejected]
    remarks: list[str]
    root: str


def prepare(source: Path, out: Path, settings: PrepareConfig) -> Prepared:
    """Check every clip of a folder by decoding it in full, and write manifest, rejects and what else is asked for.

    It can be stopped at any moment and called again: what is done is not done again, and the result is the same.

    Args:
        source: the folder of clips, or one file of them; nothing in it is changed. out: the folder to write to;
            `source` itself only for a manifest alone.

    Raises:
        UserError: the folder is unusable, too much of it is, the disk is too full, or `out` cannot be written.
    """
    _check_out(source, out, settings.to)
    layout = Layout(settings.layout, settings.split_file, settings.strip_frames, settings.follow_links)
    entries, rejected, remarks = scan(source, layout, _written(source, out, settings.to))
    source = source if source.is_dir() else source.parent
    journals = _make_folders(out)
    checked = _check_all(entries, source, settings, Journal(journals / "checked.jsonl"))
    good, bad = divide(result for result, _ in checked)
    check_share(source, len(entries), bad, settings.max_bad)
    sums = {result.entry.name: total for result, total in checked if isinstance(result, Found)}
    root = "." if out.resolve() == source.resolve() else str(source.resolve())
    if settings.to == "manifest":
        records, failed = [record(clip, source, sums[clip.entry.name]) for clip in good], []
    else:
        journal = journals / f"{settings.to}.jsonl"
        journal.touch()  # before anything is written: by this `_check_out` knows the next time that it is ours
        made = _writer(settings.to)(out, good, sums, settings, Journal(journal))
        (records, failed), root = made, "."
    rejected = sorted([*rejected, *bad, *failed], key=lambda item: item.name)
    _write(out, records, rejected, root)
    remarks += [note for clip in good for note in notes(clip, made_constant=settings.to != "manifest")]
    return Prepared(records, rejected, remarks, root)


def record(clip: Found, source: Path, total: str) -> Record:
    """The line of a manifest for a clip that stays where it is, below `source`; `total` is its checksum."""
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
    """Refuse to write where that would touch the clips, or anything that is not ours."""
    if to != "manifest" and out.resolve() == source.resolve():
        raise UserError(f"{out} is the folder of clips itself; name another one to write {to} to")
    target = out / to
    if to != "manifest" and (source.resolve() == target.resolve() or target.resolve() in source.resolve().parents):
        raise UserError(f"{to} are written to {target}, and {source} lies there; name another folder than {out}")
    if target.is_dir() and any(target.iterdir()) and not (out / _JOURNALS / f"{to}.jsonl").exists():
        raise UserError(f"{target} holds files that were not written by prepare; name another folder than {out}")
    manifest = out / MANIFEST
    if manifest.is_file() and not is_manifest(manifest):
        raise UserError(f"{manifest} is there and no manifest of ours; move it, or name another folder than {out}")


def _written(source: Path, out: Path, to: str) -> Path:
    """The folder of what is written, which is no part of `source` even where it lies in it."""
    real = source.resolve()
    return out / to if out.resolve() in (real, *real.parents) else out


def _make_folders(out: Path) -> Path:
    try:
        (out / _JOURNALS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; name another folder") from error
    return out / _JOURNALS


def _check_all(entries: Sequence[Entry], source: Path, settings: PrepareConfig, journal: Journal) -> list:
    """Found or Rejected for each entry, with its checksum ("" where it was rejected)."""

    def check(entry: Entry):
        try:
            signature = _signature(entry, settings)
            known = journal.get(entry.name, signature)
            made = known or _examined(entry, source, settings)
        except OSError as error:
            return Rejected(entry.name, f"cannot be read: {error.strerror or error}", lasts=False), ""
        if isinstance(made, Rejected):
            return made, ""
        if known is None:
            journal.add(entry.name, signature, made)
        if "reason" in made:
            return Rejected(entry.name, made["reason"]), ""
        record = Record.from_json(made)
        return Found(entry, record.found), record.checksum

    return list(map_in_threads(check, entries, "checking files", settings.workers or None))


def _signature(entry: Entry, settings: PrepareConfig) -> list:
    """What the result of looking through a clip depends on."""
    media = [entry.media.member, entry.media.span, entry.media.strip_frames]
    stats = [path.stat() for path in files_of(entry)]
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    return [_VERSION, settings.tolerant, settings.min_frames, media, facts]


def _examined(entry: Entry, source: Path, settings: PrepareConfig) -> dict | Rejected:
    """What is to be taken down of a clip; Rejected where it is to be looked at again the next time."""
    total = checksum(entry)  # first: FFmpeg takes some errors of reading for the end of the file
    result = examine(entry, settings.tolerant, settings.min_frames)
    if isinstance(result, Rejected):
        return {"reason": result.reason} if result.lasts else result
    # Captions and classes may change while the file does not: they are not kept.
    bare = Found(dataclasses.replace(entry, captions=(), label=None), result.probe)
    return record(bare, source, total).to_json()


def _writer(to: str) -> Callable:
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
        raise UserError(f"not one clip could be written to {out}: {rejected[0].name} {rejected[0].reason}; …")
    write_lines(out / REJECTS, ({"path": item.name, "reason": item.reason} for item in rejected))
    write_manifest(out / MANIFEST, records, root)
