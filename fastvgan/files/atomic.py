"""Write files atomically: they appear complete or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvgan.errors import UserError

UNFINISHED = ".unfinished"  # part of the names of temporary files
LONGEST_NAME = 255  # bytes, in most file systems
_LONGEST_SUFFIX = 32  # bytes; what is longer names no format


def check_writable(path: Path) -> None:
    """Check that `whole` can write a file.

    Raises:
        UserError: the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; pass a file name")
    _check_folder(path)
    temporary = _temporary(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; pass another file name") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Replace a file atomically, as `replace_atomically`, with a `UserError` if it cannot be written.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        _check_folder(path)
        with replace_atomically(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replace_atomically(path: Path, flush: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` when the block ends without an error.

    After an error the temporary file is removed and `path` is unchanged. Only one process at a time may write a file.

    Args:
        path: the file to replace.
        flush: whether to flush the file to the disk, so that it survives a power failure.

    Raises:
        OSError: the file cannot be written; the error names `path`, not the temporary file.
    """
    temporary = _temporary(path)
    try:
        temporary.unlink(missing_ok=True)  # a killed process may have left one
        yield temporary
        if flush:
            flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        if temporary.is_file():
            temporary.unlink()
        raise
    if flush:
        flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Flush the content of a file, or the entries of a folder, to the disk.

    Raises:
        OSError: flushing failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")


def _temporary(path: Path) -> Path:
    name = f".{path.stem}{UNFINISHED}{path.suffix}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{UNFINISHED}{suffix}"
    return path.with_name(name)
