"""Which clips a folder holds, in whichever of the usual layouts, and what is said of them.

Video files, folders of pictures, zip files of pictures, pictures that move, strips of frames and tar files may lie side
by side, in folders or not; a zip or tar file may also be given itself. Captions come from tables in the folder or below
it (`captions.csv`, `metadata.jsonl`: see `fastvgan.data.folders.tables`), else from `clip.txt` beside `clip.mp4` (or
beside the folder `clip`, `clip.zip`, `clip.png`); classes from those tables, else from the first level of folders at
which there are two or more with clips.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastvgan.data.folders import leftovers, names
from fastvgan.data.folders.annotations import SUFFIXES, captions_of, is_there
from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.splits import take_listed
from fastvgan.data.folders.tables import Table, is_table, match_annotations, read_tables
from fastvgan.data.media import pictures, zips
from fastvgan.data.media.animations import is_animation, moves
from fastvgan.data.media.types import BadVideo, Media
from fastvgan.data.paths import as_text, stays_within, unusable_name
from fastvgan.errors import UserError

__all__ = ["Entry", "Layout", "Rejected", "Scan", "scan"]

_LOOKED_AT = 3  # pictures of a folder whose sizes say whether they are strips
_WORDS = {
    "video": ("video file", "video files"),
    "frames": ("folder of pictures", "folders of pictures"),
    "zip": ("clip in zip files", "clips in zip files"),
    "strip": ("strip", "strips"),
    "animation": ("picture that moves", "pictures that move"),
    "tar": ("clip in tar files", "clips in tar files"),
}


@dataclass(frozen=True)
class Layout:
    """How a folder is read.

    kind: "videos", "frames" or "strips" takes only those, "auto" all that are there, telling strips from frames by
    their shape. split_file: take only what it lists. strip_frames: frames in a strip, 0 where they are square.
    follow_links: read what symbolic links point to, even outside of the folder.
    """

    kind: str = "auto"
    split_file: Path | None = None
    strip_frames: int = 0
    follow_links: bool = False


class Scan(NamedTuple):
    """What a look through a folder gives: its clips, what takes no part, and what was made of the folder."""

    entries: list[Entry]
    rejected: list[Rejected]
    remarks: list[str]


def scan(folder: Path, layout: Layout, without: Path | None = None) -> Scan:
    """The clips below a folder, in the order of their names, what takes no part, and what was made of the folder.

    No frame is decoded: the headers of pictures are looked at, and of files whose suffix says nothing.

    Args:
        folder: the folder; or one file, such as a zip or tar file of clips. without: a folder below it that is passed
            over, with all that is said by the names of what it holds.

    Raises:
        UserError: the folder is missing or holds no clip, or its captions file or the split file is unusable.
    """
    if not folder.exists():
        raise UserError(f"the data folder {folder} does not exist; give a folder of clips, or `digits`")
    file, folder = (None, folder) if folder.is_dir() else (folder, folder.parent)
    found = _Found(folder, layout, without)
    if file is None:
        found.look_through(folder)
    else:
        found.look_at(file)
        found.tables = [path for path in folder.iterdir() if is_table(path.name) and is_there(path, found.within)]
    entries, rejected = found.entries, found.rejected
    if not entries and file is not None:
        why = found.rejected[0].reason if found.rejected else "holds no clip"
        raise UserError(
            f"the data {file} is not a folder, and {why}; give a folder of clips, a zip of them, or `digits`"
        )
    if not entries:
        raise UserError(_no_clip(folder, rejected, without, found.passed_over))
    entries = _with_classes(sorted(entries, key=lambda entry: entry.name))
    known = {item.name for item in [*entries, *rejected]}
    if layout.split_file is not None:
        entries, missing = take_listed(entries, layout.split_file, folder)
        rejected += missing
    known |= {item.name for item in rejected}
    tables, no_tables, passed_over = read_tables(folder, found.tables)
    entries, missing = _with_captions(tables, entries, known, found.within)
    missing = missing if file is None else []  # the captions are those of all that lies beside the file
    counts = Counter(entry.media.kind for entry in entries)
    kinds = [f"{count} {_WORDS[kind][count > 1]}" for kind, count in sorted(counts.items())]
    remarks = [f"found {', '.join(kinds)}"] if set(counts) != {"video"} else []
    understood = {_beside(entry) for entry in entries} | ({layout.split_file} if layout.split_file else set())
    texts = [path for path in sorted([*found.texts, *no_tables]) if path not in understood]
    remarks += passed_over + leftovers.remarks(folder, found.passed_over, found.hidden, texts)
    return Scan(entries, sorted(rejected + missing, key=lambda item: item.name), remarks)


def _no_clip(folder: Path, rejected: list[Rejected], without: Path | None, passed_over: list[str]) -> str:
    outside = f" outside of {without}" if without and without.exists() else ""
    why = f" ({rejected[0].name}: {rejected[0].reason})" if rejected else ""
    why = why or (f" (but for what lies in {passed_over[0]}, which is passed over)" if passed_over else "")
    return (
        f"{folder} holds no clip{outside}{why}: no video file, no folder, zip or strip of pictures, no "
        "picture that moves and no tar of videos; give a folder that does"
    )


class _Found:
    """The clips found so far below a folder; `within` is what links must not lead out of, if there is anything.

    passed_over: folders whose names say that they hold no data. hidden: files that might have been clips. texts: files
    of text, which captions may be in. tables: files whose names are those of tables of captions.
    """

    def __init__(self, folder: Path, layout: Layout, without: Path | None):
        self.entries: list[Entry] = []
        self.rejected: list[Rejected] = []
        self.passed_over: list[str] = []
        self.hidden: list[str] = []
        self.texts: list[Path] = []
        self.tables: list[Path] = []
        self.within = None if layout.follow_links else folder.resolve()
        self._folder, self._layout = folder, layout
        self._videos: set[Path] = set()  # their paths, without suffix
        self._without = without.resolve() if without else None

    def look_through(self, folder: Path, above: tuple[Path, ...] = ()) -> None:
        """Take what a folder and those below it hold; `above` are the real places of the folders that it lies in."""
        real = folder.resolve()
        if real in above or self._is_passed_over(folder):  # the first: a link to a folder that it lies in
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
                    self.look_through(path, (*above, real))
            elif names.is_picture(item.name):
                shown.append(path)
            else:
                self._take_file(path)
        self._take_pictures(folder, shown)

    def look_at(self, file: Path) -> None:
        """Take what a single file holds."""
        if names.is_picture(file.name):
            self._take_pictures(file.parent, [file])
        else:
            self._take_file(file)

    def _is_no_data(self, item: os.DirEntry, path: Path) -> bool:
        if not _is_folder(item):
            is_hidden = names.is_hidden(item.name)
            if is_hidden and leftovers.might_be_a_clip(item.name):
                self.hidden.append(as_text(self._name(path)))
            return is_hidden
        if not names.is_no_data(item.name):
            return False
        if item.name not in leftovers.OURS:
            self.passed_over.append(as_text(self._name(path)))
        return True

    def _may_take(self, item: os.DirEntry, path: Path) -> bool:
        """Whether something in a folder is looked at; where it is not and could have been of use, it is named."""
        if wrong := unusable_name(item.name):
            self._reject(path, wrong)
            return False
        if not item.is_symlink():
            return True
        if self._is_passed_over(path):
            return False
        follow = self.within is None or stays_within(path, self.within)
        if not follow and (_is_folder(item) or _is_of_use(item.name)):
            self._reject(path, "is a link that leads out of the folder; --follow-links takes it")
        return follow

    def _is_passed_over(self, path: Path) -> bool:
        return self._without is not None and stays_within(path, self._without)

    def _take_file(self, path: Path) -> None:
        suffix, wanted = path.suffix.lower(), self._layout.kind
        if suffix in SUFFIXES and wanted in ("auto", "videos"):
            self._add(Media("video", path), self._name(path))
        elif suffix == ".zip" and wanted in ("auto", "frames", "videos"):
            self._take_zip(path)
        elif suffix == ".tar" and wanted in ("auto", "videos"):
            from fastvgan.data.media.tars import clips_in  # brings in webdataset, which few need

            entries, rejected = clips_in(path, self._name(path))
            self.entries += entries
            self.rejected += rejected
        elif suffix not in (*SUFFIXES, ".zip", ".tar"):
            self._take_unknown(path)

    def _take_unknown(self, path: Path) -> None:
        """Take a file whose suffix says nothing where it holds a video; otherwise it is named."""
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
            for folder in pictures.zip_folders(path):
                moving = _moving(path, folder) if wanted in ("auto", "videos") else []
                found += [("animation", name) for name in moving]
                if not moving and wanted in ("auto", "frames"):
                    found.append(("zip", folder))
        except BadVideo as error:
            self._reject(path, str(error))
            return
        if not found:
            self._reject(path, f"holds no pictures or videos{'' if wanted == 'auto' else ' of what --layout names'}")
        for kind, member in found:
            name = self._name(path) + (f"/{member}" if member else "")
            try:
                wrong, said = unusable_name(member), zips.captions_beside(path, member) if kind != "zip" else ()
            except BadVideo as error:
                wrong = str(error)
            if wrong:
                self.rejected.append(Rejected(as_text(name), wrong))
            else:
                self.entries.append(Entry(Media(kind, path, member), name, said))

    def _take_pictures(self, folder: Path, shown: list[Path]) -> None:
        wanted, count = self._layout.kind, self._layout.strip_frames
        moving = [path for path in shown if is_animation(path)] if wanted in ("auto", "videos") else []
        for path in moving:
            self._add(Media("animation", path), self._name(path))
        shown = [path for path in shown if path not in moving] if moving else shown
        if not shown or wanted == "videos":
            return
        if wanted == "strips" or (wanted == "auto" and all(_is_strip(p, count) for p in shown[:_LOOKED_AT])):
            for path in shown:
                self._add(Media("strip", path, strip_frames=count), self._name(path))
        elif moving or self._are_posters(shown):
            beside = "others that move" if moving else "the video of its name"
            for path in shown:
                self._reject(path, f"is a single picture beside {beside}")
        elif len(shown) > 1 and folder != self._folder:
            self._add(Media("frames", folder, within=self.within), self._name(folder))
        else:
            for path in shown:
                self._reject(path, "is a single picture, neither one of a folder of frames nor a strip of them")

    def _are_posters(self, shown: list[Path]) -> bool:
        """Whether each of a folder's pictures has the name of a video beside it, as downloads leave them."""
        return all(path.with_suffix("") in self._videos for path in shown)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _add(self, media: Media, name: str) -> None:
        self.entries.append(Entry(media, name))
        if media.kind == "video":
            self._videos.add(media.path.with_suffix(""))

    def _reject(self, path: Path, reason: str) -> None:
        self.rejected.append(Rejected(as_text(self._name(path)), reason))


