"""The list of a training set's clips: a line of JSON each, in `manifest.jsonl`.

The first line is a header, `{"fastvgan manifest": 1, "root": "…"}`; the paths of all others lie below the root. A root
is a folder relative to the manifest's own, or an absolute one, which is read only where the user names it too: a
manifest is data, and data does not decide what is opened.
"""

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from fastvgan.data.media.types import FARTHEST, KINDS, MOST_FRAMES, BadVideo, Media, Probe, check
from fastvgan.data.paths import LEADS_OUT, leads_out, stays_within
from fastvgan.errors import UserError
from fastvgan.files.atomic import whole

MANIFEST, REJECTS = "manifest.jsonl", "rejects.jsonl"
_MAGIC, _FORMAT = "fastvgan manifest", 1
_SHARD = "shard"


@dataclass(frozen=True)
class Record:
    """One clip of a manifest.

    path: below the root, with "/" between folders. kind: one of `media.types.KINDS`, or "shard" (decoded frames
    in a safetensors file). member, span, strip_frames: as of `media.types.Media`; of a shard, member is the name of a
    tensor. checksum: "sha256:…" of the file's bytes (of a folder, of its pictures' names and bytes). bytes: its
    size. source: the file that it was made from, where that is another.
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
    pts: np.ndarray | None = None
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
        """What messages call it."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def found(self) -> Probe:
        """What decoding needs to know of it."""
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
        """Plain values, those that say nothing left out; `class` and not `label`, as users write it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["class"] = values.pop("label")
        values["pts"] = _packed(self.pts)
        defaults = {field.name: field.default for field in fields(self)} | {"class": None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != defaults[k]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        """The record of such values.

        Raises:
            ValueError, TypeError, KeyError, BadVideo: they are none, or of a clip that cannot be used.
        """
        values = dict(values)
        values["label"] = values.pop("class", None)
        for name, least in _COUNTS.items():
            _check_count(name, values.get(name, least), least)
        values["pts"] = _unpacked(values.get("pts"), values["frames"])
        for name in ("captions", "keys"):
            values[name] = tuple(values.get(name, ()))
        if values.get("span") is not None:
            first, length = values["span"]
            values["span"] = (first, length)
        record = cls(**values)
        if record.kind not in (*KINDS, _SHARD):
            raise ValueError(f"there is no kind {record.kind!r}")
        for number in (*record.keys, *(record.span or ())):
            _check_count("a number of keys or span", number, 0)
        if any(a >= b for a, b in itertools.pairwise((-1, *record.keys, record.frames))):
            raise ValueError(f"keys must rise and be below {record.frames}, the number of frames")
        if record.fps is not None and not (isinstance(record.fps, int | float) and 0 < record.fps < math.inf):
            raise ValueError(f"fps must be a number above 0, not {record.fps!r:.40}")
        if not all(isinstance(getattr(record, name), bool) for name in _SWITCHES):
            raise ValueError(f"{', '.join(_SWITCHES)} must be true or false")
        _check_texts(record)
        check(record.found)
        return record


# The least value of each.
_COUNTS = {"frames": 1, "height": 1, "width": 1, "bytes": 0, "strip_frames": 0, "stream": 0}
_MOST = {"frames": MOST_FRAMES}
_SWITCHES = ("steady", "mirrored", "square_pixels", "interlaced", "transparent")


def _check_texts(record: Record) -> None:
    said = () if record.label is None else (record.label,)
    texts = (record.path, record.member, record.codec, *record.captions, *said)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("path, member, codec, captions and class must be texts")
    "".join(texts).encode()  # JSON can hold halves of letters, which cannot be written down
    if "\0" in record.path:
        raise ValueError("a path cannot hold a zero byte")


def _check_count(name: str, value: Any, least: int) -> None:
    most = _MOST.get(name, FARTHEST)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r:.40}")


def _packed(pts: np.ndarray | None) -> Any:
    """Times that rise evenly as [first, step], others all."""
    if pts is None or len(pts) < 2:
        return None if pts is None else pts.tolist()
    steps = np.diff(pts)
    return {"first": int(pts[0]), "step": int(steps[0])} if (steps == steps[0]).all() else pts.tolist()


def _unpacked(value: Any, frames: int) -> np.ndarray | None:
    if value is None:
        return None
    if isinstance(value, dict):
        first, step = value["first"], value["step"]
        _check_count("step of pts", step, 1)
        for time in (first, first + step * (frames - 1)):
            _check_count("a time of pts", time, -FARTHEST)
        return first + step * np.arange(frames, dtype=np.int64)
    if len(value) != frames:
        raise ValueError(f"{len(value)} times for {frames} frames")
    for time in value:
        _check_count("a time of pts", time, -FARTHEST)
    times = np.array(value, dtype=np.int64)
    if (times[1:] <= times[:-1]).any():
        raise ValueError("pts must rise")
    return times


def write_manifest(path: Path, records: Iterable[Record], root: str = ".") -> None:
    """Write a manifest, whole or not at all; the same records give the same bytes."""
    lines = [{_MAGIC: _FORMAT, "root": root}, *(record.to_json() for record in records)]
    write_lines(path, lines)


def write_lines(path: Path, lines: Iterable[dict]) -> None:
    """Write a line of JSON each, whole or not at all."""
    with whole(path) as temporary:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Manifest:
    """A manifest as read: its records, and the folder (or URL) that their paths are below."""

    records: tuple[Record, ...]
    root: "Path | str"
    follow_links: bool = False

    def media(self, record: Record) -> Media:
        """Where the frames of a record are.

        Raises:
            UserError: its path leads out of the root.
        """
        path = below(self.root, record.path, self.follow_links)
        within = None if self.follow_links or isinstance(self.root, str) else self.root.resolve()
        return Media(record.kind, path, record.member, record.span, record.strip_frames, within)


def find_manifest(data: str) -> str | None:
    """The manifest that a user means: the file or URL itself, or the one in that folder; None where there is none."""
    if data.endswith(".jsonl"):
        return data
    if "://" in data:
        return f"{data.rstrip('/')}/{MANIFEST}"
    path = Path(data) / MANIFEST
    return str(path) if path.is_file() else None


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest of ours does."""
    with path.open("rb") as file:
        return file.readline(2**16).startswith(b'{"' + _MAGIC.encode() + b'"')


