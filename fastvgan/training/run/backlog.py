"""Append-only files, and retries of writes that fail."""

import contextlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger("fastvgan")

MOST = 10_000  # entries kept in memory: a few megabytes, at a few hundred bytes per entry


class AppendedFile:
    """A file of complete entries, opened for each entry, so that a replaced or removed file is noticed."""

    def __init__(self, path: Path):
        self.path = path
        self._torn: int | None = None

    def append(self, entry: bytes) -> None:
        """Append an entry, and create the folder if it is missing.

        Raises:
            OSError: the entry could not be written completely; a partial one is truncated, at the latest before the
                next entry.
        """
        try:
            file = self.path.open("ab", buffering=0)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab", buffering=0)
        with file:
            before = os.fstat(file.fileno())
            size = before.st_size
            if self._torn is not None and size > self._torn:
                size = file.truncate(self._torn)
            try:
                _write_all(file, entry)
                self._torn = None
            except OSError:
                if stat.S_ISREG(before.st_mode):
                    self._torn = size
                    with contextlib.suppress(OSError):  # truncated before the next entry instead
                        file.truncate(size)
                raise


def _write_all(file: RawIOBase, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


class Sink(Protocol):
    """A destination of entries. Any method may raise one of `errors`, and is called again then.

    Attributes:
        name: name in messages.
        errors: exceptions that the methods may raise.
    """

    name: str
    errors: tuple[type[Exception], ...]

    @property
    def write(self) -> Callable[..., None]:
        """Function that writes one entry completely or not at all."""
        ...

    def is_gone(self) -> bool:
        """Whether the written entries have vanished and must be written again."""
        ...

    def rewind(self, step: int) -> None:
        """Drop entries of later steps; the step is the first value of an entry."""

    def close(self) -> None:
        """Release what the sink holds."""


class Backlog:
    """Passes entries to a sink, keeps in memory those that it fails to write, and retries with the next entry.

    One warning is logged when the sink fails, and one when it works again. Up to 10,000 entries are kept, written ones
    included in case their file vanishes.

    Args:
        sink: destination of the entries.
        known: entries that the sink holds already.

    Attributes:
        is_quiet: whether warnings of failures are suppressed, while the caller logs them.
    """

    def __init__(self, sink: Sink, known: Iterable[tuple[Any, ...]] = ()):
        self._sink = sink
        self._written = deque(known, maxlen=MOST)
        self._pending: deque[tuple[Any, ...]] = deque()
        self._lost = 0
        self._rewind_to: int | None = None
        self._has_warned = False
        self.is_quiet = False

    def add(self, *entry: Any) -> None:
        """Write an entry, or keep it until the sink works."""
        self._pending.append(entry)
        self._forget_oldest()
        self.flush()

    def flush(self) -> None:
        """Try to write the pending entries."""
        waiting = len(self._pending)
        try:
            self._catch_up()
        except self._sink.errors as error:
            if not self._has_warned and not self.is_quiet:
                self._has_warned = True  # before the warning, which comes back here if the sink is the log
                logger.warning(
                    "cannot write %s: %s; training continues, and missing entries are written once that works",
                    *(self._sink.name, describe_error(error)),
                )
            return
        has_warned, lost, self._has_warned, self._lost = self._has_warned, self._lost, False, 0
        if has_warned or lost:
            dropped = f"; {lost} older ones are lost" if lost else ""
            logger.warning("%s is written again, with %d delayed entries%s", self._sink.name, waiting, dropped)

    def rewind(self, step: int) -> None:
        """Drop entries of later steps, written or not."""
        self._written = deque((entry for entry in self._written if entry[0] <= step), maxlen=MOST)
        self._pending = deque(entry for entry in self._pending if entry[0] <= step)
        self._rewind_to = step if self._rewind_to is None else min(step, self._rewind_to)
        self.flush()

    def close(self) -> None:
        """Try a last time to write pending entries, and log how many are lost."""
        self.flush()
        try:
            self._sink.close()
        except self._sink.errors as error:
            logger.warning("closing %s: %s", self._sink.name, describe_error(error))
        if self._pending:
            lost = len(self._pending) + self._lost
            logger.warning("%d entries of %s could not be written and are lost", lost, self._sink.name)

    def _catch_up(self) -> None:
        if self._sink.is_gone():
            self._pending.extendleft(reversed(self._written))
            self._written.clear()
            self._forget_oldest()
        if self._rewind_to is not None:
            self._sink.rewind(self._rewind_to)
            self._rewind_to = None
        while self._pending:
            self._sink.write(*self._pending[0])
            self._written.append(self._pending.popleft())

    def _forget_oldest(self) -> None:
        while len(self._pending) > MOST:
            self._pending.popleft()
            self._lost += 1


def describe_error(error: Exception) -> str:
    """Return an error's message, without its number, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(text.split())
