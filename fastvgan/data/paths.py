"""Checks of file names in folders, archives, tables and manifests, and of the targets of links."""

import os
import stat
from pathlib import Path

LEADS_OUT = "leads out of the folder; use a name below it"
"""Message, after the name, about a name that `leads_out`."""

NOT_REGULAR = "is not a regular file"
"""Reason to refuse what `is_special`."""


def is_special(path: Path) -> bool:
    """Return whether a path, or the target of a link, is a pipe, socket or device, whose reading may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reported when it is read
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def unusable_name(name: str) -> str | None:
    """Return why a file name, or a path in an archive, is refused; None if it is usable."""
    if as_text(name) != name:
        return "has a name that is not UTF-8; rename it"
    return LEADS_OUT if leads_out(name) else None


def as_text(name: str) -> str:
    """Return a name for messages and lists; bytes that are not UTF-8 become backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def leads_out(name: str) -> bool:
    """Return whether a path below a folder means, or could be read as, something outside it.

    That is the case for absolute paths, "..", a home ("~"), a Windows drive ("C:") and the scheme of a URL ("file:").
    "a: b.mp4" and "~a.mp4" are plain names. The backslash separates parts as "/" does. Each part is checked alone, so
    that every clip found by walking a folder name by name may also be listed in its manifest.
    """
    path = name.replace("\\", "/")
    return path.startswith("/") or any(part in ("..", "~") or part.endswith(":") for part in path.split("/"))


def stays_within(path: Path, real: Path) -> bool:
    """Return whether the target of a path or link lies in a folder, given as the resolved path `real`."""
    try:
        return path.resolve().is_relative_to(real)
    except (OSError, RuntimeError, ValueError):  # a circular link; a zero byte
        return False
