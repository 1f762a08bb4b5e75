"""Scanning a folder for clips, in any of the usual layouts, and for their captions and classes.

A folder may mix video files, folders of pictures, zip files of pictures, animated pictures, strips of frames and tar
files, at any depth. A single zip or tar file is accepted as well. Captions come from tables in the folder or below it
(`captions.csv`, `metadata.jsonl`: see `fastvgan.data.folders.tables`), else from `clip.txt` beside `clip.mp4` (or
beside the folder `clip`, `clip.zip`, `clip.png`). Classes come from the tables, else from folders' names: see
`fastvgan.data.folders.classes`.
"""

import os
import posixpath
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from fastvgan.data.folders import leftovers, names
from fastvgan.data.folders.annotations import SUFFIXES, is_there, read_captions
from fastvgan.data.folders.classes import add_classes
from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.splits import take_listed
from fastvgan.data.folders.tables import TABLE_IN_ARCHIVE, Table, is_table, match_annotations, read_tables
from fastvgan.data.media import pictures, zips
from fastvgan.data.media.animations import is_animated, is_animation
from fastvgan.data.media.types import BadVideo, Media
from fastvgan.data.paths import NOT_REGULAR, as_text, is_special, stays_within, unusable_name
from fastvgan.errors import UserError

_BESIDE_VIDEOS = "is a single picture beside videos"
_SAMPLED = 3  # pictures of a folder whose sizes decide whether they are strips
_WORDS = {
    "video": ("video file", "video files"),
    "frames": ("folder of pictures", "folders of pictures"),
    "zip": ("clip in zip files", "clips in zip files"),
    "strip": ("strip", "strips"),
    "animation": ("animated picture", "animated pictures"),
    "tar": ("clip in tar files", "clips in tar files"),
}


@dataclass(frozen=True)
class Layout:
    """How a folder is read.

    kind: "videos", "frames" or "strips" for only these, or "auto" for everything, with strips recognized by their
        shape.
    split_file: If set, use only the clips that it lists.
    strip_frames: Frames per strip; 0 for square frames.
    follow_links: Follow symbolic links, even out of the folder.
    """

    kind: str = "auto"
    split_file: Path | None = None
    strip_frames: int = 0
    follow_links: bool = False


class Scan(NamedTuple):
    """The result of `scan`: candidate clips, rejected files, and remarks on the folder."""

    entries: list[Entry]
    rejected: list[Rejected]
    remarks: list[str]


def scan(folder: Path, layout: Layout, exclude: Path | None = None) -> Scan:
    """Find the clips below a folder, in the order of their names.

    No frame is decoded. Only the headers of pictures and of files with unknown suffixes are read.

    Args:
        folder: The folder, or one file, such as a zip or tar file of clips.
        layout: How the folder is read.
        exclude: A folder below it that is skipped, together with the classes and captions of its files.

    Raises:
        UserError: The folder is missing or holds no clip, or its captions file or the split file is unusable.
    """
    if not folder.exists():
        raise UserError(f"the data folder {folder} does not exist; pass a folder of clips, or `digits`")
    file, folder = (None, folder) if folder.is_dir() else (folder, folder.parent)
    found = _Collector(folder, layout, exclude)
    if file is None:
        found.add_folder(folder)
    else:
        found.add_file(file)
        found.tables = [path for path in folder.iterdir() if is_table(path.name) and is_there(path, found.within)]
    entries, rejected = found.entries, found.rejected
    if not entries and file is not None:
        why = found.rejected[0].reason if found.rejected else "holds no clip"
        raise UserError(
            f"the data {file} is not a folder, and {why}; pass a folder of clips, a zip of them, or `digits`"
        )
    if not entries:
        raise UserError(_no_clip_message(folder, rejected, exclude, found.skipped, found.prepared))
    entries, class_remarks = add_classes(sorted(entries, key=lambda entry: entry.name))
    known = {item.name for item in [*entries, *rejected]}
    if layout.split_file is not None:
        entries, missing = take_listed(entries, layout.split_file, folder)
        rejected += missing
    known |= {item.name for item in rejected}
    tables, other_texts, table_remarks = read_tables(folder, found.tables)
    entries, missing = _add_captions(tables, entries, known, found.within)
    missing = missing if file is None else []  # the tables also describe the other files beside this one
    counts = Counter(entry.media.kind for entry in entries)
    kinds = [f"{count} {_WORDS[kind][count > 1]}" for kind, count in sorted(counts.items())]
    remarks = [f"found {', '.join(kinds)}"] if set(counts) != {"video"} else []
    understood = {_caption_file(entry) for entry in entries} | ({layout.split_file} if layout.split_file else set())
    texts = [path for path in sorted([*found.texts, *other_texts]) if path not in understood]
    remarks += (
        class_remarks + table_remarks + leftovers.remarks(folder, found.skipped, found.prepared, found.hidden, texts)
    )
    return Scan(entries, sorted(rejected + missing, key=lambda item: item.name), remarks)


