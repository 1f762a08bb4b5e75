"""Ctrl-C while a command still imports its packages."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

from fastvgan.machine.optional import is_installed


def keep_interrupts() -> None:
    """Import numpy, if it is installed, just before torch; for commands only.

    torch imports numpy itself and ignores whatever that raises: a KeyboardInterrupt would be lost, and numpy would be
    half imported.
    """
    if "torch" not in sys.modules and not any(isinstance(finder, _NumpyFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NumpyFirst())


class _NumpyFirst(MetaPathFinder):
    """Finds nothing, but is asked for torch before torch is imported.

    It stays in the list of finders, which Python is walking through when it is asked.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Import numpy if `fullname` is torch."""
        if fullname == "torch":
            if is_installed("numpy"):
                importlib.import_module("numpy")
