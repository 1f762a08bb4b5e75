"""Names that folders, archives, tables and manifests give to files: which are refused, and where links lead."""

from pathlib import Path


def unusable_name(name: str) -> str | None:
    """What is wrong with the name of a file, or with its path in an archive; None where nothing is."""
    if as_text(name) != name:
        return "has a name that is not UTF-8; rename it"
    return "has a name that leads out of the folder that it lies in; rename it" if leads_out(name) else None


def as_text(name: str) -> str:
    """A name as messages and lists have it; of one that is no text, odd bytes are shown as numbers."""
    return name.encode("utf-8", "backslashreplace").decode()


def leads_out(name: str) -> bool:
    """Whether a name, taken for one below a folder, is absolute or leads upwards."""
    plain = name.replace("\\", "/")
    return plain.startswith("/") or ".." in plain.split("/")


def stays_within(path: Path, real: Path) -> bool:
    """Whether what a path or link leads to lies in the folder whose real place is `real`."""
    try:
        return path.resolve().is_relative_to(real)
    except (OSError, RuntimeError):  # a link that leads back to itself
        return False
