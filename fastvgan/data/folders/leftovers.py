"""Files in a folder that are not clips: recognizing them, and remarks on them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fastvgan.data.folders import names
from fastvgan.data.folders.annotations import SUFFIXES
from fastvgan.data.folders.manifest import MANIFEST, REJECTS, Manifest
from fastvgan.data.paths import NOT_REGULAR, as_text
from fastvgan.errors import UserError
from fastvgan.files.atomic import UNFINISHED

# Folders and files that `prepare` itself writes into a folder.
OURS = (".prepare",)
_WRITTEN = ("clips", "shards", "tars")
_OUR_FILES = (MANIFEST, REJECTS)
_START = 2**12  # bytes of a file that are read
_NAMED = 5  # largest number of names in a remark
_CLIPS = SUFFIXES | names.SUFFIXES | {".zip", ".tar"}
_ARCHIVES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def is_prepared(folder: Path) -> bool:
    """Return whether `prepare --to clips`, shards or tars wrote a folder of files."""
    # Every folder of a scan is asked about: the name first, which costs no system call.
    return folder.name in _WRITTEN and (folder.parent / OURS[0] / f"{folder.name}.jsonl").is_file()


def is_hidden_clip(name: str) -> bool:
    """Return whether a hidden file's name is that of a clip, but not of macOS metadata or an unfinished file."""
    return not name.startswith("._") and UNFINISHED not in name and os.path.splitext(name)[1].lower() in _CLIPS


def is_text(path: Path) -> bool:
    """Return whether a file begins with text, as no video does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start) or len(start) < _START:  # a character may be cut at the end of a full read
            return False
    return b"\0" not in start


def why_unusable(path: Path) -> str | None:
    """Return why a file with an unknown suffix is not a clip; None if it holds a video."""
    if path.suffix.lower() in _ARCHIVES:
        return "is an archive without random access; unpack it"
    if not path.is_file():
        return "is a broken link" if path.is_symlink() else NOT_REGULAR
    from fastvgan.data.media.video_files import why_no_video  # imports FFmpeg, which folders of pictures do not need

    return why_no_video(path)


def remarks(
    folder: Path, skipped: Sequence[str], prepared: Sequence[str], hidden: Sequence[str], texts: Sequence[Path]
) -> list[str]:
    """Write sentences on the folders and files that were skipped.

    Args:
        folder: The scanned folder.
        skipped: Names of folders that were skipped because of their names.
        prepared: Names of folders that were skipped because `prepare` wrote them.
        hidden: Names of hidden files that may be clips.
        texts: Text files from which no captions were taken.
    """
    sentences = []
    if skipped:
        sentences.append(f"skipped {_count_and_name(skipped, 'folder')}: hidden, trash or thumbnails by their names")
    if prepared:
        sentences.append(f"skipped {_count_and_name(prepared, 'folder')}: written by `prepare`")
    if hidden:
        sentences.append(f"skipped {_count_and_name(hidden, 'file')}: hidden")
    known = {folder / name for name in _OUR_FILES}
    left = [as_text(os.path.relpath(path, folder)) for path in texts if path not in known]
    if left:
        sentences.append(f"skipped {_count_and_name(left, 'file')}: neither clips nor captions")
    return sentences


def own_manifest_remarks(folder: Path, manifest: Manifest) -> list[str]:
    """Write sentences on the manifest of a folder's own files, which is read instead of scanning the folder.

    Args:
        folder: The folder.
        manifest: Its manifest; there is nothing to say if it lists files elsewhere, or files that `prepare` wrote.

    Raises:
        UserError: Its rejects.jsonl cannot be read.
    """
    if manifest.root != folder or any(record.source for record in manifest.records):
        return []
    known = {as_text(record.path) for record in manifest.records} | _read_rejects(folder / REJECTS)
    new = []
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not names.is_no_data(name) and not is_prepared(Path(where, name)))
        paths = (as_text(os.path.relpath(os.path.join(where, name), folder)) for name in sorted(files))
        new += [path for path in paths if _is_video(os.path.basename(path)) and path not in known]
    sentences = [f"clips, captions and classes are those that {folder / MANIFEST} lists"]
    if new:
        sentences.append(
            f"not in the manifest: {_count_and_name(new, 'video file')}; run `prepare` again to add files that are new"
        )
    return sentences


def _read_rejects(path: Path) -> set[str]:
    """The files that `prepare` found unusable, as its rejects.jsonl names them; none if there is no such file."""
    if not path.is_file():
        return set()
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            return {json.loads(line)["path"] for line in lines}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it, or run `prepare` again") from error


def _is_video(name: str) -> bool:
    return not names.is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def _count_and_name(names: Sequence[str], noun: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({', '.join(names[:_NAMED])}{more})"
