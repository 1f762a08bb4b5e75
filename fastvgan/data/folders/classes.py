"""Classes of clips by the names of the folders that contain them."""

import os
from dataclasses import replace
from pathlib import PurePosixPath

from fastvgan.data.folders.entry import Entry

_PARTS = frozenset("train training test testing val valid validation dev".split())


def add_classes(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Set each entry's class to its folder's name at the first level that has several folders.

    A folder that contains all clips (UCF-101/ of a whole download) is no class, nor is a folder that is itself a clip.
    A level of which all folders are parts of a set, such as train/ and test/, is passed over.

    Returns:
        The entries, and remarks on what was passed over.
    """
    parents = [_parents(entry) for entry in entries]
    level, names = _find_level(parents)
    remarks = []
    if len(names) > 1 and _PARTS.issuperset(map(str.casefold, names)):
        remarks = [
            f"the folders {' and '.join(sorted(names))} are read as parts of one set, not as classes; "
            "pass one of them as the folder to use it alone"
        ]
        parents = [(*parts[:level], *parts[level + 1 :]) for parts in parents]
        level, names = _find_level(parents)
    if len(names) < 2:
        return entries, remarks
    labelled = [
        entry if entry.label is not None or len(parts) <= level else replace(entry, label=parts[level])
        for entry, parts in zip(entries, parents, strict=True)
    ]
    return labelled, remarks


def _find_level(parents: list[tuple[str, ...]]) -> tuple[int, set[str]]:
    """The first level at which the folders' names differ, and these names."""
    level = len(os.path.commonprefix([list(parts) for parts in parents if parts]))
    return level, {parts[level] for parts in parents if len(parts) > level}


def _parents(entry: Entry) -> tuple[str, ...]:
    """Names of the folders that contain a clip, those inside a zip file included, the zip file itself not."""
    parts = entry.name.split("/")
    if entry.media.kind == "tar":
        return ()
    if entry.media.kind == "zip" or entry.media.member:
        inside = len(PurePosixPath(entry.media.member).parts)
        del parts[len(parts) - inside - 1]
        return tuple(parts[:-1] if inside else parts)
    return tuple(parts[:-1])