def read_manifest(location: str, root: str | None = None, follow_links: bool = False) -> Manifest:
    """Read a manifest from a path or a URL that fsspec knows.

    Args:
        root: the folder or URL that paths are below, in place of the one that the manifest names.
        follow_links: read what symbolic links below the root point to, even outside of it.

    Raises:
        UserError: it cannot be read, is no manifest, or names another root than its own folder and `root` does not.
    """
    try:
        with fsspec.open(location, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")  # not splitlines: captions may hold other ends of lines
    except Exception as error:  # what the file systems behind URLs raise is no closed list
        raise UserError(f"cannot read the manifest {location}: {error or type(error).__name__}") from error
    header = _parse(location, 1, lines[0] if lines else "")
    if not isinstance(header, dict) or header.get(_MAGIC) != _FORMAT:
        raise UserError(
            f"{location} is no manifest of this version: its first line must be {json.dumps({_MAGIC: _FORMAT})}; "
            "make it by python -m fastvgan.prepare"
        )
    records = tuple(_record(location, i, line) for i, line in enumerate(lines[1:], 2) if line.strip())
    if not records:
        raise UserError(f"{location} lists no clip")
    return Manifest(records, _root(location, str(header.get("root", ".")), root, follow_links), follow_links)


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
        raise UserError(f"{location}, line {number} describes no clip: {error}") from error


def _root(location: str, said: str, given: str | None, follow_links: bool) -> "Path | str":
    if given is not None:
        return given if "://" in given else Path(given)
    folder = location.rsplit("/", 1)[0] if "/" in location else "."
    if said == ".":
        return folder if "://" in location else Path(folder)
    if leads_out(said):
        raise UserError(f"{location} lists files in {said}; say that it may read there, by --root {said}")
    # A link in the manifest's own folder leads out as well as a name does.
    return below(folder if "://" in location else Path(folder), said, follow_links)


def below(root: "Path | str", name: str, follow_links: bool = False) -> "Path | str":
    """The file of that name below a root.

    Raises:
        UserError: the name leads out of the root, by `fastvgan.data.paths.leads_out` or as a symbolic link.
    """
    # fsspec takes what follows "::" in a URL for another URL.
    if leads_out(name) or (isinstance(root, str) and "::" in name):
        raise UserError(f"the manifest of {root} names {name}, which {LEADS_OUT}")
    if isinstance(root, str):
        return f"{root.rstrip('/')}/{name}"
    path = root / name
    if not follow_links and not stays_within(path, root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root} or nowhere; --follow-links reads what it leads to")
    return path
