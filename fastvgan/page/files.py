"""The page's temporary files: a private folder whose files are deleted when they are old, or too many."""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MOST_SECONDS = 3600
MOST_BYTES = 256 * 2**20
_PERIOD = 60  # seconds


class Files:
    """The folder of the clips that the page made and the pictures that it was given.

    Args:
        folder: an existing folder that holds nothing else.
        most_seconds: age at which a file is deleted.
        most_bytes: total size above which the oldest files are deleted.
    """

    def __init__(self, folder: Path, most_seconds: float = MOST_SECONDS, most_bytes: int = MOST_BYTES):
        self.folder = folder
        self._most_seconds = most_seconds
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def new_folder(self) -> Path:
        """Return a new folder for the files of one request, whose name cannot be guessed."""
        self.sweep()
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        return folder

    def sweep(self) -> None:
        """Delete old files, then the oldest ones until the others fit into the limit, and empty folders."""
        with self._lock:
            found = list(_files(self.folder))
            oldest, total = time.time() - self._most_seconds, sum(size for _, size, _ in found)
            for changed, size, path in sorted(found, key=lambda one: one[0]):
                if changed >= oldest and total <= self._most_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
            self._remove_empty_folders(oldest)

    def sweep_forever(self, stop: threading.Event) -> None:
        """Sweep every minute until the event is set; runs in a thread."""
        while not stop.wait(_PERIOD):
            self.sweep()

    def _remove_empty_folders(self, oldest: float) -> None:
        for path, folders, names in os.walk(self.folder, topdown=False):
            if folders or names or Path(path) == self.folder:
                continue
            with contextlib.suppress(OSError):  # the server has just saved an upload there, or removed the folder
                # A new folder is empty until its request has made the first file.
                if os.stat(path).st_mtime < oldest:
                    os.rmdir(path)


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield time of change, size and path of each file below a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):  # the server moves uploaded files
                status = path.stat()
                yield status.st_mtime, status.st_size, path
