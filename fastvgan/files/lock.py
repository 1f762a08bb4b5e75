"""A lock on a folder, so that two processes do not write it at once."""

import fcntl
import logging
import os
import platform
import time
from pathlib import Path
from typing import BinaryIO

from fastvgan.errors import UserError

logger = logging.getLogger("fastvgan")

# A run that ends saves its state first, and a file server keeps the lock of a machine that failed for some 90 s.
PATIENCE = 150.0  # seconds
_MOMENT = 1.0  # seconds for which a process that only looks may have a lock, at most
_FILE = ".lock"
_IN_USE = "{holder} is training into {folder}; wait until it has ended, or train into another --run-dir"
_held: set[Path] = set()  # files of the locks that this process holds


class FolderLock:
    """An exclusive lock on a folder, held by this process until `release`, or until the process ends in any way.

    It is a POSIX record lock: forked processes do not inherit it, and none remains after a kill. The process also loses
    it when it closes the lock's file after opening it in another way, for instance to copy the folder. On a file system
    without locks it has no effect.

    Args:
        folder: the folder, which exists.
        refusal: the message if another process holds the lock, with {holder} and {folder}.

    Raises:
        UserError: another process holds the lock; the message names it.
        OSError: the lock's file cannot be written.
    """

    def __init__(self, folder: Path, refusal: str = _IN_USE):
        path = folder / _FILE
        self._file = path.open("ab", buffering=0)
        try:
            end = time.monotonic() + _MOMENT
            while _is_held(self._file):
                if time.monotonic() > end:
                    raise UserError(refusal.format(holder=_holder(path), folder=folder))
                time.sleep(0.05)
            self._path = path.resolve()
            _held.add(self._path)
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {platform.node()}".encode())
        except BaseException:
            self._file.close()
            raise

    def release(self) -> None:
        """Release the lock; its file remains, since another process may wait for it."""
        _held.discard(self._path)
        self._file.close()


def wait_until_unlocked(folder: Path) -> None:
    """Wait until no other process holds the lock of a folder, for at most `PATIENCE` seconds.

    Raises:
        UserError: another process still holds it.
    """
    path, end = folder / _FILE, time.monotonic() + PATIENCE
    if path.resolve() in _held or not path.is_file():  # opening the file and closing it would release the lock
        return
    try:
        file = path.open("r+b")
    except OSError:  # who writes the folder reports that
        return
    with file:
        if _is_held(file):
            logger.warning("waiting for %s, which writes %s, to end", _holder(path), folder)
        while _is_held(file):
            if time.monotonic() > end:
                raise UserError(_IN_USE.format(holder=_holder(path), folder=folder))
            time.sleep(0.1)


def _is_held(file: BinaryIO) -> bool:
    """Return whether another process holds the lock; else this one does from now on."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # the file system has no locks
        return False
    return False


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") or "another process"
