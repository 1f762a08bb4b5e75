"""The log file of a run: what `logging` says, written with patience."""

import logging
from pathlib import Path

from fastvgan.training.run.backlog import AppendedFile, Backlog

_LOGGERS = ("fastvgan", "fastvgan_kernels")


class LogFile(logging.Handler):
    """Appends records of this package's loggers to a file, from its making on until it is closed.

    A file that cannot be written is one warning on the other handlers; its records are written when it can be again.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._closed = False
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.backlog = Backlog(_Lines(path))
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self._closed:
            return
        try:
            line = self.format(record)
        except Exception:  # a message and arguments that do not fit: logging has a way to say so
            self.handleError(record)
            return
        self.backlog.add(line)

    def flush(self) -> None:
        """Try to write what could not be written before."""
        with self.lock:
            if not self._closed:
                self.backlog.flush()

    def close(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        with self.lock:
            if not self._closed:  # logging.shutdown closes once more
                self._closed = True
                self.backlog.close()
        super().close()


class _Lines:
    errors = (OSError,)

    def __init__(self, path: Path):
        self.name = str(path)
        self._file = AppendedFile(path)
        self._file.append(b"")

    def write(self, line: str) -> None:
        self._file.append(line.encode(errors="backslashreplace") + b"\n")

    def gone(self) -> bool:
        return not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Nothing: a log tells what happened."""

    def close(self) -> None:
        pass
