"""Which files of a folder are clips, and what is said of them: captions and classes."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fastvgan.errors import UserError

SUFFIXES = frozenset(".mp4 .m4v .mov .webm .avi .mkv .gif .mpg .mpeg .ts .ogv .wmv .flv .3gp".split())


@dataclass(frozen=True)
class Entry:
    """A clip to be: its file, its captions, its class. `name` is the path below the folder."""

    path: Path
    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that takes no part, and why."""

    name: str
    reason: str


def find_clips(folder: Path) -> tuple[list[Entry], list[Rejected]]:
    """The video files below a folder with their captions and classes, and what was named but is not there.

    Captions come from `captions.csv` or `captions.jsonl` in the folder, else from `clip.txt` beside each `clip.mp4`;
    classes from those files, else from the first level of subfolders where there are two or more with clips.

    Raises:
        UserError: the folder is missing or holds no video file, or the captions file is unusable.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the data folder {folder} {state}; give a folder of video files, or `digits`")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder} holds no video file ({' '.join(sorted(SUFFIXES))}); give a folder of video files")
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    told = _captions_file(folder)
    told, missing = ({}, []) if told is None else _match(told, names)
    tops = {name.split("/")[0] for name in names if "/" in name}
    entries = []
    for name, path in names.items():
        captions, label = told.get(name, ((), None))
        if not captions:
            captions = _beside(path)
        if label is None and len(tops) > 1 and "/" in name:
            label = name.split("/")[0]
        entries.append(Entry(path, name, captions, label))
    return entries, missing


def _captions_file(folder: Path) -> "dict[str, tuple[tuple[str, ...], str | None]] | None":
    readers = {"captions.csv": _rows_of_csv, "captions.jsonl": _rows_of_jsonl}
    found = [folder / name for name in readers if (folder / name).is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{folder} holds both captions.csv and captions.jsonl; keep one of them")
    table: dict[str, tuple[tuple[str, ...], str | None]] = {}
    try:
        for line, row in readers[found[0].name](found[0]):
            name, captions, label = _row(found[0], line, row)
            before, label_before = table.get(name, ((), None))
            table[name] = (before + captions, label or label_before)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {found[0]}: {error}; write it as UTF-8 text") from error
    return table


def _rows_of_csv(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = {(name or "").strip().lower() for name in reader.fieldnames or ()}
        if not columns & {"file", "path"} or not columns & {"caption", "class"}:
            raise UserError(f"{path} must begin with a line of column names: file, and caption or class or both")
        for row in reader:
            yield reader.line_num, {(key or "").strip().lower(): value for key, value in row.items()}


def _rows_of_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error


def _row(path: Path, line: int, row) -> tuple[str, tuple[str, ...], str | None]:
    name = (row.get("file") or row.get("path")) if isinstance(row, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}, line {line} names no file; give each line a `file`")
    name = PurePosixPath(name.strip().replace("\\", "/")).as_posix()
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
        raise UserError(f"{path}, line {line}: {name} leads out of the folder; give paths below it")
    captions = row.get("caption")
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}, line {line}: the caption must be a text or a list of texts")
    label = row.get("class")
    return name, _cleaned(captions), str(label).strip() or None if label is not None else None


def _match(told: dict, names: dict) -> tuple[dict, list[Rejected]]:
    missing = [Rejected(name, "is named in the captions file but is not there") for name in told if name not in names]
    return told, missing


def _beside(path: Path) -> tuple[str, ...]:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return ()
    try:
        return _cleaned(text.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the caption {text}: {error}; write it as UTF-8 text") from error


def _cleaned(captions) -> tuple[str, ...]:
    return tuple(text for caption in captions if (text := " ".join(caption.split())))
