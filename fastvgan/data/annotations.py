"""What is said of clips in files of text: captions and classes."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fastvgan.data.entry import as_text, stays_within
from fastvgan.errors import UserError

# Files of other suffixes are looked into, and taken where they hold a video all the same.
SUFFIXES = frozenset(
    """.mp4 .m4v .mov .webm .avi .mkv .gif .mpg .mpeg .ts .ogv .wmv .flv .3gp .3g2 .asf .divx .dv .f4v .ivf .m1v .m2t
    .m2ts .m2v .mk3d .mjpeg .mjpg .mpe .mpv .mts .mxf .nut .ogm .qt .rm .rmvb .vob .wtv .y4m""".split()
)

CAPTIONS_FILES = ("captions.csv", "captions.jsonl")


def captions_file(folder: Path, within: Path | None) -> "dict[str, tuple[tuple[str, ...], str | None]] | None":
    """Captions and class by the clip's name, from captions.csv or captions.jsonl; None where there is neither.

    Args:
        within: as of `captions_of`.

    Raises:
        UserError: there are both, or what there is cannot be used.
    """
    readers = dict(zip(CAPTIONS_FILES, (_rows_of_csv, _rows_of_jsonl), strict=True))
    found = [folder / name for name in readers if _is_there(folder / name, within)]
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
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error


def _row(path: Path, line: int, row) -> tuple[str, tuple[str, ...], str | None]:
    name = (row.get("file") or row.get("path")) if isinstance(row, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}, line {line} names no file; give each line a `file`")
    name = as_text(PurePosixPath(name.strip().replace("\\", "/")).as_posix())
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
        raise UserError(f"{path}, line {line}: {name} leads out of the folder; give paths below it")
    captions = row.get("caption")
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}, line {line}: the caption must be a text or a list of texts")
    return name, cleaned(captions), cleaned_label(row.get("class"))


def captions_of(text: Path, within: Path | None) -> tuple[str, ...]:
    """The captions of a file that lies beside a clip, one a line; none where there is no such file.

    Args:
        within: the real place of a folder; a link that leads out of it is passed over. None follows all.

    Raises:
        UserError: it cannot be read.
    """
    if not _is_there(text, within):
        return ()
    try:
        return cleaned(text.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the caption {text}: {error}; write it as UTF-8 text") from error


def _is_there(path: Path, within: Path | None) -> bool:
    return path.is_file() and (within is None or stays_within(path, within))


def cleaned(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions without needless blanks, and without empty ones."""
    return tuple(text for caption in captions if (text := " ".join(_writable(caption).split())))


def cleaned_label(value: Any) -> str | None:
    """A class as text, without blanks around it; None where nothing is said."""
    return None if value is None else _writable(str(value)).strip() or None


def _writable(text: str) -> str:
    # JSON can hold halves of characters, which no file can.
    return text.encode("utf-8", "replace").decode()
