"""Files that are only appended to, and patience with what cannot be written just now."""

import contextlib
import logging
import os
import stat
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

logger = logging.getLogger("fastvgan")

MOST = 10_000  # entries held in memory; at a few hundred bytes each a few megabytes


class AppendedFile:
    """A file that takes whole entries. It is opened for each, so that one that was replaced or removed is noticed."""

    def __init__(self, path: Path):
        self.path = path
        self._torn: int | None = None

    def append(self, entry: bytes) -> None:
        """Add an entry; the folder is made if it is not there.

        Raises:
            OSError: it could not be added as a whole; what was written of it is cut off again, at the latest before
                the next.
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
                    with contextlib.suppress(OSError):  # then it is done before the next entry
                        file.truncate(size)
                raise


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class Sink(Protocol):
    """Where entries go. Any method may raise one of `errors`; it is called again then.

    name: for messages. errors: what may be raised.
    """

    name: str
    errors: tuple[type[Exception], ...]

    def write(self, *entry) -> None:
        """Take one entry, or none of it."""

    def gone(self) -> bool:
        """Whether what was written is not there any more, and should be written again."""

    def rewind(self, step: int) -> None:
        """Forget entries of later steps, which are the first part of an entry."""

    def close(self) -> None: ...


class Backlog:
    """Passes entries on to a sink; keeps in memory what it does not take, and tries again with the next one.

    The user is told once that a sink fails, and once that it works again. Up to 10,000 entries are kept; written ones
    too, in case that their file vanishes.

    Args:
        known: entries that the sink holds already.
    """

    def __init__(self, sink: Sink, known: Iterable[tuple] = ()):
        self._sink = sink
        self._written = deque(known, maxlen=MOST)
        self._pending: deque[tuple] = deque()
        self._lost = 0
        self._rewind_to: int | None = None
        self._told = False
        self.quiet = False  # while somebody else tells why nothing can be written, and when it can be again

    def add(self, *entry) -> None:
        self._pending.append(entry)
        self._forget_oldest()
        self.flush()

    def flush(self) -> None:
        """Try to write what is pending."""
        waiting = len(self._pending)
        try:
            self._catch_up()
        except self._sink.errors as error:
            if not self._told and not self.quiet:
                self._told = True  # first, since where the sink is the log the warning comes back here
                logger.warning(
                    "cannot write %s: %s; training goes on, and what is missing is written as soon as that works",
                    *(self._sink.name, reason(error)),
                )
            return
        told, lost, self._told, self._lost = self._told, self._lost, False, 0
        if told or lost:
            dropped = f"; {lost} older ones are lost" if lost else ""
            logger.warning("%s is written again, with %d entries that waited%s", self._sink.name, waiting, dropped)

    def rewind(self, step: int) -> None:
        """Drop entries of later steps, written or not."""
        self._written = deque((entry for entry in self._written if entry[0] <= step), maxlen=MOST)
        self._pending = deque(entry for entry in self._pending if entry[0] <= step)
        self._rewind_to = step if self._rewind_to is None else min(step, self._rewind_to)
        self.flush()

    def close(self) -> None:
        """Try a last time; what then is still pending is lost, which is told."""
        self.flush()
        try:
            self._sink.close()
        except self._sink.errors as error:
            logger.warning("closing %s: %s", self._sink.name, reason(error))
        if self._pending:
            lost = len(self._pending) + self._lost
            logger.warning("%d entries of %s could not be written and are lost", lost, self._sink.name)

    def _catch_up(self) -> None:
        if self._sink.gone():
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


def reason(error: Exception) -> str:
    """What an error says, without its number, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(text.split())
