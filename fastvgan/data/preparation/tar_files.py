"""Clips as video files in tar files of the WebDataset layout."""

import dataclasses
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from webdataset import TarWriter

from fastvgan.data.folders.layouts import Rejected
from fastvgan.data.folders.survey import Found, checksum_of, files_of, map_in_threads
from fastvgan.data.media.types import BadVideo, Probe
from fastvgan.data.preparation.clip_files import SUFFIXES, record_of, write_clip
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import MIB, Made, by_size, once, remove_others, signature_of, together
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import UNFINISHED, whole


def write_tars(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Made:
    """Such video files in tar files of the WebDataset layout, in out/tars: `N.webm`, `N.json`, `N.txt`.

    The json holds the clip's name, captions, class, frames and fps; the txt, where there are captions, one a line.
    """
    together_in = Counter(clip.entry.media.path for clip in clips)  # a zip file may hold many

    def size_of(clip: Found) -> int:
        media = clip.entry.media
        whole_file = sum(path.stat().st_size for path in files_of(clip.entry))
        return media.span[1] if media.span else whole_file // together_in[media.path]

    groups = list(by_size(clips, size_of, settings.shard_size * MIB))
    paths = [out / "tars" / f"{number:06d}.tar" for number in range(len(groups))]
    first = 0
    tars: list[Made] = []
    for path, group in zip(paths, groups, strict=True):
        named = [(f"{first + i:08d}", clip) for i, clip in enumerate(group)]
        # Captions and numbers are in the tar, so that a change of them is a change of the tar.
        said = [(clip.entry.captions, clip.entry.label) for clip in group]
        signature = [*signature_of(group, sums, settings), said, first]
        tars.append(
            once(journal, out, path, signature, lambda path=path, named=named: _tar(out, path, named, settings))
        )
        first += len(group)
    made = together(tars, clips)
    remove_others(journal, out, out / "tars", made)
    return made


def _tar(out: Path, path: Path, named: Sequence[tuple[str, Found]], settings: PrepareConfig) -> Made:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = SUFFIXES[settings.codec]
    written, rejected = {}, []
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}{UNFINISHED}-") as folder,
        whole(path) as temporary,
    ):

        def encoded(item: tuple[str, Found]) -> "Probe | Rejected":
            check_room(out, 2 * MIB, settings.keep_free, path.name)
            try:
                return write_clip(Path(folder) / (item[0] + suffix), item[1], settings)
            except BadVideo as error:
                return Rejected.because(item[1].entry.name, error)

        results = map_in_threads(encoded, named, path.name, settings.workers or None)
        with temporary.open("wb") as file, TarWriter(file, mtime=0) as tar:
            for (key, clip), result in zip(named, results, strict=True):
                if isinstance(result, Rejected):
                    rejected.append(result)
                    continue
                video = Path(folder) / (key + suffix)
                tar.write({"__key__": key, suffix[1:]: video.read_bytes(), **_said(clip, result)})
                written[video.name] = clip, result
                video.unlink()
        spans = _spans(temporary) if written else {}
        records = [
            dataclasses.replace(
                record_of(path, out, clip, found, member=name, span=spans[name]),
                checksum=checksum_of(temporary, spans[name]),
                bytes=spans[name][1],
            )
            for name, (clip, found) in written.items()
        ]
    return records, rejected


def _said(clip: Found, found: Probe) -> dict:
    entry = clip.entry
    facts = {"name": entry.name, "captions": list(entry.captions), "class": entry.label}
    facts |= {"frames": found.frames, "fps": found.fps, "height": found.height, "width": found.width}
    return {"json": facts, **({"txt": "\n".join(entry.captions)} if entry.captions else {})}


def _spans(path: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(path, "r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}
