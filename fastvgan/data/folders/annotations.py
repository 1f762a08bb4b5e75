"""Captions in files beside clips, and normalization of captions and classes."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastvgan.data.paths import stays_within
from fastvgan.errors import UserError

# Files with other suffixes are opened, and used if they hold a video anyway.
SUFFIXES = frozenset(
    """.mp4 .m4v .mov .webm .avi .mkv .gif .mpg .mpeg .ts .ogv .wmv .flv .3gp .3g2 .asf .divx .dv .f4v .ivf .m1v .m2t
    .m2ts .m2v .mk3d .mjpeg .mjpg .mpe .mpv .mts .mxf .nut .ogm .qt .rm .rmvb .vob .wtv .y4m""".split()
)
# Names of columns and keys; the first one that is not empty counts.
CAPTIONS = "caption captions text texts description prompt sentence".split()
CLASSES = "class label class_name category".split()
_WORD = re.compile(r"\w")


def read_captions(text: Path, within: Path | None) -> tuple[str, ...]:
    """Read the captions, one per line, of a text file beside a clip; a missing file has none.

    Args:
        text: The text file.
        within: Resolved path of a folder; a link that leads out of it counts as missing. None follows every link.

    Raises:
        UserError: The file cannot be read.
    """
    if not is_there(text, within):
        return ()
    try:
        return clean_captions(text.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the caption {text}: {error}; write it as UTF-8 text") from error


def is_there(path: Path, within: Path | None) -> bool:
    """Return whether a path leads to a file, with `within` as in `read_captions`."""
    return path.is_file() and (within is None or stays_within(path, within))


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """Remove superfluous blanks from captions, and captions without a word."""
    return tuple(" ".join(_writable(caption).split()) for caption in captions if has_word(caption))


def has_word(caption: str) -> bool:
    """Return whether a caption has a letter or digit; one without counts as missing."""
    return _WORD.search(caption) is not None


def find_value(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the value under the first of these names that is neither empty nor NaN; None if all are."""
    for name in names:
        value = row.get(name)
        if not (value is None or _is_nan(value) or value == [] or (isinstance(value, str) and not value.strip())):
            return value
    return None


def clean_label(value: Any) -> str | None:
    """Convert a class to text without surrounding blanks; None if it is empty, NaN or missing.

    Raises:
        ValueError: It is a list or an object.
    """
    if isinstance(value, list | dict):
        raise ValueError(f"the class must be a string or a number, not {_writable(str(value)[:80])}")
    return None if value is None or _is_nan(value) else _writable(str(value)).strip() or None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _writable(text: str) -> str:
    # JSON can hold lone surrogates, which UTF-8 files cannot.
    return text.encode("utf-8", "replace").decode()
