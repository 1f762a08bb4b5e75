"""What files and folders are by their names: pictures, hidden ones, what is no data, and the order of pictures."""

import os
import re
from collections.abc import Iterable

SUFFIXES = frozenset(".png .apng .jpg .jpeg .bmp .webp .tif .tiff .ppm".split())
# Of Windows, Linux, Synology, QNAP, and programs that show pictures.
_NO_DATA = frozenset(
    "$recycle.bin recycler recycled #recycle @recycle @recently-snapshot trash lost+found found.000 @eadir "
    "thumbs thumb thumbnail thumbnails _thumbs _thumbnails".split()
) | {"system volume information"}


def is_picture(name: str) -> bool:
    """Whether a file of that name is taken for a picture; hidden ones are not."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over: a hidden one, or what macOS puts into zip files."""
    return name.startswith(".") or name == "__MACOSX"


def is_no_data(name: str) -> bool:
    """Whether a folder of that name is passed over: a hidden one, a bin, or previews that some program made."""
    return is_hidden(name) or name.casefold() in _NO_DATA


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which people count: frame2 before frame10."""
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple:
    # Digits as text without their zeros, by length: int() refuses very long ones.
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(parts)], name