def _is_folder(item: os.DirEntry) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _is_of_use(name: str) -> bool:
    texts = {".txt", ".csv", ".tsv", ".jsonl"}
    return names.is_picture(name) or Path(name).suffix.lower() in SUFFIXES | {".zip", ".tar"} | texts


def _moving(path: Path, folder: str) -> list[str]:
    """The pictures in a folder of a zip file that are clips themselves, where its first ones are."""
    shown = zips.pictures_in(path, folder)
    if not all(_moves(path, name) for name in shown[:_LOOKED_AT]):
        return []
    return [name for name in shown if _moves(path, name)]


def _moves(path: Path, member: str) -> bool:
    try:
        return moves(BytesIO(zips.read_member(path, member)))
    except BadVideo:  # it is named when its clip is decoded
        return False


def _is_strip(path: Path, strip_frames: int) -> bool:
    size = pictures.header_size(path)
    if size is None:
        return False
    try:
        return pictures.strip_layout(*size, strip_frames)[0] > 1
    except BadVideo:
        return False


def _with_classes(entries: list[Entry]) -> list[Entry]:
    """Entries with the name of the folder that sets them apart as their class, where there is a choice of folders.

    What all lie in (UCF-101/ of a whole download) says nothing, nor does the folder that is itself the clip.
    """
    parents = [_parents(entry) for entry in entries]
    level = len(os.path.commonprefix([list(parts) for parts in parents if parts]))
    names = {parts[level] for parts in parents if len(parts) > level}
    if len(names) < 2:
        return entries
    return [
        entry if entry.label is not None or len(parts) <= level else replace(entry, label=parts[level])
        for entry, parts in zip(entries, parents, strict=True)
    ]


