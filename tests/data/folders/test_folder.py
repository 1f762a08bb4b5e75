"""A folder of real files: what is taken, what is left out and why, and batches that depend on seed and number alone."""

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from commands import run
from make_videos import encode, make_folder, make_numbered, number_of
from safetensors import safe_open

from fastvgan.data import list_clips
from fastvgan.data.clips import ClipSource, items_from_folder
from fastvgan.data.folders.layouts import Layout
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut
from fastvgan.errors import UserError
from fastvgan.runs.config import DataConfig


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "forty clips"
    return folder, make_folder(folder, 42)


def source(folder, frames=8, height=16, width=16, stride=1, require=(), max_bad=0.5, workers=0):
    items, remarks = items_from_folder(folder, Layout(), require, max_bad)
    return ClipSource(items, Cut(frames, height, width, stride=stride), remarks, "pyav", workers=workers)


def list_rejected(data):
    """Name and reason of each clip that the remarks say is skipped."""
    said = [remark.removesuffix("; left out") for remark in data.remarks if remark.endswith("; left out")]
    return {tuple(text.split(": ", 1)) for text in said}


def few(folder, names=("a.mp4", "b.mp4", "c.mp4", "d.mp4"), frames=12):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, make_numbered(12 * (i + 1) + frames)[12 * i :][:frames])
    return folder