def _no_clip_message(
    folder: Path, rejected: list[Rejected], exclude: Path | None, skipped: list[str], prepared: list[str]
) -> str:
    outside = f" outside {exclude}" if exclude and exclude.exists() else ""
    why = f" ({rejected[0].name}: {rejected[0].reason})" if rejected else ""
    why = why or (f" ({skipped[0]} is skipped because of its name)" if skipped else "")
    why = why or (f" ({prepared[0]} was written by `prepare`; pass its OUT instead)" if prepared else "")
    return (
        f"{folder} holds no clip{outside}{why}: no video file, no folder, zip or strip of pictures, no animated "
        "picture and no tar of videos; pass a folder that does"
    )


class _Collector:
    """Collects the clips below a folder.

    Attributes:
        within: Resolved path that links must not lead out of; None follows all links.
        skipped: Folders that are skipped because of their names.
        prepared: Folders that are skipped because `prepare` wrote them.
        hidden: Hidden files that may be clips.
        texts: Text files, which may hold captions.
        tables: Files with the name of a table of captions.
    """

    def __init__(self, folder: Path, layout: Layout, exclude: Path | None):
        self.entries: list[Entry] = []
        self.rejected: list[Rejected] = []
        self.skipped: list[str] = []
        self.prepared: list[str] = []
        self.hidden: list[str] = []
        self.texts: list[Path] = []
        self.tables: list[Path] = []
        self.within = None if layout.follow_links else folder.resolve()
        self._folder, self._layout = folder, layout
        self._videos: dict[Path, list[str]] = defaultdict(list)  # names of video files, by their folder
        self._exclude = exclude.resolve() if exclude else None

    def add_folder(self, folder: Path, above: tuple[Path, ...] = ()) -> None:
        """Add the contents of a folder and those below it; `above` are the resolved paths of its parents."""
        real = folder.resolve()
        if real in above or self._is_excluded(folder):  # `real in above`: a circular link
            return
        try:
            with os.scandir(folder) as listed:
                items = sorted(listed, key=lambda item: item.name)
        except OSError as error:
            self._reject(folder, f"cannot be read: {error.strerror or error}")
            return
        shown = []
        for item in items:
            path = Path(item.path)
            if self._is_no_data(item, path) or not self._may_take(item, path):
                continue
            if _is_folder(item):
                if not item.is_symlink() or self._layout.follow_links:
                    self.add_folder(path, (*above, real))
            elif names.is_picture(item.name):
                shown.append(path)
            else:
                self._take_file(path)
        self._take_pictures(folder, shown)

    def add_file(self, file: Path) -> None:
        """Add the contents of a single file."""
        if is_special(file):
            self._reject(file, NOT_REGULAR)
        elif names.is_picture(file.name):
            self._take_pictures(file.parent, [file])
        else:
            self._take_file(file)

    def _is_no_data(self, item: os.DirEntry, path: Path) -> bool:
        if not _is_folder(item):
            is_hidden = names.is_hidden(item.name)
            if is_hidden and leftovers.is_hidden_clip(item.name):
                self.hidden.append(as_text(self._name(path)))
            return is_hidden
        # The folder that was asked for may be one that `prepare` wrote to.
        if path.parent != self._folder and leftovers.is_prepared(path):
            self.prepared.append(as_text(self._name(path)))
            return True
        if not names.is_no_data(item.name):
            return False
        if item.name not in leftovers.OURS:
            self.skipped.append(as_text(self._name(path)))
        return True

    def _may_take(self, item: os.DirEntry, path: Path) -> bool:
        """Whether an item of a folder may be read; if not, and it could be of use, it is rejected by name."""
        if wrong := unusable_name(item.name):
            self._reject(path, wrong)
            return False
        if not item.is_file(follow_symlinks=False) and is_special(path):
            self._reject(path, NOT_REGULAR)
            return False
        if not item.is_symlink():
            return True
        if self._is_excluded(path):
            return False
        follow = self.within is None or stays_within(path, self.within)
        if not follow and (_is_folder(item) or _is_of_use(item.name)):
            self._reject(path, "is a link that leads out of the folder; --follow-links follows it")
        return follow

    def _is_excluded(self, path: Path) -> bool:
        return self._exclude is not None and stays_within(path, self._exclude)

    def _take_file(self, path: Path) -> None:
        suffix, wanted = path.suffix.lower(), self._layout.kind
        if suffix in SUFFIXES and wanted in ("auto", "videos"):
            self._add(Media("video", path), self._name(path))
        elif suffix == ".zip" and wanted in ("auto", "frames", "videos"):
            self._take_zip(path)
        elif suffix == ".tar" and wanted in ("auto", "videos"):
            from fastvgan.data.media.tars import clips_in  # imports webdataset, which few runs need

            entries, rejected = clips_in(path, self._name(path))
            self.entries += entries
            self.rejected += rejected
        elif suffix not in (*SUFFIXES, ".zip", ".tar"):
            self._take_unknown(path)

    def _take_unknown(self, path: Path) -> None:
        """Take a file with an unknown suffix if it holds a video; otherwise reject it by name."""
        if is_table(path.name) and path.is_file():
            self.tables.append(path)
        elif leftovers.is_text(path):
            self.texts.append(path)
        elif self._layout.kind in ("auto", "videos"):
            reason = leftovers.why_unusable(path)
            if reason:
                self._reject(path, reason)
            else:
                self._add(Media("video", path), self._name(path))

    def _take_zip(self, path: Path) -> None:
        wanted = self._layout.kind
        try:
            found = [("video", name) for name in zips.videos_in(path)] if wanted in ("auto", "videos") else []
            videos: dict[str, list[str]] = defaultdict(list)
            for _, name in found:
                videos[posixpath.dirname(name)].append(posixpath.basename(name))
            for folder in pictures.zip_folders(path):
                moving = _moving(path, folder) if wanted in ("auto", "videos") else []
                found += [("animation", name) for name in moving]
                if moving or wanted == "videos":
                    continue
                shown = zips.pictures_in(path, folder)
                if names.are_posters(map(posixpath.basename, shown), videos[folder]):
                    self._reject_members(path, shown, _BESIDE_VIDEOS)
                else:
                    found.append(("zip", folder))
            texts = zips.texts_in(path)
        except BadVideo as error:
            self._reject(path, str(error))
            return
        if not found:
            self._reject(path, f"holds no pictures or videos{'' if wanted == 'auto' else f' for --layout {wanted}'}")
        tables = [text for text in texts if is_table(posixpath.basename(text))]
        self._reject_members(path, tables, TABLE_IN_ARCHIVE)
        used = {*tables, *(_caption_member(kind, member) for kind, member in found)}
        self.texts += [path / text for text in texts if text not in used]
        for kind, member in found:
            name = self._name(path) + (f"/{member}" if member else "")
            try:
                captions = zips.captions_in(path, _caption_member(kind, member))
                wrong = unusable_name(member)
            except BadVideo as error:
                captions, wrong = (), str(error)
            if wrong:
                self.rejected.append(Rejected(as_text(name), wrong))
            else:
                self.entries.append(Entry(Media(kind, path, member), name, captions))

    def _reject_members(self, path: Path, members: list[str], reason: str) -> None:
        self.rejected += [Rejected(as_text(f"{self._name(path)}/{member}"), reason) for member in members]

    def _take_pictures(self, folder: Path, shown: list[Path]) -> None:
        wanted, count = self._layout.kind, self._layout.strip_frames
        moving = [path for path in shown if is_animation(path)] if wanted in ("auto", "videos") else []
        for path in moving:
            self._add(Media("animation", path), self._name(path))
        shown = sorted(set(shown).difference(moving)) if moving else shown
        if not shown or wanted == "videos":
            return
        if wanted == "strips" or (wanted == "auto" and all(_is_strip(p, count) for p in shown[:_SAMPLED])):
            for path in shown:
                self._add(Media("strip", path, strip_frames=count), self._name(path))
        elif moving:
            self._reject_pictures(shown, "is a single picture beside animated ones")
        elif names.are_posters([path.name for path in shown], self._videos[folder]):
            self._reject_pictures(shown, _BESIDE_VIDEOS)
        elif len(shown) > 1 and folder != self._folder:
            self._add(Media("frames", folder, within=self.within), self._name(folder))
        else:
            self._reject_pictures(shown, "is a single picture, neither in a folder of frames nor a strip of frames")

    def _reject_pictures(self, shown: list[Path], reason: str) -> None:
        for path in shown:
            self._reject(path, reason)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _add(self, media: Media, name: str) -> None:
        self.entries.append(Entry(media, name))
        if media.kind == "video":
            self._videos[Path(media.path).parent].append(Path(media.path).name)

    def _reject(self, path: Path, reason: str) -> None:
        self.rejected.append(Rejected(as_text(self._name(path)), reason))


