"""Manifests: lists of the clips of a training set, one line of JSON per clip, in `manifest.jsonl`.

The first line is a header, `{"fastvgan manifest": 1, "root": "…"}`; the paths in the other lines are relative to the
root. The root is relative to the manifest's folder, or absolute. An absolute root is read only if the user names it
too: a manifest is data, and data must not decide which files are opened.
"""

import functools
import itertools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec

from fastvgan.data.folders.entry import Rejected
from fastvgan.data.media.types import FARTHEST, KINDS, MOST_FRAMES, BadVideo, Media, Probe, check_probe
from fastvgan.data.paths import LEADS_OUT, leads_out, stays_within
from fastvgan.errors import UserError
from fastvgan.files.atomic import whole

if TYPE_CHECKING:
    import numpy as np

MANIFEST, REJECTS = "manifest.jsonl", "rejects.jsonl"
_MAGIC, _FORMAT = "fastvgan manifest", 1
_SHARD = "shard"


@dataclass(frozen=True)
class Record:
    """One clip of a manifest.

    path: Relative to the root, with "/" between folders.
    kind: One of `media.types.KINDS`, or "shard" (decoded frames in a safetensors file).
    member: As in `media.types.Media`; of a shard, the name of a tensor.
    span: As in `media.types.Media`.
    strip_frames: As in `media.types.Media`.
    checksum: "sha256:…" of the file's bytes (of a folder, of its pictures' names and bytes).
    bytes: Size of the file.
    source: The file that the clip was made from, if it is another one.

    The other fields are those of `media.types.Probe` and of `Entry`.
    """

    path: str
    kind: str
    frames: int
    height: int
    width: int
    codec: str = ""
    fps: float | None = None
    steady: bool = True
    rotation: int = 0
    captions: tuple[str, ...] = ()
    label: str | None = None
    checksum: str = ""
    bytes: int = 0
    member: str = ""
    span: tuple[int, int] | None = None
    strip_frames: int = 0
    pts: "np.ndarray | None" = None
    keys: tuple[int, ...] = ()
    colours: str = ""
    source: str = ""
    stream: int = 0
    mirrored: bool = False
    square_pixels: bool = True
    interlaced: bool = False
    transparent: bool = False

    @property
    def name(self) -> str:
        """Name of the clip in messages."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def found(self) -> Probe:
        """The fields that decoding needs."""
        return Probe(
            self.frames,
            self.height,
            self.width,
            self.codec,
            self.fps,
            self.steady,
            self.rotation,
            self.pts,
            self.keys,
            self.colours,
            self.stream,
            self.mirrored,
            self.square_pixels,
            self.interlaced,
            self.transparent,
        )

    def to_json(self) -> dict[str, Any]:
        """Convert the record to JSON values without its defaults; `label` is written as `class`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["class"] = values.pop("label")
        values["pts"] = _pack_times(self.pts)
        defaults = {field.name: field.default for field in fields(self)} | {"class": None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != defaults[k]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        """Make a record from JSON values.

        Raises:
            ValueError, TypeError, KeyError, BadVideo: The values are invalid, or those of an unusable clip.
        """
        values = dict(values)
        values["label"] = values.pop("class", None)
        for name, least in _COUNTS.items():
            _check_count(name, values.get(name, least), least)
        values["pts"] = _unpack_times(values.get("pts"), values["frames"])
        for name in ("captions", "keys"):
            if isinstance(values.get(name), str):  # which has letters as its elements
                raise ValueError(f"{name} must be a list, not {values[name]!r:.40}")
            values[name] = tuple(values.get(name, ()))
        if values.get("span") is not None:
            first, length = values["span"]
            values["span"] = (first, length)
        record = cls(**values)
        if record.kind not in (*KINDS, _SHARD):
            raise ValueError(f"kind must be one of {', '.join((*KINDS, _SHARD))}, not {record.kind!r}")
        for number in (*record.keys, *(record.span or ())):
            _check_count("each number in keys and span", number, 0)
        if any(a >= b for a, b in itertools.pairwise((-1, *record.keys, record.frames))):
            raise ValueError(f"keys must rise and be below {record.frames}, the number of frames")
        if record.fps is not None and not (isinstance(record.fps, int | float) and 0 < record.fps < math.inf):
            raise ValueError(f"fps must be a number above 0, not {record.fps!r:.40}")
        if not all(isinstance(getattr(record, name), bool) for name in _SWITCHES):
            raise ValueError(f"{', '.join(_SWITCHES)} must be true or false")
        _check_texts(record)
        check_probe(record.found)
        return record


# Smallest value of each.
_COUNTS = {"frames": 1, "height": 1, "width": 1, "bytes": 0, "strip_frames": 0, "stream": 0}
_MOST = {"frames": MOST_FRAMES}
_SWITCHES = ("steady", "mirrored", "square_pixels", "interlaced", "transparent")


def _check_texts(record: Record) -> None:
    label = () if record.label is None else (record.label,)
    texts = (record.path, record.member, record.codec, *record.captions, *label)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("path, member, codec, captions and class must be strings")
    "".join(texts).encode()  # raises for lone surrogates, which JSON can hold but files cannot
    if "\0" in record.path:
        raise ValueError("a path cannot hold a zero byte")


def _check_count(name: str, value: Any, least: int) -> None:
    most = _MOST.get(name, FARTHEST)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r:.40}")


