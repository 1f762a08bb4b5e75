"""The log file of a run, with retries of failed writes."""

import logging
import threading
from pathlib import Path

from fastvgan.training.run.backlog import AppendedFile, Backlog

_LOGGERS = ("fastvgan", "fastvgan_kernels")


class LogFile(logging.Handler):
    """Appends records of this package's loggers to a file until it is closed.

    Until then loggers without a level of their own have the level INFO, whatever the application shows of them.

    If the file cannot be written, the other handlers get one warning, and the records are written once that works.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._closed = False
        assert self.lock is not None, "logging.Handler creates its lock"
        self._lock: threading.RLock = self.lock
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.backlog = Backlog(_Lines(path))
        self._raised = [name for name in _LOGGERS if logging.getLogger(name).level == logging.NOTSET]
        for name in self._raised:
            logging.getLogger(name).setLevel(logging.INFO)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record, or keep it until the file can be written."""
        if self._closed:
            return
        try:
            line = self.format(record)
        except Exception:  # the message and its arguments do not match
            self.handleError(record)
            return
        self.backlog.add(line)

    def flush(self) -> None:
        """Try to write records that could not be written before."""
        with self._lock:
            if not self._closed:
                self.backlog.flush()

    def close(self) -> None:
        """Retry failed writes a last time, and detach from the loggers."""
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        for name in self._raised:
            logging.getLogger(name).setLevel(logging.NOTSET)
        self._raised = []
        with self._lock:
            if not self._closed:  # logging.shutdown closes it again
                self._closed = True
                self.backlog.close()
        super().close()


class _Lines:
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path):
        self.name = str(path)
        self._file = AppendedFile(path)
        self._file.append(b"")

    def write(self, line: str) -> None:
        self._file.append(line.encode(errors="backslashreplace") + b"\n")

    def is_gone(self) -> bool:
        return not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Do nothing: the log keeps entries of discarded steps, too."""

    def close(self) -> None:
        pass