def test_the_odd_ones_are_named_with_reasons(forty):
    folder, odd = forty
    data = source(folder, 16, require=("text",))
    assert data.size == 40 and len(data.captions) == 8
    named = {name for name, _ in list_rejected(data)}
    assert named == {name for name, kind in odd.items() if kind == "corrupt"}
    (note,) = [remark for remark in data.remarks if "too short" in remark]
    assert note.startswith("clip 05.avi: too short, 5 of 16 frames")
    for name in odd:
        assert sum(remark.startswith(f"{name}: ") for remark in data.remarks) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_seed_and_number_alone(forty, workers):
    data = source(forty[0], require=("text",), workers=workers)
    straight = list(itertools.islice(data.batches(16, seed=3), 5))
    resumed = list(itertools.islice(data.batches(16, seed=3, start=3), 2))
    for late, again in zip(straight[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(late[:2], again[:2], strict=True))
    assert not torch.equal(straight[0].video, next(data.batches(16, seed=4)).video)
    assert straight[0].video.shape == (16, 8, 16, 16, 3) and straight[0].video.dtype == torch.uint8


def test_every_epoch_has_every_clip_once(tmp_path):
    data = source(few(tmp_path), 4, 48, 64)
    numbers = [
        number_of(video[0].numpy()) // 12 for batch in itertools.islice(data.batches(3, 0), 8) for video in batch.video
    ]
    for epoch in range(6):
        assert sorted(numbers[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]
    assert len({tuple(numbers[4 * e : 4 * e + 4]) for e in range(6)}) > 1


def test_clips_are_consecutive_frames_with_the_last_one_held(tmp_path):
    few(tmp_path, ["a.mp4"])
    for frames, stride in [(4, 1), (3, 4), (16, 1), (5, 9)]:
        data = source(tmp_path, frames, 48, 64, stride=stride)
        for batch in itertools.islice(data.batches(4, 0), 3):
            for video in batch.video.numpy():
                numbers = [number_of(frame) for frame in video]
                assert numbers == [min(numbers[0] + i * stride, 11) for i in range(frames)]
        assert len(data.remarks) == ((frames - 1) * stride + 1 > 12)


def test_the_crop_is_one_for_all_frames(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (1, 8, 12, 3), dtype=np.uint8)
    still = blocks.repeat(8, 1).repeat(8, 2).repeat(10, 0)
    encode(tmp_path / "a.avi", still, "mjpeg")
    videos = next(source(tmp_path, 8, 32, 32).batches(6, 0)).video.float()
    within, between = (videos - videos[:, :1]).abs().mean(), (videos[0] - videos[1]).abs().mean()
    assert within < 0.2 * between  # MJPEG keeps changing its mind a little


def test_captions_beside_clips(tmp_path):
    few(tmp_path)
    (tmp_path / "a.txt").write_bytes("\ufeff one \r\n\r\n two  words \r\n".encode())
    (tmp_path / "b.txt").write_text("drei Wörter hier\n")
    (tmp_path / "c.txt").write_text("\n …! \n")
    data = source(tmp_path, require=("text",))
    assert sorted(data.captions) == ["drei Wörter hier", "one", "two words"]
    assert list_rejected(data) == {("c.mp4", "has no caption"), ("d.mp4", "has no caption")}
    drawn = {data.captions[i] for batch in itertools.islice(data.batches(8, 0), 4) for i in batch.caption.tolist()}
    assert drawn == set(data.captions)
    assert source(tmp_path).size == 4


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_captions_file(tmp_path, kind):
    few(tmp_path, ["x/a.mp4", "x/b b.mp4", "c.mp4", "d.mp4"])
    rows = [
        ("x/a.mp4", 'say "a, b"', "cat"),
        ("x/b b.mp4", "bé", "dog"),
        ("c.mp4", "see", ""),
        ("gone.mp4", "away", "cat"),
    ]
    if kind == "csv":
        text = "\ufeffFile, Caption, class\r\n" + "".join(
            f'"{f}","{c.replace(chr(34), chr(34) * 2)}",{k}\r\n' for f, c, k in rows
        )
    else:
        text = "\n".join(json.dumps({"file": f, "caption": [c, c + " again"], "class": k}) for f, c, k in rows) + "\n"
    (tmp_path / f"captions.{kind}").write_text(text, encoding="utf-8")
    data = source(tmp_path, require=("text",))
    expected = {'say "a, b"', "bé", "see"}
    assert set(data.captions) == (expected if kind == "csv" else expected | {c + " again" for c in expected})
    assert data.classes == ["cat", "dog"] and data.size == 3
    assert dict(list_rejected(data)) == {
        "gone.mp4": "is listed in the captions file but does not exist",
        "d.mp4": "has no caption",
    }


def test_class_folders(tmp_path):
    few(tmp_path, ["cat/1.mp4", "cat/deep/2.mp4", "dog/3.mp4"])
    data = source(tmp_path, 4, 48, 64, require=("class",))
    assert data.classes == ["cat", "dog"] and not data.captions
    for batch in itertools.islice(data.batches(3, 0), 3):
        for video, label in zip(batch.video.numpy(), batch.label.tolist(), strict=True):
            assert data.classes[label] == ("dog" if number_of(video[0]) >= 24 else "cat")


def write_broken(folder, count):
    for i in range(count):
        (folder / f"broken{i}.mp4").write_text("x")


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("prepare", "options", "sentence"),
    [
        (None, {"require": ("text",)}, "has no captions.*clip.txt.*--condition none"),
        (None, {"require": ("class",)}, "has no classes.*--condition none"),
        (
            lambda folder: write_broken(folder, 6),
            {},
            r"6 of 10 files in .* more than --max-bad 0.5 allows: broken0.mp4 is not a video",
        ),
        (lambda folder: write_broken(folder, 1), {"max_bad": 0.1}, "1 of 5 files"),
        (write("captions.csv", "a,b\n1,2\n"), {}, "captions.csv must begin with a line of column names"),
        (write("captions.csv", "file,caption\n../x.mp4,x\n"), {}, r"line 2: \.\./x.mp4 leads out of the folder"),
        (write("captions.csv", "file,caption\n/etc/x.mp4,x\n"), {}, "leads out of the folder"),
        (write("captions.csv", "file,caption\n,x\n"), {}, "line 2 names no file"),
        (write("captions.jsonl", '{"file": "a.mp4"}\n{"file": \n'), {}, "captions.jsonl, line 2 is not JSON"),
        (write("captions.jsonl", '{"file": "a.mp4", "caption": 3}'), {}, "line 1: the caption must be a string"),
        (write("captions.jsonl", '["a.mp4"]'), {}, "line 1 names no file"),
        (write("captions.jsonl", "[" * 10**5), {}, "line 1 is not JSON"),
    ],
)
def test_bad_folders_are_one_sentence(tmp_path, prepare, options, sentence):
    few(tmp_path, frames=2)
    if prepare:
        prepare(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        source(tmp_path, **options)
    assert "\n" not in str(raised.value)


def test_missing_empty_and_wholly_broken_folders(tmp_path):
    for path, sentence in [
        (tmp_path / "no", "does not exist"),
        (tmp_path, "holds no clip"),
        (tmp_path / "f", "not a folder"),
    ]:
        (tmp_path / "f").write_text("")
        with pytest.raises(UserError, match=sentence):
            source(path)
    write_broken(tmp_path, 2)
    with pytest.raises(UserError, match="2 of 2 files in .* are unusable: broken0.mp4"):
        source(tmp_path, max_bad=1.0)


def test_a_file_that_vanishes_is_named_once_and_replaced(tmp_path, caplog):
    data = source(few(tmp_path), 4, 48, 64, workers=2)
    (tmp_path / "b.mp4").unlink()
    with caplog.at_level(logging.WARNING, "fastvgan"):
        batches = list(itertools.islice(data.batches(4, 0), 6))
    numbers = {number_of(video[0]) // 12 for batch in batches for video in batch.video.numpy()}
    assert numbers == {0, 2, 3}
    assert sum("b.mp4" in record.getMessage() for record in caplog.records) == 1
    for name in "acd":
        (tmp_path / f"{name}.mp4").unlink()
    with pytest.raises(UserError, match=r"not one clip .*\.mp4: cannot be read: No such file"):
        next(data.batches(4, 0))


def test_training_on_forty_real_files_runs_to_the_end_and_names_the_three(forty, tmp_path):
    folder, odd = forty
    flags = "--height 32 --width 32 --base-width 2 --batch-size 8 --steps 6 --log-every 2 --sample-every 3".split()
    done = run("fastvgan.train", "--data", folder, *flags, "--run-dir", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    for name in odd:
        assert done.stderr.count(name) == 1
        assert (tmp_path / "r" / "log.txt").read_text().count(name) == 1
    with safe_open(tmp_path / "r" / "export" / "generator.safetensors", "pt") as file:
        assert "square" in json.loads(file.metadata()["fastvgan"])["vocabulary"]
    made = run("fastvgan.generate", "--run", tmp_path / "r", "--text", "a blue square", "--out", tmp_path / "x.mp4")
    assert made.returncode == 0, made.stderr
    untold = run("fastvgan.train", "--data", folder, "--condition", "class", cwd=tmp_path)
    assert untold.returncode == 2 and "has no classes" in untold.stderr


def test_clips_that_lack_a_caption_or_a_class_are_left_out_where_a_model_takes_both(tmp_path):
    folder = few(tmp_path / "src", ("cat/a.mp4", "dog/b.mp4", "c.mp4", "cat/d.mp4"))
    for name in ("cat/a", "dog/b", "c"):
        (folder / f"{name}.txt").write_text(f"clip {name[-1]}")
    prepare(folder, tmp_path / "out", PrepareConfig(to="manifest"))
    data = DataConfig(data=str(folder), workers=0)
    for one in (data, DataConfig(data=str(tmp_path / "out"), root=str(folder), workers=0)):
        listing = list_clips(one, ("class", "text"))
        assert sorted(item.captions[0] for item in listing.items) == ["clip a", "clip b"]
        said = " ".join(listing.remarks)
        assert "c.mp4: has no class; left out" in said and "d.mp4: has no caption; left out" in said
    for name in ("cat/a", "dog/b"):
        (folder / f"{name}.txt").unlink()
    with pytest.raises(UserError, match="has no classes"):
        list_clips(data, ("class", "text"))


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_end_a_run_in_one_sentence(tmp_path, workers):
    data = source(few(tmp_path / "clips"), workers=workers)
    (tmp_path / "clips").rename(tmp_path / "moved")
    with pytest.raises(UserError) as raised:
        next(iter(data.batches(2, seed=0)))
    said = str(raised.value)
    assert said.startswith("not one clip of the data can be read any more (") and said.endswith("was it moved?")
