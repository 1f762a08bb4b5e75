"""Clips cut out of decoded frames are those that decoding on the spot gives."""

import itertools

import numpy as np
import pytest
import torch
from make_videos import encode, numbered

from fastvgan.data.clips import ClipSource, items_of_manifest
from fastvgan.data.manifest import read_manifest
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut
from fastvgan.errors import UserError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same clips as files and as shards of about one clip, frames of 20x20 to 20x30."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "src").mkdir()
    for i, (length, width) in enumerate([(30, 64), (3, 48), (17, 72), (1, 64)]):
        encode(folder / "src" / f"{i}.avi", numbered(140, 48, width)[13 * i :][:length], "mjpeg")
    sizes = {"height": 20, "width": 20, "shard_size": 1, "min_frames": 1}
    prepare(folder / "src", folder / "files", PrepareConfig(min_frames=1))
    prepare(folder / "src", folder / "shards", PrepareConfig(to="shards", **sizes))
    prepare(folder / "src", folder / "grey", PrepareConfig(to="shards", channels=1, **sizes))
    return folder


def source(folder, cut, device="cpu", decoder="auto"):
    root = str(folder.parent / "src") if folder.name == "files" else None
    items, remarks = items_of_manifest(read_manifest(str(folder / "manifest.jsonl"), root))
    return ClipSource(items, cut, remarks, decoder, device, workers=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "cut",
    [
        Cut(4, 20, 20),
        Cut(5, 20, 20, stride=2, max_stride=4, mirror=True),
        Cut(9, 20, 20, crop="center"),
        Cut(1, 20, 20, mirror=True),
        Cut(6, 20, 20, channels=1),
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
        ("shards", Cut(4, 20, 20), "pyav", "decoded already"),
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
