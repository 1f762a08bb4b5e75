"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvgan.errors import UserError

UNFINISHED = ".unfinished"  # in the names of files that were not finished, whatever stopped the process


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all went well.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}{UNFINISHED}{path.suffix}")
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