def _is_folder(item: os.DirEntry) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a circular link
        return False


def _is_of_use(name: str) -> bool:
    texts = {".txt", ".csv", ".tsv", ".jsonl"}
    return names.is_picture(name) or Path(name).suffix.lower() in SUFFIXES | {".zip", ".tar"} | texts


def _caption_member(kind: str, member: str) -> str:
    """The text of a zip file that may hold a clip's captions, as in a folder: see `_caption_file`."""
    return f"{member if kind == 'zip' else posixpath.splitext(member)[0]}.txt"


def _moving(path: Path, folder: str) -> list[str]:
    """The animated pictures in a folder of a zip file, if the first few are animated."""
    shown = zips.pictures_in(path, folder)
    if not all(_is_animated_member(path, name) for name in shown[:_SAMPLED]):
        return []
    return [name for name in shown if _is_animated_member(path, name)]


def _is_animated_member(path: Path, member: str) -> bool:
    try:
        return is_animated(BytesIO(zips.read_member(path, member)))
    except BadVideo:  # reported when its clip is decoded
        return False


def _is_strip(path: Path, strip_frames: int) -> bool:
    size = pictures.header_size(path)
    if size is None:
        return False
    try:
        return pictures.strip_layout(*size, strip_frames)[0] > 1
    except BadVideo:
        return False


