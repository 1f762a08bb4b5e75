"""Clips cut out of decoded frames are those that decoding on the spot gives."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from make_videos import encode, make_numbered

from fastvgan.data.clips import ClipSource, items_from_manifest
from fastvgan.data.decoders import shards as shards_module
from fastvgan.data.decoders.resident import ResidentClips
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut, Member, Sampler, Shuffle
from fastvgan.errors import UserError
from fastvgan.random_draws import Draws, Purpose

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same clips as files and as shards of about one clip, frames of 20x20 to 20x30."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "src").mkdir()
    for i, (length, width) in enumerate([(30, 64), (3, 48), (17, 72), (1, 64)]):
        path = folder / "src" / ("even", "odd")[i % 2] / f"{i}.avi"
        path.parent.mkdir(exist_ok=True)
        encode(path, make_numbered(140, 48, width)[13 * i :][:length], "mjpeg")
        path.with_suffix(".txt").write_text("".join(f"clip {i}, line {j}\n" for j in range(i)))
    sizes = {"height": 20, "width": 20, "shard_size": 1, "min_frames": 1}
    prepare(folder / "src", folder / "files", PrepareConfig(min_frames=1))
    prepare(folder / "src", folder / "shards", PrepareConfig(to="shards", **sizes))
    prepare(folder / "src", folder / "grey", PrepareConfig(to="shards", channels=1, **sizes))
    return folder


def source(folder, cut, device="cpu", decoder="auto"):
    root = str(folder.parent / "src") if folder.name == "files" else None
    items, remarks = items_from_manifest(read_manifest(str(folder / "manifest.jsonl"), root))
    return ClipSource(items, cut, remarks, decoder, device, workers=0)


@pytest.fixture
def held_on_device(monkeypatch):
    """All clips are held on the device, the CPU too."""
    monkeypatch.setattr(shards_module, "_fits", lambda *_: True)


def as_a_step_draws(data, size, seed, start, device):
    """Endless batches by `draw`, from tensors of the samples' numbers alone."""
    shuffle = Shuffle(data.size, seed, size, device)
    draws = Draws(seed, {Purpose.CLIP: data.draws}, device)
    for first in itertools.count(start * size, size):
        shuffle.reach(range(first, first + size))
        numbers = torch.arange(first, first + size, device=device)
        yield data.draw(draws(numbers)[Purpose.CLIP], shuffle(numbers))


CUTS = {
    "even": Cut(4, 20, 20),
    "strides": Cut(5, 20, 20, stride=2, max_stride=4, mirror=True),
    "centre": Cut(9, 20, 20, crop="center"),
    "one frame": Cut(1, 20, 20, mirror=True),
    "grey": Cut(6, 20, 20, channels=1),
    "grey, mirrored, held": Cut(40, 20, 20, channels=1, mirror=True, max_stride=3),
    "reversed": Cut(6, 20, 20, reverse=True, max_stride=2),
    "reversed, mirrored, held": Cut(40, 20, 20, mirror=True, reverse=True, max_stride=3),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("size", [1, 3, 11])
def test_a_step_draws_the_clips_that_are_decoded(both, cut, size, device, held_on_device):
    """With captions, of which one clip has none, and classes; batches cross the ends of epochs of four clips."""
    here = source(both / ("grey" if cut.channels == 1 else "shards"), cut, device)
    files = source(both / "files", cut)
    assert here.draws and here.shuffles and not files.draws and not files.shuffles
    assert here.decoder.startswith("shards: decoded frames, ") and f"GB in the memory of {device}, cut" in here.decoder
    assert here.captions == files.captions and here.classes == files.classes == ["even", "odd"]
    drawn = as_a_step_draws(here, size, 7, 5, device)
    theirs = files.batches(size, 7, 5)
    for mine, other, ahead in itertools.islice(zip(drawn, theirs, here.batches(size, 7, 5), strict=True), 8):
        for a, b, c in zip(mine, other, ahead, strict=True):
            assert a.device.type == device and a.dtype == b.dtype
            assert torch.equal(a.cpu(), b) and torch.equal(c.cpu(), b)
        assert mine.video.is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (8, 16, [(8, 16)]),  # one clip, rows of 8-byte words
        (8, 8, [(8, 8), (20, 8), (9, 8)]),  # crops up and down
        (8, 6, [(8, 6), (8, 8), (8, 9), (30, 6)]),  # rows of any bytes
        (1, 1, [(1, 1), (1, 5), (3, 1)]),
        (5, 4, [(5, 4), (5, 12), (7, 4)]),
        (6, 4, [(9, 8), (6, 4)]),  # larger both ways
    ],
)
def test_rows_of_any_size_are_cut_as_slices_are(height, width, sizes, channels, crop, device):
    random = torch.Generator().manual_seed(height * width)
    lengths = [1 + 7 * i % 11 for i in range(len(sizes))]
    videos = [
        torch.randint(0, 256, (n, *size, channels), dtype=torch.uint8, generator=random)
        for n, size in zip(lengths, sizes, strict=True)
    ]
    videos[0] = videos[0].transpose(1, 2).contiguous().transpose(1, 2)  # not contiguous
    cut = Cut(3, height, width, channels, max_stride=3, crop=crop, mirror=True, reverse=True)
    drawn = Sampler([Member(n, (), -1) for n in lengths], cut)
    clips = ResidentClips(videos, drawn, torch.device(device))
    got = next(clips.batches(3, iter([range(50)])))
    for video, draw in zip(got.video.cpu(), drawn.draws(3, range(50)), strict=True):
        top, left = draw.offsets(videos[draw.clip].shape[1:3], height, width)
        expected = videos[draw.clip].numpy()[list(draw.indices), top : top + height, left : left + width]
        expected = expected[:, :, ::-1] if draw.mirror else expected
        assert np.array_equal(video.numpy(), expected[::-1] if draw.reverse else expected)
    assert got.caption.eq(-1).all() and got.label.eq(-1).all()


