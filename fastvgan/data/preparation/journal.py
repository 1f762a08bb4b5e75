"""A journal of finished work, by which stopped work continues without repetition."""

import json
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any


class Journal:
    """Results by name, one line of JSON per result, appended at once.

    A result is valid only under the signature with which it was added: everything that it depends on, such as the size
    and time of a file and the settings. Damaged lines are ignored, such as an incomplete last one after the
    process was killed.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    name, signature, result = json.loads(line)
                    self._known[name] = signature, result
                except (ValueError, TypeError):  # a line of another form is damaged, too
                    continue

    def get(self, name: str, signature: Any) -> Any | None:
        """Return the result of that name, or None if it has another signature or is missing."""
        before, result = self._known.get(name, (None, None))
        return result if before == _plain(signature) else None

    def names(self) -> Collection[str]:
        """Return the names of all results, whatever their signatures."""
        return self._known.keys()

    def add(self, name: str, signature: Any, result: Any) -> None:
        """Append a result; may be called by several threads.

        Args:
            name: Its name.
            signature: Everything that it depends on, as JSON values; None if `get` must not return it.
            result: The result, as JSON values.

        Raises:
            OSError: The file cannot be written.
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
