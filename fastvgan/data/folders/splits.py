"""Split files, which list the clips of one part of a set, such as UCF-101's trainlist01.txt."""

from pathlib import Path, PurePosixPath

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.errors import UserError


def take_listed(entries: list[Entry], split_file: Path, folder: Path) -> tuple[list[Entry], list[Rejected]]:
    """Select the entries that a split file lists; reject the listed names that do not exist.

    A line holds a path, with or without the number of its class after it. Paths are relative to the folder, or to the
    deepest folder that contains all clips (`UCF-101` of a whole download).

    Args:
        entries: The clips of the folder.
        split_file: The list.
        folder: The folder, for messages.

    Raises:
        UserError: The file cannot be read, or lists no clip of the folder, or its numbers may be those of HMDB51.
    """
    lines = _read_lines(split_file)
    by_name = {entry.name: entry for entry in entries}
    common = _common_parent(entries)
    taken: dict[str, Entry] = {}
    missing: dict[str, Rejected] = {}
    numbered = [line.rpartition(" ") for line in lines if line not in by_name]
    # HMDB51's lists name no folders; three classes may also be numbered 0, 1 and 2.
    are_bare = all("/" not in name and name.endswith(".avi") for name, _, _ in numbered)
    if are_bare and {number for _, _, number in numbered} == {"0", "1", "2"}:
        raise UserError(
            f"{split_file} ends its lines with 0, 1 and 2, which in HMDB51's lists mean unused, training and test; "
            "keep the lines of the clips to use, without these numbers"
        )
    for line in lines:
        # The name itself may end in a number.
        names = [line, _without_class(line)]
        entry = next((by_name[n] for name in names for n in (name, f"{common}/{name}") if n in by_name), None)
        if entry is None:
            missing[names[-1]] = Rejected(names[-1], "is listed in the split file but does not exist")
        else:
            taken[entry.name] = entry
    if not taken:
        first = f" (its first line is {lines[0]!r})" if lines else ""
        raise UserError(f"{split_file} lists no clip of {folder}{first}; pass the list that belongs to this folder")
    return [taken[name] for name in sorted(taken)], list(missing.values())


def _read_lines(split_file: Path) -> list[str]:
    try:
        lines = split_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split file {split_file}: {error}; pass a text file of paths") from error
    return [PurePosixPath(line.strip().replace("\\", "/")).as_posix() for line in lines if line.strip()]


def _without_class(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name.rstrip() if name and number.isdigit() else line


def _common_parent(entries: list[Entry]) -> str:
    parents = [PurePosixPath(entry.name).parent.parts for entry in entries]
    shared = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)