def _parents(entry: Entry) -> tuple[str, ...]:
    """The folders that a clip lies in; a zip file is none, but those in it are."""
    parts = entry.name.split("/")
    if entry.media.kind == "tar":
        return ()
    if entry.media.kind == "zip" or entry.media.member:
        inside = len(PurePosixPath(entry.media.member).parts)
        del parts[len(parts) - inside - 1]
        return tuple(parts[:-1] if inside else parts)
    return tuple(parts[:-1])


def _with_captions(
    tables: list[Table], entries: list[Entry], known: set[str], within: Path | None
) -> tuple[list[Entry], list[Rejected]]:
    """Entries with their captions, and those that tables name in vain; `known` are all that are there."""
    # What follows the last dot of a folder's name is no suffix.
    folders = {e.name for e in entries if e.media.kind == "frames" or (e.media.kind == "zip" and e.media.member)}
    said, missing = match_annotations(tables, known, known - folders)
    clips_of = Counter(entry.media.path for entry in entries)
    result = []
    for entry in entries:
        captions, label = said.get(entry.name, ((), None))
        own = entry.media.kind in ("video", "frames", "strip", "animation") and not entry.media.member
        own = own or clips_of[entry.media.path] == 1
        if not captions and not entry.captions and own and not entry.media.span:
            captions = captions_of(_beside(entry), within)
        result.append(replace(entry, captions=captions or entry.captions, label=label or entry.label))
    return result, [Rejected(name, "is named in the captions file but is not there") for name in missing]


def _beside(entry: Entry) -> Path:
    """Where the captions of a clip are, if it has any of its own: `clip.txt` beside `clip.mp4` or the folder `clip`."""
    path = Path(entry.media.path)
    # What follows the last dot of a folder's name is no suffix.
    return path.with_name(f"{path.name}.txt") if entry.media.kind == "frames" else path.with_suffix(".txt")