def _pack_times(pts: "np.ndarray | None") -> Any:
    """Equidistant times as their first value and step, others as a list."""
    import numpy as np  # late: the plain install lacks it

    if pts is None or len(pts) < 2:
        return None if pts is None else pts.tolist()
    steps = np.diff(pts)
    return {"first": int(pts[0]), "step": int(steps[0])} if (steps == steps[0]).all() else pts.tolist()


def _unpack_times(value: Any, frames: int) -> "np.ndarray | None":
    import numpy as np  # late: the plain install lacks it

    if value is None:
        return None
    if isinstance(value, dict):
        first, step = value["first"], value["step"]
        _check_count("step of pts", step, 1)
        for time in (first, first + step * (frames - 1)):
            _check_count("each time in pts", time, -FARTHEST)
        return first + step * np.arange(frames, dtype=np.int64)
    if len(value) != frames:
        raise ValueError(f"{len(value)} times for {frames} frames")
    for time in value:
        _check_count("each time in pts", time, -FARTHEST)
    times = np.array(value, dtype=np.int64)
    if (times[1:] <= times[:-1]).any():
        raise ValueError("pts must rise")
    return times


def write_manifest(path: Path, records: Iterable[Record], root: str = ".") -> None:
    """Write a manifest atomically; the same records yield the same bytes."""
    lines = [{_MAGIC: _FORMAT, "root": root}, *(record.to_json() for record in records)]
    write_lines(path, lines)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write one line of JSON per value, atomically."""
    with whole(path) as temporary:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Manifest:
    """The records of a manifest, and the folder (or URL) that their paths are relative to."""

    records: tuple[Record, ...]
    root: "Path | str"
    follow_links: bool = False

    def media(self, record: Record) -> Media:
        """Locate the frames of a record.

        Raises:
            UserError: The record's path leads out of the root.
        """
        path = self._below.join(record.path)
        return Media(record.kind, path, record.member, record.span, record.strip_frames, self._below.within)

    def divide(self) -> tuple[list[tuple[Record, Media]], list[Rejected]]:
        """Locate the records, and separate those whose file on this machine has changed its size since `prepare`.

        Missing files and changed folders of pictures are found when they are decoded.

        Raises:
            UserError: A record's path leads out of the root.
        """
        good: list[tuple[Record, Media]] = []
        changed: list[Rejected] = []
        size_of = functools.cache(_file_size)  # many clips may share a file
        for record in self.records:
            media = self.media(record)
            is_known = isinstance(media.path, Path) and record.bytes and record.kind not in ("frames", _SHARD)
            size = size_of(str(media.path)) if is_known else None
            if size is None or _may_be(record, size):
                good.append((record, media))
            else:
                changed.append(
                    Rejected(record.name, f"has changed since `prepare` ({size} bytes); run `prepare` again")
                )
        return good, changed

    @functools.cached_property
    def _below(self) -> "_Root":
        return _Root(self.root, self.follow_links)


def _file_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _may_be(record: Record, size: int) -> bool:
    """Whether a file of that size may be the one that was prepared."""
    return sum(record.span) <= size if record.span else record.bytes == size


def find_manifest(data: str) -> str | None:
    """Return the manifest that `data` means: a file or URL itself, or the one in a folder; None if it is missing."""
    if data.endswith(".jsonl"):
        return data
    if "://" in data:
        return f"{data.rstrip('/')}/{MANIFEST}"
    path = Path(data) / MANIFEST
    return str(path) if path.is_file() else None


def is_manifest(path: Path) -> bool:
    """Return whether a file begins with a manifest's header."""
    with path.open("rb") as file:
        return file.readline(2**16).startswith(b'{"' + _MAGIC.encode() + b'"')


