"""Classification of files and folders by their names, and the natural order of names."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable

SUFFIXES = frozenset(".png .apng .jpg .jpeg .bmp .webp .tif .tiff .ppm".split())
# Folders of Windows, Linux, Synology, QNAP, and of image viewers.
_NO_DATA = frozenset(
    "$recycle.bin recycler recycled #recycle @recycle @recently-snapshot trash lost+found found.000 @eadir "
    "thumbs thumb thumbnail thumbnails _thumbs _thumbnails".split()
) | {"system volume information"}


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture; hidden files are not."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is skipped as hidden, or as macOS metadata in a zip file."""
    return name.startswith(".") or name == "__MACOSX"


def is_no_data(name: str) -> bool:
    """Return whether a folder is skipped: it is hidden, a trash folder, or a folder of thumbnails."""
    return is_hidden(name) or name.casefold() in _NO_DATA


def are_posters(pictures: Iterable[str], videos: Iterable[str]) -> bool:
    """Return whether a folder's pictures are previews of its videos, as in downloads, and not the frames of a clip.

    Several pictures that are numbered as frames are previews only if each has the name of a video, alone or with more
    after ".", "_" or "-", and if there are no more of them than videos. If others lie beside them, all are frames if
    two of the numbered ones have no video's name. All other pictures beside videos are previews. Pictures whose names
    differ only in their suffixes count as one.

    Args:
        pictures: Names of the pictures.
        videos: Names of the video files beside them.
    """
    shown = {os.path.splitext(name)[0] for name in pictures}
    stems = {os.path.splitext(name)[0] for name in videos}
    if not stems or not shown:
        return False
    alike: dict[str, list[bool]] = defaultdict(list)  # whether each has a video's name, by the name without its number
    for name in shown:
        named = any(name[: end.start()] in stems for end in re.finditer(r"[._-]|$", name))
        alike[re.sub(r"[0-9]+(?=[^0-9]*$)", "0", name)].append(named)
    numbered = max(alike.values(), key=len)
    if len(numbered) < len(shown) or len(shown) == 1:
        return numbered.count(False) < 2
    return all(numbered) and len(shown) <= len(stems)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names in natural order: frame2 before frame10."""
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    # Numbers compare by their length, then as text: int() refuses very long ones.
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(parts)], name
