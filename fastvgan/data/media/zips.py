"""Zip files of pictures, videos and animations: what they hold, read in place."""

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
_HEAVIEST = 256 * _MIB  # bytes of one picture's file
_HEAVIEST_VIDEO = 2**10 * _MIB  # of a video in a zip, which is unpacked into memory


class Archive(NamedTuple):
    """A zip file that is open; reading from it takes its lock.

    folders: what pictures each folder holds, "" being the root, in order. members: all files that are looked at, by
    their names below the root.
    """

    file: zipfile.ZipFile
    lock: threading.Lock
    folders: dict[str, list[zipfile.ZipInfo]]
    members: dict[str, zipfile.ZipInfo]


def open_archive(path: Path) -> Archive:
    """A zip file, its directory read.

    Raises:
        BadVideo: it cannot be read or is no zip file.
    """
    try:
        stat = path.stat()
        if stat.st_size == 0:
            raise BadVideo("is empty")
        return _open(path, stat.st_mtime_ns, stat.st_size, os.getpid())
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error) as error:
        raise BadVideo(f"is no zip file, or is cut short: {error}") from error


def videos_in(path: Path) -> list[str]:
    """The names of the video files in a zip file, by their suffixes, in order.

    Raises:
        BadVideo: as of `open_archive`.
    """
    return in_order(name for name in open_archive(path).members if os.path.splitext(name)[1].lower() in SUFFIXES)


def pictures_in(path: Path, folder: str) -> list[str]:
    """The names of the pictures that a folder of a zip file holds, below the zip file's root, in order.

    Raises:
        BadVideo: as of `open_archive`.
    """
    return [name_of(member) for member in open_archive(path).folders[folder]]


def read_member(path: Path, name: str) -> bytes:
    """The bytes of one file in a zip file.

    Raises:
        BadVideo: it is not there, cannot be unpacked, or is too large.
    """
    archive = open_archive(path)
    if name not in archive.members:
        raise BadVideo(f"has changed: there is no {name} in it any more")
    try:
        return member_bytes(archive, archive.members[name], _HEAVIEST if is_picture(name) else _HEAVIEST_VIDEO)
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error


def captions_beside(path: Path, name: str) -> tuple[str, ...]:
    """The captions of a video or animation in a zip file: of the text of its name beside it, one a line.

    Raises:
        BadVideo: there is such a text, and it cannot be read.
    """
    text = f"{os.path.splitext(name)[0]}.txt"
    archive = open_archive(path)
    if text not in archive.members:
        return ()
    try:
        data = member_bytes(archive, archive.members[text], _MIB)
        return clean_captions(data.decode("utf-8-sig").splitlines())
    except (BadVideo, UnicodeDecodeError, OSError) as error:
        raise BadVideo(f"has captions, {text}, that cannot be read: {error}") from error


def name_of(member: zipfile.ZipInfo) -> str:
    """A member's name, with "/" between folders."""
    return "/".join(part for part in member.filename.replace("\\", "/").split("/") if part != ".")


def member_bytes(archive: Archive, member: zipfile.ZipInfo, heaviest: int = _HEAVIEST) -> bytes:
    """The bytes of a member; one of more than `heaviest` is refused.

    Raises:
        BadVideo: it cannot be unpacked or is too large.
    """
    check_weight(member.file_size, heaviest)
    if member.flag_bits & 1:
        raise BadVideo("is encrypted; pack it without a password")
    # The others are unpacked without any bound by Python: what a member claims to be is no limit to them.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadVideo("is packed by another method than deflate; pack it again")
    try:
        with archive.lock, archive.file.open(member) as file:
            # Without a number the whole is unpacked, however much more than it claims; with it the checksum is wrong.
            return file.read(member.file_size)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError) as error:
        raise Damaged(str(error)) from error


def check_weight(size: int, heaviest: int = _HEAVIEST) -> None:
    """Refuse a file of that many bytes as a picture's, or another's, where it is too large or empty.

    Raises:
        BadVideo: it is.
    """
    if size > heaviest:
        what = "a picture" if heaviest == _HEAVIEST else "a file in a zip"
        raise BadVideo(f"is {size // _MIB} MiB large, more than the {heaviest // _MIB} MiB that {what} may be")
    if size == 0:
        raise BadVideo("is empty")


@functools.lru_cache(8)
def _open(path: Path, _changed: int, _size: int, _process: int) -> Archive:
    """A zip file as it is now, kept open: the directory of one with a million pictures takes seconds to read.

    Processes that were forked share the place up to which a file is read; so each opens its own.
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
