"""What tells data from others: not where they lie nor when they were written, but everything that is trained on."""

import hashlib
import json
import shutil

import pytest
from make_videos import encode, make_numbered

from fastvgan.data import open_source
from fastvgan.data.clips import ClipSource, Item
from fastvgan.data.digits import DigitsSource
from fastvgan.data.fingerprint import Fingerprint
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import DataConfig

MODEL = ModelConfig(condition=())


def fingerprint(data, **settings) -> Fingerprint:
    return open_source(DataConfig(data=str(data), workers=0, **settings), MODEL).fingerprint


def write(folder, name, first=0, frames=20, width=64, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, make_numbered(first + frames, 48, width)[first:], **options)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes of two clips, with three captions."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    for number, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4", "b/3.mp4")):
        write(folder, name, 3 * number).with_suffix(".txt").write_text(f"clip {number // 2}\n")
    (folder / "b" / "3.txt").write_text("clip 1\nthe last clip\n")
    return folder


@pytest.fixture
def clips_copy(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "copied")
    return tmp_path / "copied"


def test_clips_captions_and_classes_are_counted(clips):
    found = fingerprint(clips)
    assert found[1:] == (4, 3, 2) and str(found) == "4 clips with 3 captions and 2 classes"
    assert len(found.checksum) == 64 and found.short == found.checksum[:8]
    assert (
        str(Fingerprint("", 1, 1, 0)) == "1 clip with 1 caption" and str(Fingerprint("", 1200, 0, 0)) == "1,200 clips"
    )


def test_the_same_data_at_another_place_are_the_same(clips, tmp_path):
    """Also where the file system lists them in another order, and times are others: `copyfile` does not keep them."""
    for path in sorted((path for path in clips.rglob("*") if path.is_file()), reverse=True):
        target = tmp_path / "else" / "where" / path.relative_to(clips)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert fingerprint(tmp_path / "else" / "where") == fingerprint(clips)


def swap(folder):
    one, other, aside = folder / "a" / "0.mp4", folder / "a" / "1.mp4", folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


CHANGES = {
    "a clip more": lambda folder: write(folder, "b/4.mp4"),
    "a clip gone": lambda folder: (folder / "a" / "1.mp4").unlink(),
    "a clip renamed": lambda folder: (folder / "a" / "1.mp4").rename(folder / "a" / "1b.mp4"),
    "a frame less": lambda folder: write(folder, "a/0.mp4", frames=19),
    "larger frames": lambda folder: write(folder, "a/0.mp4", width=66),
    "encoded again": lambda folder: write(folder, "a/0.mp4", crf="40"),
    "two clips exchanged": swap,
    "another caption": lambda folder: (folder / "a" / "0.txt").write_text("clip 1\n"),
    "captions in another order": lambda folder: (folder / "b" / "3.txt").write_text("the last clip\nclip 1\n"),
    "no caption": lambda folder: (folder / "a" / "0.txt").unlink(),
    "another class": lambda folder: (folder / "b").rename(folder / "c"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_makes_them_others(clips, clips_copy, change):
    CHANGES[change](clips_copy)
    assert fingerprint(clips_copy).checksum != fingerprint(clips).checksum


@pytest.mark.parametrize(("to", "settings"), [("manifest", {}), ("tars", {}), ("shards", {"height": 16, "width": 16})])
def test_prepared_data_are_the_same_wherever_they_lie(clips, clips_copy, tmp_path, to, settings):
    settings = PrepareConfig(to=to, **settings)
    out, again, changed = (tmp_path / name for name in ("out", "again", "changed"))
    prepare(clips, out, settings)
    root = {"root": str(clips)} if to == "manifest" else {}
    before = fingerprint(out, **root)
    assert before[1:] == (4, 3, 2)
    out.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved" / "manifest.jsonl", **root) == before
    prepare(clips_copy, again, settings)  # what `clips_copy` holds is the same
    assert fingerprint(again, **(root and {"root": str(clips_copy)})) == before
    (clips_copy / "a" / "0.mp4").unlink()
    write(clips_copy, "a/0.mp4", crf="40")
    prepare(clips_copy, changed, settings)
    found = fingerprint(changed, **(root and {"root": str(clips_copy)}))
    assert found.checksum != before.checksum and found[1:] == before[1:]


def test_prepared_data_whose_file_was_replaced_are_others(clips, clips_copy, tmp_path):
    prepare(clips, tmp_path / "out", PrepareConfig())
    before = fingerprint(tmp_path / "out", root=str(clips_copy))
    write(clips_copy, "a/0.mp4", crf="40")  # as many frames of the same size
    after = fingerprint(tmp_path / "out", root=str(clips_copy))
    assert before.clips == 4 and after.clips == 3 and after.checksum != before.checksum


def test_the_checksum_is_sha256_over_lines_of_json_and_reads_no_file(tmp_path):
    """Written down here, since a change of it would tell every run that its data have changed."""
    item = Item(
        "ü/1.mp4", Media("video", tmp_path / "none"), Probe(20, 48, 64, "h264"), ("one", "two"), "ü", "sha256:0"
    )
    other = item._replace(name="2.mp4", captions=(), label=None, content=7)
    source = ClipSource([item, other], Cut(16, 16, 16), decoder="pyav", workers=0)
    lines = [["ü/1.mp4", "sha256:0", 20, 48, 64, ["one", "two"], "ü"], ["2.mp4", 7, 20, 48, 64, [], None]]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    assert source.fingerprint == Fingerprint(hashlib.sha256(text.encode()).hexdigest(), 2, 2, 1)


def test_the_digits_are_known_by_what_they_draw():
    plain = DigitsSource()
    assert plain.fingerprint == DigitsSource(frames=8, height=64, width=64).fingerprint == PLAIN
    others = [DigitsSource(split="test"), DigitsSource(hold_out=0.1), DigitsSource(hold_out=0.1, hold_out_seed=1)]
    others += [DigitsSource(channels=1)]
    assert len({source.fingerprint.checksum for source in (plain, *others)}) == 5


# Pinned: with another checksum every run on digits would be passed that its data have changed.
PLAIN = Fingerprint("64847b016afc6eb8c2149ee6069a2ee6eea70c4c47e3b4864a7c592f6e481282", 1287, 240, 10)
