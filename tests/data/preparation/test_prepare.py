"""Preparing a folder: manifests, clips, shards and tars hold what the sources show."""

import hashlib
import io
import json
import shlex
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile

import av
import fsspec
import numpy as np
import pytest
import torch
import webdataset
from broken import corrupt_in_the_middle, variable_rate
from commands import run
from make_videos import encode, make_numbered, number_of
from PIL import Image
from safetensors.torch import load_file

from fastvgan.data.clips import ClipSource, items_from_manifest
from fastvgan.data.folders.entry import Rejected
from fastvgan.data.folders.manifest import Record, find_manifest, read_manifest
from fastvgan.data.media.frames import probe, read_frames
from fastvgan.data.media.types import Media
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.preparation.shard_files import _stack
from fastvgan.data.sampling import Cut
from fastvgan.errors import UserError
from fastvgan.files.encoding import encode as encode_video


def test_a_manifest_says_what_is_there(forty, tmp_path):
    source, odd = forty
    made = prepare(source, tmp_path / "out", PrepareConfig())
    read = read_manifest(str(tmp_path / "out" / "manifest.jsonl"), root=str(source))
    assert len(read.records) == len(made.records) == 40
    for record in read.records:
        found = probe(read.media(record))
        assert found._replace(pts=None) == record.found._replace(pts=None)
        assert np.array_equal(found.pts, record.pts)
        assert record.captions[0] == (source / record.path).with_suffix(".txt").read_text().strip()
        assert record.bytes == (source / record.path).stat().st_size
    one = source / read.records[0].path
    total = subprocess.run(["sha256sum", one], capture_output=True, text=True, check=True).stdout.split()[0]
    assert read.records[0].checksum == f"sha256:{total}"
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {item["path"] for item in rejects} == {name for name, kind in odd.items() if kind == "corrupt"}
    assert all(item["reason"] for item in rejects)


