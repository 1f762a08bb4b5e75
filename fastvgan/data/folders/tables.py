"""Tables of captions and classes in a folder, such as `captions.csv` and `metadata.jsonl`."""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fastvgan.data.folders.annotations import CAPTIONS, CLASSES, SUFFIXES, clean_captions, clean_label, find_value
from fastvgan.data.paths import LEADS_OUT, as_text, leads_out
from fastvgan.errors import UserError

Annotation = tuple[tuple[str, ...], str | None]
"""Captions and class of a clip."""
Table = dict[tuple[str, ...], Annotation]
"""Annotations by the clip's possible names below the root, the likeliest first."""

# `metadata` with `file_name` is Hugging Face's layout. Other programs write files of that name too, so it is used only
# if its columns fit.
_STEMS = ("captions", "metadata")
_SUFFIXES = (".csv", ".tsv", ".jsonl")
NAMES = frozenset(stem + suffix for stem in _STEMS for suffix in _SUFFIXES)

_FILE = (
    "file path file_name filename file_path filepath video video_path video_file video_name video_file_name video_id "
    "videoid clip clip_path clip_name"
).split()
TABLE_IN_ARCHIVE = (
    "is in an archive, where no table is read; put it beside the archive, and its name before those of the clips"
)
_DELIMITERS = ",;\t|"
_LONGEST_HEADER = 2**16  # characters
_QUOTES = "the quotes do not match; put a text that contains quotes into quotes, and double those in it"


def is_table(name: str) -> bool:
    """Return whether a file has the name of a table of captions."""
    return name.lower() in NAMES


def read_tables(root: Path, paths: Iterable[Path]) -> tuple[list[Table], list[Path], list[str]]:
    """Read the tables below a folder, those of outer folders first.

    Args:
        root: The folder that clips' names are relative to.
        paths: Files that `is_table` accepts.

    Returns:
        The tables, the files that are not tables of captions, and sentences on skipped tables.

    Raises:
        UserError: A folder has two tables of the same name, or a table is unusable.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        by_folder[path.parent].append(path)
    tables, others, remarks = [], [], []
    for folder in sorted(by_folder, key=lambda folder: (len(folder.parts), folder)):
        used: Path | None = None
        for stem in _STEMS:
            named = [path for path in by_folder[folder] if path.stem.lower() == stem]
            read = {path: _read(path, root, is_required=stem == _STEMS[0] and folder == root) for path in named}
            others += [path for path, table in read.items() if table is None]
            found = {path: table for path, table in read.items() if table is not None}
            if len(found) > 1:
                raise UserError(f"{folder} holds both {' and '.join(path.name for path in found)}; keep one of them")
            for path, table in found.items():
                if used is not None:
                    remarks.append(f"skipped {path.name}, since {used.name} beside it is used")
                else:
                    used = path
                    tables.append(table)
    return tables, others, remarks


def match_annotations(
    tables: Iterable[Table], known: set[str], files: set[str]
) -> tuple[dict[str, Annotation], list[str]]:
    """Match the rows of tables with the clips of a folder. Later tables override earlier ones.

    Args:
        tables: Result of `read_tables`.
        known: Names of all clips of the folder.
        files: Those of them whose suffix a table may leave out. Without its suffix, a name means all files that have
            it, as `clip.txt` does.

    Returns:
        The annotations by the clip's name, and the names in tables that no clip has.
    """
    exact, shortened = {name: [name] for name in known}, _by_stem(files)
    lookups = [exact, shortened, _by_composed(exact), _by_composed(shortened)]
    merged: dict[str, Annotation] = {}
    missing: dict[str, None] = {}
    for table in tables:
        annotations: dict[str, Annotation] = {}
        has_own = any(_find(lookups, names[:1]) for names in table)
        for names, (captions, label) in table.items():
            # A table of its folder's clips means no clip of the root that happens to have the same name.
            names = names[:1] if has_own and "/" not in names[-1] else names
            matches = _find(lookups, names)
            if not matches:
                missing[names[0]] = None
            for name in matches:
                before, label_before = annotations.get(name, ((), None))
                annotations[name] = before + captions, label or label_before
        for name, (captions, label) in annotations.items():
            before, label_before = merged.get(name, ((), None))
            merged[name] = captions or before, label or label_before
    return merged, list(missing)


def _find(lookups: Iterable[dict[str, list[str]]], names: Iterable[str]) -> list[str]:
    """The clips that a row means, by the first lookup that has one of its names."""
    forms = [*names, *(unicodedata.normalize("NFC", name) for name in names)]
    return next((lookup[name] for lookup in lookups for name in forms if name in lookup), [])


def _by_composed(lookup: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same by NFC, where it is unambiguous: macOS writes "é" as two characters, and other systems as one."""
    found: dict[str, list[list[str]]] = {}
    for name, clips in lookup.items():
        found.setdefault(unicodedata.normalize("NFC", name), []).append(clips)
    return {name: clips[0] for name, clips in found.items() if len(clips) == 1}


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        short, suffix = posixpath.splitext(name)
        if suffix:
            found.setdefault(short, []).append(name)
    return found


def _read(path: Path, root: Path, is_required: bool) -> Table | None:
    """Read a table; None if it has no captions or classes and is not required to have any."""
    table: Table = {}
    read_rows = _read_jsonl if path.suffix.lower() == ".jsonl" else _read_csv
    rows = read_rows(path, is_required)
    has_annotations = False
    try:
        for line, row in rows:
            names, captions, label = _parse_row(path, line, row, root)
            before, label_before = table.get(names, ((), None))
            table[names] = (before + captions, label or label_before)
            has_annotations = has_annotations or bool(captions or label)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}; write it as UTF-8 text") from error
    return table if has_annotations or is_required else None