def test_clips_that_are_decoded_ahead_are_not_drawn(both):
    data = source(both / "shards", Cut(4, 20, 20))
    assert not data.draws and not data.shuffles
    with pytest.raises(ValueError, match="else use batches"):
        data.draw(torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


def test_a_resident_set_is_copied_and_pickled(both, held_on_device):
    data = source(both / "shards", Cut(4, 20, 20, mirror=True))
    expected = next(data.batches(5, 2))
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert all(torch.equal(a, b) for a, b in zip(next(other.batches(5, 2)), expected, strict=True))


@pytest.mark.gpu
def test_a_gpu_holds_what_fits_and_no_more(both, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1000, 10**12))
    data = source(both / "shards", Cut(4, 20, 20), "cuda")
    assert not data.draws and data.decoder == "shards: decoded frames, mapped into memory"
    monkeypatch.undo()
    assert source(both / "shards", Cut(4, 20, 20), "cuda").draws


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "cut",
    [
        Cut(4, 20, 20),
        Cut(5, 20, 20, stride=2, max_stride=4, mirror=True),
        Cut(9, 20, 20, crop="center"),
        Cut(1, 20, 20, mirror=True),
        Cut(6, 20, 20, channels=1),
        Cut(40, 20, 20, mirror=True, reverse=True, max_stride=3),
    ],
)
def test_clips_are_the_same_as_decoded_ones(both, cut, device):
    shards = source(both / ("grey" if cut.channels == 1 else "shards"), cut, device)
    files = source(both / "files", cut)
    assert shards.size == files.size == 4 and shards.decoder.startswith("shards: decoded frames")
    for mine, theirs in itertools.islice(zip(shards.batches(3, 7), files.batches(3, 7), strict=True), 8):
        assert mine.video.device.type == device
        assert torch.equal(mine.video.cpu(), theirs.video)


def test_it_resumes_anywhere_and_ranks_share(both):
    data = source(both / "shards", Cut(4, 20, 20, mirror=True))
    straight = list(itertools.islice(data.batches(6, 1), 9))
    for start in range(9):
        assert torch.equal(next(data.batches(6, 1, start)).video, straight[start].video)
    parts = [list(itertools.islice(data.batches(2, 1, 0, rank, 3), 9)) for rank in range(3)]
    for whole, *batches in zip(straight, *parts, strict=True):
        assert torch.equal(torch.cat([batch.video for batch in batches]), whole.video)


def test_what_does_not_fit_is_one_sentence(both, tmp_path):
    cases = [
        (
            "shards",
            Cut(4, 32, 32),
            "auto",
            "frames of 27x20, not made for 32x32; .* --height 32",
        ),
        ("shards", Cut(4, 20, 20, channels=1), "auto", "has 3 channels, not 1"),
        ("shards", Cut(4, 20, 20), "pyav", "frames are decoded already"),
        ("files", Cut(4, 20, 20), "shards", "--to shards"),
    ]
    for folder, cut, decoder, sentence in cases:
        with pytest.raises(UserError, match=sentence) as raised:
            source(both / folder, cut, decoder=decoder)
        assert "\n" not in str(raised.value)


def test_a_damaged_shard_is_named(both, tmp_path):
    for path in (both / "shards").rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(both / "shards")).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(both / "shards")).write_bytes(path.read_bytes())
    shard = tmp_path / "shards" / "00000.safetensors"
    data = shard.read_bytes()
    for broken in (data[: len(data) // 2], b"", np.random.default_rng(0).bytes(999)):
        shard.write_bytes(broken)
        with pytest.raises(UserError, match=r"00000.safetensors cannot be read .*prepare the data again"):
            source(tmp_path, Cut(4, 20, 20))
    shard.unlink()
    with pytest.raises(UserError, match=r"00000.safetensors cannot be read .*prepare the data again"):
        source(tmp_path, Cut(4, 20, 20))
