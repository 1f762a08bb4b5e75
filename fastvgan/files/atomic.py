"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvgan.errors import UserError

UNFINISHED = ".unfinished"  # in the names of files that were not finished, whatever stopped the process


def check_writable(path: Path) -> None:
    """Check that `whole` can write a file, before the work that leads to it.

    Raises:
        UserError: it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    temporary = _temporary(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; name another file") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Do as `replace_atomically` does, for a file that a user named.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first")
        with replace_atomically(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replace_atomically(path: Path, flush: bool = False) -> Iterator[Path]:
    """Give a temporary file's path, beside `path`, to write to; it replaces `path` when the block ends without error.

    Otherwise it is removed, and `path` stays as it was. One process at a time may write a file.

    Args:
        path: the file. flush: whether it is on the disk when the block has ended, and so survives a power failure.

    Raises:
        OSError: it cannot be written; the error names `path`, not the temporary file.
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
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: they could not be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}{UNFINISHED}{path.suffix}")
