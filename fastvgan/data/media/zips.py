"""Reading pictures, videos and animations in zip files, without unpacking them to disk."""

import functools
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fastvgan.data.folders.annotations import SUFFIXES, clean_captions
from fastvgan.data.folders.names import in_order, is_hidden, is_no_data, is_picture
from fastvgan.data.media.types import BadVideo, Damaged

_MIB = 2**20
_HEAVIEST = 256 * _MIB  # largest file of a picture, in bytes
_HEAVIEST_VIDEO = 2**10 * _MIB  # largest video in a zip, which is unpacked into memory
_TEXTS = {".txt", ".csv", ".tsv", ".json", ".jsonl"}


class Archive(NamedTuple):
    """An open zip file, which is read under its lock.

    folders: Pictures of each folder in natural order; "" is the root.
    members: All files that are not hidden, by their names below the root.
    """

    file: zipfile.ZipFile
    lock: threading.Lock
    folders: dict[str, list[zipfile.ZipInfo]]
    members: dict[str, zipfile.ZipInfo]


def open_archive(path: Path) -> Archive:
    """Open a zip file and read its directory.

    Raises:
        BadVideo: It cannot be read or is not a zip file.
    """
    try:
        stat = path.stat()
        if stat.st_size == 0:
            raise BadVideo("is empty")
        return _open(path, stat.st_mtime_ns, stat.st_size, os.getpid())
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error) as error:
        raise BadVideo(f"is not a zip file, or is truncated: {error}") from error


def videos_in(path: Path) -> list[str]:
    """List the names of the video files in a zip file, by their suffixes, in natural order.

    Raises:
        BadVideo: As in `open_archive`.
    """
    return in_order(name for name in open_archive(path).members if os.path.splitext(name)[1].lower() in SUFFIXES)


def pictures_in(path: Path, folder: str) -> list[str]:
    """List the paths of the pictures in a folder of a zip file, in natural order.

    Raises:
        BadVideo: As in `open_archive`.
    """
    return [name_of(member) for member in open_archive(path).folders[folder]]


def read_member(path: Path, name: str) -> bytes:
    """Read one file in a zip file.

    Raises:
        BadVideo: It is missing or too large, or cannot be unpacked.
    """
    archive = open_archive(path)
    if name not in archive.members:
        raise BadVideo(f"has changed: {name} is missing")
    try:
        return member_bytes(archive, archive.members[name], _HEAVIEST if is_picture(name) else _HEAVIEST_VIDEO)
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error


def texts_in(path: Path) -> list[str]:
    """List the names of the text files in a zip file, by their suffixes.

    Raises:
        BadVideo: As in `open_archive`.
    """
    return [name for name in open_archive(path).members if os.path.splitext(name)[1].lower() in _TEXTS]


def captions_in(path: Path, text: str) -> tuple[str, ...]:
    """Read the captions, one per line, in a text of a zip file; a missing text has none.

    Raises:
        BadVideo: The text exists but cannot be read.
    """
    archive = open_archive(path)
    if text not in archive.members:
        return ()
    try:
        data = member_bytes(archive, archive.members[text], _MIB)
        return clean_captions(data.decode("utf-8-sig").splitlines())
    except (BadVideo, UnicodeDecodeError, OSError) as error:
        raise BadVideo(f"has captions, {text}, that cannot be read: {error}") from error


def name_of(member: zipfile.ZipInfo) -> str:
    """Return a member's name, with "/" between folders."""
    return "/".join(part for part in member.filename.replace("\\", "/").split("/") if part != ".")


def member_bytes(archive: Archive, member: zipfile.ZipInfo, heaviest: int = _HEAVIEST) -> bytes:
    """Unpack a member of at most `heaviest` bytes.

    Raises:
        BadVideo: It cannot be unpacked or is too large.
    """
    check_weight(member.file_size, heaviest)
    if member.flag_bits & 1:
        raise BadVideo("is encrypted; pack it without a password")
    # For other methods Python's zipfile does not stop at the size that a member claims.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadVideo("is packed by another method than deflate; pack it again")
    try:
        with archive.lock, archive.file.open(member) as file:
            # Without a limit, more than the claimed size would be unpacked.
            return file.read(member.file_size)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError) as error:
        raise Damaged(str(error)) from error


def check_weight(size: int, heaviest: int = _HEAVIEST) -> None:
    """Refuse a file that is empty or larger than `heaviest` bytes.

    Raises:
        BadVideo: It is refused.
    """
    if size > heaviest:
        what = "a picture" if heaviest == _HEAVIEST else "a file in a zip"
        raise BadVideo(f"is {size // _MIB} MiB large, more than the {heaviest // _MIB} MiB that {what} may be")
    if size == 0:
        raise BadVideo("is empty")


@functools.lru_cache(8)
def _open(path: Path, _changed: int, _size: int, _process: int) -> Archive:
    """Open a zip file and keep it open: a directory of a million pictures takes seconds to read.

    Forked processes share a file's position, so each process opens its own.
    """
    file = zipfile.ZipFile(path)
    folders: dict[str, dict[str, zipfile.ZipInfo]] = {}
    members: dict[str, zipfile.ZipInfo] = {}
    for member in file.infolist():
        *above, last = name_of(member).split("/")
        if not last or member.is_dir() or is_hidden(last):
            continue
        if any(is_no_data(part) and part != ".." for part in above):
            continue
        members[name_of(member)] = member
        if is_picture(last):
            folders.setdefault("/".join(above), {})[last] = member
    ordered = {folder: [named[name] for name in in_order(named)] for folder, named in folders.items()}
    return Archive(file, threading.Lock(), ordered, members)
