"""Writing clips as video files in tar files of the WebDataset layout."""

import dataclasses
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fastvgan.data.folders.entry import Rejected
from fastvgan.data.folders.survey import Found, checksum_of, list_files, map_in_threads
from fastvgan.data.media.types import BadVideo, Probe
from fastvgan.data.preparation.clip_files import SUFFIXES, make_record, write_clip
from fastvgan.data.preparation.disk import check_room
from fastvgan.data.preparation.groups import (
    MIB,
    Results,
    compute_signature,
    group_by_size,
    merge_results,
    remove_stale,
    run_once,
)
from fastvgan.data.preparation.journal import Journal
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.files.atomic import UNFINISHED, whole


def write_tars(
    out: Path, clips: Sequence[Found], sums: dict[str, str], settings: PrepareConfig, journal: Journal
) -> Results:
    """Write clips to tar files in out/tars, as `N.webm` (or `N.mp4`), `N.json` and `N.txt`.

    The JSON holds the clip's name, captions, class, frames, fps and size; the text, if the clip has captions, one
    caption per line.

    Args:
        out: The folder of the manifest.
        clips: The clips.
        sums: Checksums of the clips by name.
        settings: Size, rate and codec of the video files.
        journal: Finished files.
    """
    clips_per_file = Counter(clip.entry.media.path for clip in clips)  # a zip file may hold many

    def size_of(clip: Found) -> int:
        media = clip.entry.media
        whole_file = sum(path.stat().st_size for path in list_files(clip.entry))
        return media.span[1] if media.span else whole_file // clips_per_file[media.path]

    groups = list(group_by_size(clips, size_of, settings.shard_size * MIB))
    paths = [out / "tars" / f"{number:06d}.tar" for number in range(len(groups))]
    first = 0
    tars: list[Results] = []
    for path, group in zip(paths, groups, strict=True):
        named = [(f"{first + i:08d}", clip) for i, clip in enumerate(group)]
        # The tar also holds captions, classes and numbers.
        annotations = [(clip.entry.captions, clip.entry.label) for clip in group]
        signature = [*compute_signature(group, sums, settings), annotations, first]
        tars.append(run_once(journal, out, path, signature, partial(_write_tar, out, path, named, settings)))
        first += len(group)
    results = merge_results(tars, clips)
    remove_stale(journal, out, out / "tars", results)
    return results


def _write_tar(out: Path, path: Path, named: Sequence[tuple[str, Found]], settings: PrepareConfig) -> Results:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = SUFFIXES[settings.codec]
    written: dict[str, tuple[Found, Probe]] = {}
    rejected: list[Rejected] = []
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}{UNFINISHED}-") as folder,
        whole(path) as temporary,
    ):

        def write(item: tuple[str, Found]) -> Probe | Rejected:
            check_room(out, 2 * MIB, settings.keep_free, path.name)
            try:
                return write_clip(Path(folder) / (item[0] + suffix), item[1], settings)
            except BadVideo as error:
                return Rejected.because(item[1].entry.name, error)

        results = map_in_threads(write, named, path.name, settings.workers or None)
        with temporary.open("wb") as file, open_tar(file) as tar:
            for (key, clip), result in zip(named, results, strict=True):
                if isinstance(result, Rejected):
                    rejected.append(result)
                    continue
                video = Path(folder) / (key + suffix)
                add_sample(tar, key, {suffix[1:]: video.read_bytes(), **_annotation_files(clip, result)})
                written[video.name] = clip, result
                video.unlink()
        spans = _spans(temporary) if written else {}
        records = [
            dataclasses.replace(
                make_record(path, out, clip, found),
                kind="tar",
                member=name,
                span=spans[name],
                checksum=checksum_of(temporary, spans[name]),
                bytes=spans[name][1],
            )
            for name, (clip, found) in written.items()
        ]
    return records, rejected


def open_tar(file: BinaryIO) -> tarfile.TarFile:
    """Open a tar to write, in the format that webdataset's TarWriter writes."""
    return tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)


def add_sample(tar: tarfile.TarFile, key: str, parts: dict[str, Any]) -> None:
    """Add a sample's files to a tar, as webdataset's TarWriter does with mtime=0.

    Args:
        tar: The tar.
        key: Name of the sample.
        parts: Contents by suffix, which follows the key: bytes, a text, or a value to write as JSON.
    """
    for suffix, content in sorted(parts.items()):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size, member.mode, member.mtime = len(content), 0o444, 0
        member.uname, member.gname = "bigdata", "bigdata"
        tar.addfile(member, io.BytesIO(content))


def _annotation_files(clip: Found, found: Probe) -> dict[str, Any]:
    entry = clip.entry
    values = {"name": entry.name, "captions": list(entry.captions), "class": entry.label}
    values |= {"frames": found.frames, "fps": found.fps, "height": found.height, "width": found.width}
    return {"json": values, **({"txt": "\n".join(entry.captions)} if entry.captions else {})}


def _spans(path: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(path, "r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}
