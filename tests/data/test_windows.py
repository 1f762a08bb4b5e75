"""Frames for training and frames for tests: they never meet, and every frame belongs to one of the two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_videos import encode, make_numbered, number_of

from fastvgan.data import open_source
from fastvgan.data.clips import Item
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut, Member, Sampler
from fastvgan.data.windows import split_frames
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import DataConfig


def item(name, frames):
    return Item(name, Media("video", name), Probe(frames, 48, 64, "h264"), (), None)


@given(
    frames=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    needed=st.integers(2, 16),
    stride=st.integers(1, 3),
    share=st.floats(0.01, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_the_parts_cover_each_clip_and_do_not_overlap(frames, needed, stride, share):
    cut = Cut(needed, 16, 16, stride=stride)
    length = (needed - 1) * stride + 1
    items = [item(str(i), n) for i, n in enumerate(frames)]
    try:
        train, test, remarks = split_frames(items, cut, share)
    except UserError as error:
        assert "--test-share" in str(error) and all(n < 2 * length for n in frames)
        return
    assert [each.name for each in train] == [each.name for each in items]
    kept = {each.name: each.frames for each in test}
    for each in train:
        later = kept.pop(each.name, range(each.found.frames, each.found.frames))
        assert [*each.frames, *later] == list(range(each.found.frames))
        assert not later or min(len(each.frames), len(later)) >= length
    assert not kept and bool(remarks) == (len(test) < len(train))
    assert {each.name for each in test} == {each.name for each in items if each.found.frames >= 2 * length}


@given(st.integers(0, 50), st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 100))
def test_a_part_is_sampled_as_a_clip_of_its_own(first, frames, seed, number):
    cut = Cut(4, 8, 8, max_stride=3, mirror=True)
    whole = Sampler([Member(frames, (0,), -1)], cut).draw(seed, number)
    part = Sampler([Member(frames, (0,), -1, first)], cut).draw(seed, number)
    assert part == whole._replace(indices=tuple(first + i for i in whole.indices))


@pytest.mark.parametrize("form", ["files", "shards"])
def test_every_form_of_data_shows_each_part_its_own_frames(tmp_path, form):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, count in (("a", 40), ("b", 24), ("c", 9)):
        encode(folder / f"{name}.mp4", make_numbered(count))
    if form == "shards":
        prepare(folder, tmp_path / "out", PrepareConfig(to="shards", height=32, width=32))
        folder = tmp_path / "out"
    data = DataConfig(data=str(folder), workers=0, test_share=0.25, crop="center")
    model = ModelConfig(condition=(), frames=8, height=32, width=32)
    seen = {}
    for split in ("train", "test"):
        source = open_source(data, model, split=split)
        batches = source.batches(source.size, seed=0)
        drawn = np.concatenate([next(batches).video.numpy() for _ in range(12)])
        batches.close()
        seen[split] = {number_of(frame) for clip in drawn for frame in clip}
    # a: 30 and 10 frames; b: 16 and 8; c, of 9 frames, is used for training as a whole.
    assert seen["train"] <= set(range(30)) and seen["test"] <= set(range(16, 24)) | set(range(30, 40))
    assert min(seen["train"]) < 4 and 23 < max(seen["train"]) and {23, 39} <= seen["test"]
    assert any("1 of 3 clips" in remark and "c.mp4" in remark for remark in open_source(data, model).remarks)


def test_a_split_that_is_not_there_is_named(tmp_path):
    encode(tmp_path / "a.mp4", make_numbered(20)).with_suffix(".txt").write_text("x")
    model = ModelConfig(condition=(), frames=16)
    with pytest.raises(UserError, match="no split 'test'; .* --test-share"):
        open_source(DataConfig(data=str(tmp_path)), model, split="test")
    with pytest.raises(UserError, match=r"--test-share 0.2: no clip has the 32 frames"):
        open_source(DataConfig(data=str(tmp_path), test_share=0.2), model)
    with pytest.raises(UserError, match="--test-share does not apply to the digits"):
        open_source(DataConfig(test_share=0.2), model)
