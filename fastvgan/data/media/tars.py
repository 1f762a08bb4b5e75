"""Clips in tar files of the WebDataset layout, where files with one name and several suffixes form a sample."""

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastvgan.data.folders import names
from fastvgan.data.folders.annotations import CAPTIONS, CLASSES, SUFFIXES, clean_captions, clean_label
from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.tables import TABLE_IN_ARCHIVE, is_table
from fastvgan.data.media.types import Media
from fastvgan.data.paths import as_text, unusable_name

_LARGEST_TEXT = 2**20  # bytes
# Folders and a name without dots, then the suffixes. As in webdataset, a newline ends no name but the last.
_SAMPLE = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


def clips_in(path: Path, name: str) -> tuple[list[Entry], list[Rejected]]:
    """List the video files in a tar with their captions and classes, and the unusable ones.

    `key.txt` holds captions, one per line; `key.json` captions and the class by the names of columns that tables have;
    `key.cls` the class. The JSON's `captions` and `caption` come before `key.txt`, its `class` before `key.cls`, and
    its other names after them. For `key.0.mp4`, `key.0.txt` comes before `key.txt`.

    Args:
        path: The tar file.
        name: Its name in messages.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            samples = _samples(tar)
            return _entries(tar, path, name, samples)
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        return [], [Rejected(name, f"is not an uncompressed tar file: {error}")]
    except OSError as error:
        return [], [Rejected(name, f"cannot be read: {error.strerror or error}")]


def _samples(tar: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by sample, then by suffix; links, special and hidden files are skipped."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        found = split_name(member.name)
        is_hidden = any(names.is_hidden(part) for part in member.name.split("/") if part not in (".", ".."))
        if member.isreg() and not member.issparse() and not is_hidden and found is not None:
            key, suffix = found
            samples.setdefault(key, {})[suffix] = member
    return samples


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into the sample and all suffixes, as webdataset does: "a/b.c.txt" into "a/b" and "c.txt".

    Returns:
        The two, or None for a name without a suffix, or with nothing before it.
    """
    found = _SAMPLE.match(name)
    return (found.group(1), found.group(2)) if found else None


def _entries(
    tar: tarfile.TarFile, path: Path, name: str, samples: dict[str, dict[str, tarfile.TarInfo]]
) -> tuple[list[Entry], list[Rejected]]:
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    for members in samples.values():
        for suffix, member in members.items():
            if is_table(posixpath.basename(member.name)):
                rejected.append(Rejected(as_text(f"{name}/{member.name}"), TABLE_IN_ARCHIVE))
            if f".{suffix.rsplit('.', 1)[-1].lower()}" not in SUFFIXES:
                continue
            clip = f"{name}/{member.name}"
            if wrong := unusable_name(member.name):
                rejected.append(Rejected(as_text(clip), wrong))
                continue
            try:
                captions, label = _read_annotations(tar, members, suffix.rpartition(".")[0])
            except (ValueError, RecursionError) as error:
                rejected.append(Rejected(clip, f"has unreadable captions: {error}"))
                continue
            media = Media("tar", path, member.name, (member.offset_data, member.size))
            entries.append(Entry(media, clip, captions, label))
    if not entries and all(item.reason == TABLE_IN_ARCHIVE for item in rejected):
        rejected.append(Rejected(name, "holds no video file"))
    return entries, rejected


def _read_annotations(
    tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], within: str
) -> tuple[tuple[str, ...], str | None]:
    """Read captions and class of a sample's video; `within` is what precedes its last suffix, "0" in "0.mp4"."""
    kinds = {suffix.lower(): member for suffix, member in members.items()}
    found = {kind: kinds.get(f"{within.lower()}.{kind}", kinds.get(kind)) for kind in ("json", "txt", "cls")}
    texts = {kind: _text(tar, member) for kind, member in found.items() if member is not None}
    facts = json.loads(texts["json"]) if "json" in texts else {}
    facts = facts if isinstance(facts, dict) else {}
    # Other names may hold a site's metadata, which describes less than a text or class beside it.
    own = ("captions", "caption")
    others = [facts.get(name) for name in CAPTIONS if name not in own]
    captions = [*map(facts.get, own), texts.get("txt", "").splitlines(), *others]
    labels = [facts.get("class"), texts.get("cls"), *(facts.get(name) for name in CLASSES if name != "class")]
    return (
        next(filter(None, (clean_captions(_strings(value)) for value in captions)), ()),
        next(filter(None, (clean_label(value) for value in labels if not isinstance(value, list | dict))), None),
    )


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > _LARGEST_TEXT:
        raise ValueError(f"{member.name} is larger than a text should be")
    file = tar.extractfile(member)
    assert file is not None  # `_samples` keeps regular files only
    return file.read().decode("utf-8-sig")


def _strings(value: Any) -> Iterator[str]:
    for item in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        if isinstance(item, str):
            yield item
