"""What in a folder is no clip: how it is told from clips without a known suffix, and what is said of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from fastvgan.data.folders import names
from fastvgan.data.folders.annotations import SUFFIXES
from fastvgan.data.paths import as_text
from fastvgan.files.atomic import UNFINISHED

# Folders and files that `prepare` itself leaves in a folder whose manifest it writes there.
OURS = (".prepare",)
_OUR_FILES = ("manifest.jsonl", "rejects.jsonl")
_LOOKED_AT = 2**12  # bytes
_NAMED = 5
_CLIPS = SUFFIXES | names.SUFFIXES | {".zip", ".tar"}
_ARCHIVES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def might_be_a_clip(hidden: str) -> bool:
    """Whether a hidden file may be somebody's clip, by its name: no notes of macOS's, and not what is being written."""
    return not hidden.startswith("._") and UNFINISHED not in hidden and os.path.splitext(hidden)[1].lower() in _CLIPS


def is_text(path: Path) -> bool:
    """Whether a file begins with text, which no video does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError:
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start) or len(start) < _LOOKED_AT:  # a letter may be cut in two at the end of what was read
            return False
    return b"\0" not in start


def why_unusable(path: Path) -> str | None:
    """Why a file of an unknown suffix is no clip; None where it holds a video."""
    if path.suffix.lower() in _ARCHIVES:
        return "is an archive that cannot be read in places; unpack it"
    if not path.is_file():
        return "cannot be read" if path.is_symlink() else "is no file"
    from fastvgan.data.media.video_files import why_no_video  # loads FFmpeg, which folders of pictures do not need

    return why_no_video(path)


def remarks(folder: Path, passed_over: Sequence[str], hidden: Sequence[str], texts: Sequence[Path]) -> list[str]:
    """Sentences on the folders and files that were passed over, and on texts that are no captions of a clip.

    Args:
        folder: that names are to be told below. texts: without those that captions were taken from.
    """
    said = []
    if passed_over:
        said.append(f"passed over {_some(passed_over, 'folder')}: hidden, a bin or thumbnails by the name")
    if hidden:
        said.append(f"passed over {_some(hidden, 'file')}: hidden by the name")
    known = {folder / name for name in _OUR_FILES}
    left = [as_text(os.path.relpath(path, folder)) for path in texts if path not in known]
    if left:
        said.append(f"passed over {_some(left, 'file')}: neither a clip nor the captions of one")
    return said


def _some(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names[:_NAMED])}{more})"