@pytest.mark.parametrize("codec", ["vp9", "h264"])
def test_normalised_clips(few, tmp_path, codec):
    variable_rate(few / "cat" / "v.mp4")
    made = prepare(few, tmp_path / "out", PrepareConfig(to="clips", codec=codec, gop=5))
    read = read_manifest(str(tmp_path / "out" / "manifest.jsonl"))
    assert [record.source for record in read.records] == ["cat/a b.mp4", "cat/c.webm", "cat/v.mp4", "dog/ä.avi"]
    assert [remark for remark in made.remarks if "variable" in remark] == [
        "cat/v.mp4: has a variable frame rate, mean 12.719 frames per second; resampled to a constant rate"
    ]
    for record, first in zip(read.records, (0, 12, 0, 24), strict=True):
        media = read.media(record)
        with av.open(str(media.path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.pix_fmt, stream.codec_context.codec.canonical_name) == ("yuv420p", codec)
            assert not stream.codec_context.has_b_frames
        assert record.steady and list(record.keys) == list(range(0, record.frames, 5))
        if record.source != "cat/v.mp4":
            frames = read_frames(media, record.found, list(range(record.frames)), 48, 64, 3)
            assert [number_of(frame) for frame in frames] == list(range(first, first + 30))
            assert record.fps == pytest.approx(10, rel=0.01)
    assert read.records[2].fps == pytest.approx(12.719, rel=0.01)
    assert read.records[0].label == "cat" and read.records[3].captions == ("number 2", "clip 2")


def test_a_rate_and_a_size_are_made_as_asked(few, tmp_path):
    made = prepare(few, tmp_path / "out", PrepareConfig(to="clips", fps=5, height=33, width=32, codec="h264"))
    read = read_manifest(str(tmp_path / "out" / "manifest.jsonl"))
    for record in made.records:
        assert (record.frames, record.height, record.width) == (15, 34, 44)  # even, as yuv420p must be
        frames = read_frames(read.media(record), record.found, list(range(15)), 33, 32, 3)
        assert np.diff([number_of(frame) for frame in frames]).tolist() == [2] * 14
        assert record.fps == 5


@pytest.mark.parametrize("channels", [1, 3])
def test_shards_hold_the_frames_that_decoding_gives(few, tmp_path, channels):
    settings = PrepareConfig(to="shards", height=20, width=20, channels=channels)
    prepare(few, tmp_path / "out", settings)
    read = read_manifest(str(tmp_path / "out" / "manifest.jsonl"))
    for record in read.records:
        (stored,) = [load_file(tmp_path / "out" / record.path)[record.member]]
        media = Media("video", few / record.source)
        expected = read_frames(media, probe(media), list(range(record.frames)), 20, 20, channels)
        total = hashlib.sha256((tmp_path / "out" / record.path).read_bytes()).hexdigest()
        assert record.checksum == f"sha256:{total}"
        assert stored.dtype == torch.uint8 and np.array_equal(stored.numpy(), expected)


@pytest.mark.parametrize("expected", [0, 1, 7, 40, 50])
def test_frames_of_a_shard_take_memory_once_whatever_number_is_expected(expected):
    tracemalloc.start()
    video = _stack((np.full((64, 64, 3), t, np.uint8) for t in range(40)), expected)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.shape == (40, 64, 64, 3) and (video == np.arange(40)[:, None, None, None]).all()
    assert peak < 1.5 * 40 * 64 * 64 * 3


def test_many_shards_are_cut_where_they_are_full(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    for i in range(6):
        encode(source / f"{i}.avi", np.full((40, 96, 96, 3), 40 * i, np.uint8), "mjpeg")  # 1.1 MB each
    settings = PrepareConfig(to="shards", height=96, width=96, shard_size=2)
    made = prepare(source, tmp_path / "out", settings)
    assert [record.path for record in made.records] == [f"shards/0000{i}.safetensors" for i in range(6)]
    settings = settings.model_copy(update={"shard_size": 3})
    prepare(source, tmp_path / "out", settings)
    assert sorted(p.name for p in (tmp_path / "out" / "shards").iterdir()) == [f"0000{i}.safetensors" for i in range(3)]


def test_tars_are_read_by_webdataset_and_by_us(few, tmp_path):
    prepare(few, tmp_path / "out", PrepareConfig(to="tars", codec="h264"))
    url = str(tmp_path / "out" / "tars" / "000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    read = read_manifest(str(tmp_path / "out" / "manifest.jsonl"))
    assert len(samples) == len(read.records) == 3
    for sample, record in zip(samples, read.records, strict=True):
        assert sample["json"]["name"] == record.source and sample["json"]["class"] == record.label
        assert tuple(sample["txt"].split("\n")) == record.captions == tuple(sample["json"]["captions"])
        (tmp_path / "x.mp4").write_bytes(sample["mp4"])
        assert probe(Media("video", tmp_path / "x.mp4")).frames == record.frames == sample["json"]["frames"] == 30
    items, _ = items_from_manifest(read)
    clips = next(ClipSource(items, Cut(4, 48, 64), workers=0).batches(6, 0))
    for video, caption in zip(clips.video.numpy(), clips.caption.tolist(), strict=True):
        numbers = [number_of(frame) for frame in video]
        assert numbers == list(range(numbers[0], numbers[0] + 4)) and 0 <= caption < 6
    # The same from another place, through fsspec.
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "out").rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/set/{path.relative_to(tmp_path / 'out').as_posix()}", path.read_bytes())
    items, _ = items_from_manifest(read_manifest(find_manifest("memory://set")))
    again = next(ClipSource(items, Cut(4, 48, 64), workers=0).batches(6, 0))
    assert torch.equal(again.video, clips.video) and torch.equal(again.caption, clips.caption)


def test_a_folder_of_tars_can_be_prepared_again(few, tmp_path):
    prepare(few, tmp_path / "out", PrepareConfig(to="tars"))
    shutil.copytree(tmp_path / "out" / "tars", tmp_path / "others")
    made = prepare(tmp_path / "others", tmp_path / "again", PrepareConfig())
    assert [(r.kind, r.captions, r.label) for r in made.records] == [
        ("tar", (f"number {i}", f"clip {i}"), label) for i, label in enumerate(["cat", "cat", "dog"])
    ]
    with tarfile.open(tmp_path / "others" / "000000.tar") as tar:
        spans = {member.name: (member.offset_data, member.size) for member in tar}
    assert all(record.span == spans[record.member] for record in made.records)


def test_halves_of_characters_in_captions_and_classes_are_written_as_question_marks(few, tmp_path):
    facts = {"caption": "a \ud83d cat", "class": "c\udc00"}
    lines = [{"file": "cat/c.webm", **facts}, {"file": "none \ud83d.mp4", "caption": "x"}]
    (few / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "0.json").write_text(json.dumps(facts))
    with tarfile.open(few / "t.tar", "w") as tar:
        tar.add(few / "dog" / "ä.avi", "0.avi")
        tar.add(tmp_path / "0.json", "0.json")
    made = prepare(few, tmp_path / "out", PrepareConfig())
    said = {(record.captions, record.label) for record in made.records if record.name.endswith(("c.webm", "0.avi"))}
    assert said == {(("a ? cat",), "c?")}
    assert [item.name for item in made.rejected] == ["none \\ud83d.mp4"]


def test_the_command_says_what_came_of_it(few, tmp_path):
    (few / "x.mp4").write_text("no video")
    done = run("fastvgan.prepare", few, tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("x.mp4: is not a video file") == 1
    assert "clips:    3 (90 frames, 0.1 minutes), 6 captions, 2 classes" in done.stdout
    (hint,) = [line for line in done.stdout.splitlines() if line.startswith("train on:")]
    flags = shlex.split(hint.split("fastvgan.train ")[1])
    tiny = "--height 16 --width 16 --frames 8 --base-width 2 --batch-size 4 --steps 2".split()
    trained = run("fastvgan.train", *flags, *tiny, "--run-dir", tmp_path / "r", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "decoder: pyav in 1 process: cat/a b.mp4 is h264, which DALI" in trained.stderr
    without = [flag for flag in flags if flag not in ("--root", str(few))]
    refused = run("fastvgan.train", *without, *tiny, "--run-dir", tmp_path / "s", cwd=tmp_path)
    assert refused.returncode == 2 and f"--root {few}" in refused.stderr


@pytest.mark.parametrize("to", ["clips", "shards", "tars"])
def test_too_few_frames_at_another_rate(few, tmp_path, to):
    encode(few / "cat" / "short.mp4", make_numbered(10), "h264", 10)
    settings = PrepareConfig(to=to, fps=0.5, height=16, width=16)
    for least, count in ((2, 3), (1, 4), (2, 3)):
        made = prepare(few, tmp_path / "out", settings.model_copy(update={"min_frames": least}))
        assert len(made.records) == count and all(record.frames >= least for record in made.records)
        assert (tmp_path / "out" / "clips" / "cat" / "short.webm").exists() == (to == "clips" and least == 1)
    assert made.rejected == [Rejected("cat/short.mp4", "has only one frame at 0.5 frames per second, fewer than 2")]
    for _ in range(2):
        with pytest.raises(UserError, match="no clip could be written"):
            prepare(few, tmp_path / "out", settings.model_copy(update={"min_frames": 3}))
        assert not list((tmp_path / "out" / to).rglob("*.*"))


def test_a_clip_that_comes_out_of_the_encoder_with_other_frames_is_not_left(few, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvgan.data.preparation.clip_files.encode", lambda *given: encode_video(*given) + 1)
    for _ in range(2):
        with pytest.raises(UserError, match="31 frames were encoded, but 30 were decoded"):
            prepare(few, tmp_path / "out", PrepareConfig(to="clips"))
        assert not list((tmp_path / "out" / "clips").rglob("*.webm"))


def test_clips_of_a_zip_file_share_its_size(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    with zipfile.ZipFile(tmp_path / "src" / "z.zip", "w") as file:
        for i in range(6):
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(picture, "PNG")
            file.writestr(f"{i // 2}/{i % 2}.png", picture.getvalue())
    monkeypatch.setattr("fastvgan.data.preparation.tar_files.MIB", 1)
    size = (tmp_path / "src" / "z.zip").stat().st_size
    for shard_size, count in ((size, 1), (size - 1, 2), (size // 2, 3)):
        made = prepare(tmp_path / "src", tmp_path / "out", PrepareConfig(to="tars", shard_size=shard_size))
        assert len({record.path for record in made.records}) == count and len(made.records) == 3


def test_numbers_in_tars_go_on_from_tar_to_tar(tmp_path, monkeypatch):
    source = tmp_path / "src"
    source.mkdir()
    for name, frames in (("a", 5), ("b", 6), ("c", 20)):
        encode(source / f"{name}.avi", make_numbered(frames), "mjpeg")
    monkeypatch.setattr("fastvgan.data.preparation.tar_files.MIB", 1)
    size = sum((source / f"{name}.avi").stat().st_size for name in "ab")
    for names, members in (("abc", [(0, 0), (0, 1), (1, 2)]), ("bc", [(0, 0), (1, 1)])):
        made = prepare(source, tmp_path / "out", PrepareConfig(to="tars", shard_size=size))
        assert [record.source for record in made.records] == [f"{name}.avi" for name in names]
        placed = [(f"tars/{tar:06d}.tar", f"{number:08d}.webm") for tar, number in members]
        assert [(record.path, record.member) for record in made.records] == placed
        (source / "a.avi").unlink(missing_ok=True)


def test_damaged_clips_are_taken_as_far_as_they_go_when_asked(few, tmp_path):
    corrupt_in_the_middle(few / "cat" / "d.mp4")
    assert len(prepare(few, tmp_path / "strict", PrepareConfig(to="clips")).records) == 3
    made = prepare(few, tmp_path / "out", PrepareConfig(to="clips", tolerant=True))
    assert len(made.records) == 4 and not made.rejected and 20 < made.records[2].frames < 60


def test_records_of_one_file_are_distinguished():
    a, b = (Record("x.zip", "zip", 3, 4, 5, member=name) for name in ("a", "b"))
    assert (a.name, b.name) == ("x.zip/a", "x.zip/b")


def test_a_name_that_is_too_long_with_its_new_suffix_is_shortened(tmp_path):
    (tmp_path / "src" / "d").mkdir(parents=True)
    name = "ä" * 125 + "x.mp4"  # 255 bytes, of which ".webm" would make 256
    encode(tmp_path / "src" / "d" / name, make_numbered(4))
    (tmp_path / "src" / "d" / f"{name[:-4]}.txt").write_text("a clip")
    for _ in range(2):
        made = prepare(tmp_path / "src", tmp_path / "out", PrepareConfig(to="clips"))
        path = tmp_path / "out" / made.records[0].path
        assert path.parent == tmp_path / "out" / "clips" / "d" and path.is_file() and not made.rejected
        assert made.records[0].source == f"d/{name}" and made.records[0].captions == ("a clip",)