def _detect_encoding(path: Path) -> str:
    """The encoding of a text, by its first bytes: Excel's "Unicode text" is UTF-16."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _read_csv(path: Path, is_required: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    encoding = _detect_encoding(path)
    delimiter, above = _find_header(path, encoding)
    if delimiter is None:
        if is_required:
            raise UserError(f"{path} must begin with a line of column names: file, and caption or class or both")
        return
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(above):
            file.readline()
        lines = io.StringIO(_strip_after_quotes(file.read(), delimiter), newline="")
        rows = _number_rows(path, csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), above)
        columns = [_column(name) for name in next(rows)[1]]
        for number, row in rows:
            if any(text.strip() for text in row[len(columns) :]):
                raise UserError(
                    f"{path}, line {number} has more cells than the header; put texts that contain "
                    f"{delimiter!r} into quotes"
                )
            if any(_holds_rows(text, delimiter) for text in row):
                raise UserError(f"{path}, line {number}: {_QUOTES}")
            cells: dict[str, list[str]] = defaultdict(list)
            for column, text in zip(columns, row, strict=False):
                if text.strip():
                    cells[column].append(text)
            if cells:  # spreadsheets write empty rows
                yield number, {name: texts if name in CAPTIONS else texts[0] for name, texts in cells.items()}


def _strip_after_quotes(text: str, delimiter: str) -> str:
    """Drop the blanks between a closing quote and the end of its cell, which csv's strict mode refuses."""
    end = re.escape(delimiter) + r"\r\n"
    return re.sub(rf'(?<![^{end}])( *"[^"]*(?:""[^"]*)*") *(?=[{end}]|\Z)', r"\1", text)


def _number_rows(path: Path, reader: Any, above: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, each with the number of its first line; `above` counts the lines that were read before."""
    number = above + 1
    try:
        for row in reader:
            yield number, row
            number = above + reader.line_num + 1
    except csv.Error as error:
        is_quote = "expected after" in str(error) or "unexpected end" in str(error)
        wrong = _QUOTES if is_quote else "a text cannot be read; shorten it, or close its quotes"
        raise UserError(f"{path}, line {number}: {wrong} ({error})") from error


def _holds_rows(cell: str, delimiter: str) -> bool:
    """Whether later lines of a quoted cell look like rows, as they do when a quote before them was not closed."""
    starts = [line.split(delimiter)[0] for line in cell.split("\n")[1:] if delimiter in line]
    return any(PurePosixPath(start.strip()).suffix.lower() in SUFFIXES for start in starts)


def _find_header(path: Path, encoding: str) -> tuple[str | None, int]:
    """The delimiter by which the header names a column for files and another one, and the number of lines above it."""
    above = 0
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        line = file.readline(_LONGEST_HEADER)
        # Excel's declaration of the delimiter.
        declared = re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n"))
        while line and (declared or not line.strip()) and above < 100:
            line, above = file.readline(_LONGEST_HEADER), above + 1
            if line.strip():
                break
    for delimiter in declared[1] if declared else _DELIMITERS:
        columns = {_column(name) for name in line.rstrip("\r\n").split(delimiter)}
        if columns & set(_FILE) and columns & {*CAPTIONS, *CLASSES}:
            return delimiter, above
    return None, above


def _column(name: str | None) -> str:
    return re.sub(r"[\s-]+", "_", (name or "").strip().strip('"').strip().lower())


def _read_jsonl(path: Path, is_required: bool) -> Iterator[tuple[int, Any]]:
    with path.open(encoding=_detect_encoding(path), newline="\n") as file:
        is_first = True
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if is_first and not is_required:
                    return
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error
            if isinstance(row, dict):
                row = {_column(key): value for key, value in row.items()}
            if is_first and not is_required and not (isinstance(row, dict) and row.keys() & set(_FILE)):
                return
            is_first = False
            yield number, row


def _parse_row(path: Path, line: int, row: Any, root: Path) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    given = find_value(row, _FILE) if isinstance(row, dict) else None
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str):
        raise UserError(f"{path}, line {line} names no file; add a `file` to each line")
    names = _possible_names(given, path, root)
    if not names:
        name = as_text(given.strip().replace("\\", "/"))
        raise UserError(f"{path}, line {line}: {name} {LEADS_OUT}")
    captions = find_value(row, CAPTIONS)
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}, line {line}: the caption must be a string or a list of strings")
    try:
        return names, clean_captions(captions), clean_label(find_value(row, CLASSES))
    except ValueError as error:
        raise UserError(f"{path}, line {line}: {error}") from error


def _possible_names(given: str, path: Path, root: Path) -> tuple[str, ...]:
    """The names below the root that a table may mean, the likeliest first; empty for a place outside the root.

    Paths are relative to the table's folder or to the root; absolute ones must be below the root.
    """
    name = posixpath.normpath(as_text(given.strip().replace("\\", "/")))
    for base in dict.fromkeys((root.absolute(), root.resolve())):
        above = posixpath.normpath(base.as_posix()).rstrip("/") + "/"
        if name.startswith(above):
            return (name[len(above) :],)
    beside = posixpath.normpath(posixpath.join(path.parent.relative_to(root).as_posix(), name))
    return tuple(name for name in dict.fromkeys((beside, name)) if not leads_out(name))
