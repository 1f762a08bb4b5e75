"""Lists of the clips that belong to one part of a set, as UCF-101's trainlist01.txt."""

from pathlib import Path, PurePosixPath

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.errors import UserError


def take_listed(entries: list[Entry], split_file: Path, folder: Path) -> tuple[list[Entry], list[Rejected]]:
    """Those entries that a split file lists, and the listed ones that are not there.

    A line holds a path, with the number of its class after it or not. Paths are below the folder, or below the folder
    in it that all clips lie in (`UCF-101` of a whole download).

    Raises:
        UserError: the file cannot be read, or lists no clip of the folder.
    """
    listed = _listed(split_file)
    by_name = {entry.name: entry for entry in entries}
    common = _common(entries)
    taken, missing = {}, {}
    for line in listed:
        # A name may end in a number itself.
        names = [line, _without_class(line)]
        entry = next((by_name[n] for name in names for n in (name, f"{common}/{name}") if n in by_name), None)
        if entry is None:
            missing[names[-1]] = Rejected(names[-1], "is named in the split file but is not there")
        else:
            taken[entry.name] = entry
    if not taken:
        first = f" (its first line is {listed[0]!r})" if listed else ""
        raise UserError(f"{split_file} lists no clip of {folder}{first}; name the list that belongs to this folder")
    return [taken[name] for name in sorted(taken)], list(missing.values())


def _listed(split_file: Path) -> list[str]:
    try:
        lines = split_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split file {split_file}: {error}; name a text file of paths") from error
    return [PurePosixPath(line.strip().replace("\\", "/")).as_posix() for line in lines if line.strip()]


def _without_class(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name.rstrip() if name and number.isdigit() else line


def _common(entries: list[Entry]) -> str:
    parents = [PurePosixPath(entry.name).parent.parts for entry in entries]
    shared = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)
