"""Tables that say what is in the clips of a folder: `captions.csv`, `metadata.jsonl` and the like."""

import csv
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastvgan.data.folders.annotations import clean_label, cleaned
from fastvgan.data.paths import LEADS_OUT, as_text, leads_out
from fastvgan.errors import UserError

Said = tuple[tuple[str, ...], str | None]
"""Captions and the class of a clip."""
Table = dict[tuple[str, ...], Said]
"""What is said of a clip, by the names that it may have below the root, the likeliest first."""

# `metadata` with `file_name` is Hugging Face's layout; a program may have left a file of that name that is no table of
# clips, so that it is only taken where its columns say so.
_STEMS = ("captions", "metadata")
_SUFFIXES = (".csv", ".tsv", ".jsonl")
NAMES = frozenset(stem + suffix for stem in _STEMS for suffix in _SUFFIXES)

# Names of columns; of several that a table has, the first counts that holds something.
_FILE = (
    "file path file_name filename file_path filepath video video_path video_file video_name video_file_name video_id "
    "videoid clip clip_path clip_name"
).split()
_CAPTION = "caption captions text texts description prompt sentence".split()
_CLASS = "class label class_name category".split()
_DELIMITERS = ",;\t|"
_LONGEST_HEADER = 2**16  # characters


def is_table(name: str) -> bool:
    """Whether a file of that name may say what is in the clips of its folder."""
    return name.lower() in NAMES


def read_tables(root: Path, paths: Iterable[Path]) -> tuple[list[Table], list[Path], list[str]]:
    """What the tables below a folder say, the outermost folder's first.

    Args:
        root: the folder that clips' names are told below. paths: files whose names `is_table` takes.

    Returns:
        The tables, the files that are none, and sentences on tables that are passed over.

    Raises:
        UserError: there are two tables of one name in a folder, or a table cannot be used.
    """
    of_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        of_folder[path.parent].append(path)
    tables, no_tables, remarks = [], [], []
    for folder in sorted(of_folder, key=lambda folder: (len(folder.parts), folder)):
        taken: list[Path] = []
        for stem in _STEMS:
            named = [path for path in of_folder[folder] if path.stem.lower() == stem]
            found = {path: _read(path, root, must=stem == _STEMS[0] and folder == root) for path in named}
            no_tables += [path for path, table in found.items() if table is None]
            found = {path: table for path, table in found.items() if table is not None}
            if len(found) > 1:
                raise UserError(f"{folder} holds both {' and '.join(path.name for path in found)}; keep one of them")
            for path, table in found.items():
                if taken:
                    remarks.append(
                        f"passed over {path.name}, since {taken[0].name} beside it says what is in the clips"
                    )
                else:
                    taken.append(path)
                    tables.append(table)
    return tables, no_tables, remarks


def match_annotations(tables: Iterable[Table], known: set[str], files: set[str]) -> tuple[dict[str, Said], list[str]]:
    """What tables say by the clip's name, the last one that speaks of it counting, and names that are not there.

    Args:
        tables: as `read_tables` gives them. known: the names of all that is there. files: of those, the ones whose
            suffix may be left out; a name without suffix means all files of it, as `clip.txt` does.
    """
    shortened = _without_suffix(files)
    told: dict[str, Said] = {}
    missing: dict[str, None] = {}
    for table in tables:
        said: dict[str, Said] = {}
        for names, (captions, label) in table.items():
            exact = [[name] for name in names if name in known]
            meant = [*exact, *(shortened[name] for name in names if name in shortened)]
            if not meant:
                missing[names[0]] = None
            for name in meant[0] if meant else ():
                before, label_before = said.get(name, ((), None))
                said[name] = before + captions, label or label_before
        for name, (captions, label) in said.items():
            before, label_before = told.get(name, ((), None))
            told[name] = captions or before, label or label_before
    return told, list(missing)