def _add_captions(
    tables: list[Table], entries: list[Entry], known: set[str], within: Path | None
) -> tuple[list[Entry], list[Rejected]]:
    """Add captions and classes to entries; return also the names in tables that are not among the `known` ones."""
    # A dot in a folder's name starts no suffix.
    folders = {e.name for e in entries if e.media.kind == "frames" or (e.media.kind == "zip" and e.media.member)}
    annotations, missing = match_annotations(tables, known, known - folders)
    clips_per_file = Counter(entry.media.path for entry in entries)
    result = []
    for entry in entries:
        captions, label = annotations.get(entry.name, ((), None))
        is_alone = entry.media.kind in ("video", "frames", "strip", "animation") and not entry.media.member
        is_alone = is_alone or clips_per_file[entry.media.path] == 1
        if not captions and not entry.captions and is_alone and not entry.media.span:
            captions = read_captions(_caption_file(entry), within)
        result.append(replace(entry, captions=captions or entry.captions, label=label or entry.label))
    return result, [Rejected(name, "is listed in the captions file but does not exist") for name in missing]


def _caption_file(entry: Entry) -> Path:
    """The text file that may hold a clip's captions: `clip.txt` beside `clip.mp4` or beside the folder `clip`."""
    path = Path(entry.media.path)
    # A dot in a folder's name starts no suffix.
    return path.with_name(f"{path.name}.txt") if entry.media.kind == "frames" else path.with_suffix(".txt")
