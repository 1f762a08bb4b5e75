"""Names that folders, archives, tables and manifests give to files: which are refused, and where links lead."""

from pathlib import Path

LEADS_OUT = "leads out of the folder; use a name below it"
"""What messages say, after the name, of one that `leads_out`."""


def unusable_name(name: str) -> str | None:
    """What is wrong with the name of a file, or with its path in an archive; None where nothing is."""
    if as_text(name) != name:
        return "has a name that is not UTF-8; rename it"
    return LEADS_OUT if leads_out(name) else None


def as_text(name: str) -> str:
    """A name as messages and lists have it; of one that is no text, odd bytes are shown as numbers."""
    return name.encode("utf-8", "backslashreplace").decode()


def leads_out(name: str) -> bool:
    """Whether a name, meant as a path below a folder, means or could be taken for something outside of it.

    So do absolute paths, the folder above (".."), a home ("~"), a drive of Windows ("C:") and the scheme of a URL
    ("file:"). "a: b.mp4" and "~a.mp4" are plain names. The backslash divides a path as "/" does. Each part is judged
    alone, so that a folder that is looked through name by name gives only clips that its manifest may list.
    """
    path = name.replace("\\", "/")
    return path.startswith("/") or any(part in ("..", "~") or part.endswith(":") for part in path.split("/"))


def stays_within(path: Path, real: Path) -> bool:
    """Whether what a path or link leads to lies in the folder whose real place is `real`."""
    try:
        return path.resolve().is_relative_to(real)
    except (OSError, RuntimeError, ValueError):  # a link that leads back to itself; a zero byte
        return False