def _without_suffix(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        short, suffix = posixpath.splitext(name)
        if suffix:
            found.setdefault(short, []).append(name)
    return found


def _read(path: Path, root: Path, must: bool) -> Table | None:
    """A table; None where it says nothing of clips, unless it `must`."""
    table: Table = {}
    rows = _rows_of_jsonl(path, must) if path.suffix.lower() == ".jsonl" else _rows_of_csv(path, must)
    says = False
    try:
        for line, row in rows:
            names, captions, label = _row(path, line, row, root)
            before, label_before = table.get(names, ((), None))
            table[names] = (before + captions, label or label_before)
            says = says or bool(captions or label)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; write it as UTF-8 text") from error
    return table if says or must else None


def _encoding(path: Path) -> str:
    """Of a text by its first bytes: Excel's "Unicode text" is UTF-16."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _rows_of_csv(path: Path, must: bool) -> Iterator[tuple[int, dict]]:
    encoding = _encoding(path)
    delimiter, above = _header(path, encoding)
    if delimiter is None:
        if must:
            raise UserError(f"{path} must begin with a line of column names: file, and caption or class or both")
        return
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(above):
            file.readline()
        for number, row in _cells(csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)):
            if any(text and text.strip() for text in row.pop(None, ())):
                raise UserError(
                    f"{path}, line {number + above} has more cells than there are columns; put texts that hold "
                    f"{delimiter!r} into quotes"
                )
            row = {_column(key): value for key, value in row.items()}
            if any(value and value.strip() for value in row.values()):  # spreadsheets write rows of nothing
                yield number + above, row


def _cells(reader: csv.DictReader) -> Iterator[tuple[int, dict]]:
    for row in reader:
        yield reader.line_num, row


def _header(path: Path, encoding: str) -> tuple[str | None, int]:
    """The delimiter under which the first line names a file's column and another, and how many lines are above it."""
    above = 0
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        line = file.readline(_LONGEST_HEADER)
        # Excel's way to say the delimiter.
        said = re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n"))
        while line and (said or not line.strip()) and above < 100:
            line, above = file.readline(_LONGEST_HEADER), above + 1
            if line.strip():
                break
    for delimiter in said[1] if said else _DELIMITERS:
        columns = {_column(name) for name in line.rstrip("\r\n").split(delimiter)}
        if columns & set(_FILE) and columns & {*_CAPTION, *_CLASS}:
            return delimiter, above
    return None, above


def _column(name: str | None) -> str:
    return re.sub(r"[\s-]+", "_", (name or "").strip().strip('"').strip().lower())


def _rows_of_jsonl(path: Path, must: bool) -> Iterator[tuple[int, Any]]:
    with path.open(encoding=_encoding(path), newline="\n") as file:
        is_first = True
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if is_first and not must:
                    return
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error
            if isinstance(row, dict):
                row = {_column(key): value for key, value in row.items()}
            if is_first and not must and not (isinstance(row, dict) and row.keys() & set(_FILE)):
                return
            is_first = False
            yield number, row


def _row(path: Path, line: int, row: Any, root: Path) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    given = _first(row, _FILE) if isinstance(row, dict) else None
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str):
        raise UserError(f"{path}, line {line} names no file; give each line a `file`")
    names = _names(given, path, root)
    if not names:
        name = as_text(given.strip().replace("\\", "/"))
        raise UserError(f"{path}, line {line}: {name} {LEADS_OUT}")
    captions = _first(row, _CAPTION)
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}, line {line}: the caption must be a text or a list of texts")
    return names, cleaned(captions), clean_label(_first(row, _CLASS))


def _first(row: dict, columns: Iterable[str]) -> Any:
    """What the first of these columns holds that holds something; None where there is none."""
    for column in columns:
        value = row.get(column)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            return value
    return None


def _names(given: str, path: Path, root: Path) -> tuple[str, ...]:
    """The names below the root that a table may mean, the likeliest first; none where it means what lies elsewhere.

    Paths are below the table's own folder, or the root; absolute ones count where they lie in the root.
    """
    name = posixpath.normpath(as_text(given.strip().replace("\\", "/")))
    for base in dict.fromkeys((root.absolute(), root.resolve())):
        above = posixpath.normpath(base.as_posix()).rstrip("/") + "/"
        if name.startswith(above):
            return (name[len(above) :],)
    beside = posixpath.normpath(posixpath.join(path.parent.relative_to(root).as_posix(), name))
    return tuple(name for name in dict.fromkeys((beside, name)) if not leads_out(name))
