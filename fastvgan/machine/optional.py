"""Packages that the plain install leaves out: whether they are there, and the sentence that names the extra."""

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from fastvgan.errors import UserError


def is_installed(module: str) -> bool:
    """Return whether a module can be found; only the packages around it are imported, not itself."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
    except ValueError:  # it was imported by other means, and has no spec
        return True


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f'pip install "fastvgan[{extra}]"'


def check_installed(module: str, extra: str, purpose: str, instead: str = "", oldest: int = 0) -> None:
    """Check that a module is installed, without importing it.

    Args:
        module: top-level module.
        extra: extra of pyproject.toml that installs it.
        purpose: what needs it, the subject of the sentence, such as "--wandb".
        instead: another remedy than to install it, such as "omit the flag".
        oldest: first number of the oldest version that works.

    Raises:
        UserError: it is not installed, or too old.
    """
    if not is_installed(module):
        raise _missing(module, extra, purpose, instead)
    if oldest and int((version := metadata.version(module)).partition(".")[0]) < oldest:
        raise _missing(f"{module} {oldest} or newer, and {version} is installed", extra, purpose, instead)


def require(module: str, extra: str, purpose: str, instead: str = "") -> ModuleType:
    """Import a module that may not be installed; the arguments are the first ones of `check_installed`.

    Errors of an installed module that fails to import are raised as they are.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Another missing module means that the installed one is broken.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise _missing(module.partition(".")[0], extra, purpose, instead) from error


def _missing(module: str, extra: str, purpose: str, instead: str) -> UserError:
    rest = f", or {instead}" if instead else ""
    return UserError(f"{purpose} needs the package {module}: {install_command(extra)}{rest}")
