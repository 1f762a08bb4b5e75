"""What has been done already: work that was stopped goes on where it was, and none is done twice."""

import json
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any


class Journal:
    """Results by name, a line of JSON each, written as they come.

    A result counts only under the signature it was made under: whatever it depends on (the file's size and time, the
    settings). A last line that was cut off by the end of the process is as if it had not been written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    name, signature, result = json.loads(line)
                except ValueError:
                    continue
                self._known[name] = signature, result

    def get(self, name: str, signature: Any) -> Any | None:
        """The result of that name, or None where there is none under this signature."""
        before, result = self._known.get(name, (None, None))
        return result if before == _plain(signature) else None

    def names(self) -> Collection[str]:
        """The names of all results, under whichever signature."""
        return self._known.keys()

    def add(self, name: str, signature: Any, result: Any) -> None:
        """Take down a result; safe to call from several threads.

        Args:
            signature: None for one that is not to be used again, whose name alone counts.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps([name, signature, result], ensure_ascii=False)
        with self._lock:
            self._known[name] = _plain(signature), result
            torn = self._path.exists() and self._path.stat().st_size and not _ends_line(self._path)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(("\n" if torn else "") + line + "\n")


def _plain(signature: Any) -> Any:
    return json.loads(json.dumps(signature))


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
