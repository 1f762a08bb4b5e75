"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvgan.errors import UserError

UNFINISHED = ".unfinished"  # in the names of files that were not finished, whatever stopped the process


def check_writable(path: Path) -> None:
    """Say that `whole` could not write a file before the work that leads to it is done, not after it.

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
    """A temporary file beside `path` that takes its place when all went well.

    Raises:
        UserError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}{UNFINISHED}{path.suffix}")