def read_manifest(location: str, root: str | None = None, follow_links: bool = False) -> Manifest:
    """Read a manifest from a path or a URL that fsspec knows.

    Args:
        location: The path or URL.
        root: The folder or URL that paths are relative to, instead of the one that the manifest names.
        follow_links: Follow symbolic links, even out of the root.

    Raises:
        UserError: The file cannot be read or is not a manifest, or it names a root outside its folder and `root` is
            not given.
    """
    try:
        # fsspec would take "::" in a path for the beginning of a URL.
        opener = (
            fsspec.open(location, "rt", encoding="utf-8") if "://" in location else open(location, encoding="utf-8")
        )
        with cast(IO[str], opener) as file:  # fsspec's stub adds list, for patterns
            lines = file.read().split("\n")  # not splitlines: captions may hold other line separators
    except Exception as error:  # the file systems behind URLs raise errors of any kind
        raise UserError(f"cannot read the manifest {location}: {error or type(error).__name__}") from error
    header = _parse(location, 1, lines[0] if lines else "")
    if not isinstance(header, dict) or header.get(_MAGIC) != _FORMAT:
        raise UserError(
            f"{location} is not a manifest of this version: its first line must be {json.dumps({_MAGIC: _FORMAT})}; "
            "write one with `fastvgan prepare`"
        )
    records = tuple(_record(location, i, line) for i, line in enumerate(lines[1:], 2) if line.strip())
    if not records:
        raise UserError(f"{location} lists no clip; prepare a folder that holds clips")
    return Manifest(records, _resolve_root(location, str(header.get("root", ".")), root, follow_links), follow_links)


def _parse(location: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location}, line {number} is not JSON: {error}") from error


def _record(location: str, number: int, line: str) -> Record:
    values = _parse(location, number, line)
    try:
        return Record.from_json(values)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, BadVideo) as error:
        raise UserError(f"{location}, line {number} is not a valid clip: {error}") from error


def _resolve_root(location: str, named: str, given: str | None, follow_links: bool) -> "Path | str":
    if given is not None:
        return given if "://" in given else Path(given)
    folder = location.rsplit("/", 1)[0] if "/" in location else "."
    if named == ".":
        return folder if "://" in location else Path(folder)
    if leads_out(named):
        raise UserError(f"{location} lists files in {named}, outside its folder; allow it with --root {named}")
    # A link in the manifest's folder may lead out as well.
    return _Root(folder if "://" in location else Path(folder), follow_links).join(named)


class _Root:
    """A folder or URL below which the files of a manifest lie.

    Args:
        root: The folder or URL.
        follow_links: Allow symbolic links that lead out of it.

    Attributes:
        within: The resolved path of the folder that links must not lead out of; None if they are followed or it is a
            URL.
    """

    def __init__(self, root: "Path | str", follow_links: bool = False):
        self._root = root
        self.within = None if follow_links or isinstance(root, str) else root.resolve()
        self._inside: dict[Path, bool] = {}  # by folder: resolving one takes a system call for each of its parents

    def join(self, name: str) -> "Path | str":
        """Join the root and the name of a file below it, with "/" between folders.

        Raises:
            UserError: The name leads out of the root, by `fastvgan.data.paths.leads_out` or as a symbolic link.
        """
        # fsspec reads the part after "::" in a URL as another URL.
        if leads_out(name) or (isinstance(self._root, str) and "::" in name):
            raise UserError(f"the manifest of {self._root} names {name}, which {LEADS_OUT}")
        if isinstance(self._root, str):
            return f"{self._root.rstrip('/')}/{name}"
        path = self._root / name
        if self.within is not None and not self._contains(path, self.within):
            raise UserError(f"{path} is a broken link or leads out of {self._root}; --follow-links follows it")
        return path

    def _contains(self, path: Path, within: Path) -> bool:
        folder = path.parent
        if folder not in self._inside:
            self._inside[folder] = stays_within(folder, within)
        return (self._inside[folder] and not os.path.islink(path)) or stays_within(path, within)
