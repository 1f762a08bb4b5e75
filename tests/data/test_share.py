"""A share of the clips: which, how many, and what it changes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from make_videos import encode, make_numbered
from sklearn.datasets import load_digits

from fastvgan.data import list_clips, open_source
from fastvgan.data.digits import DigitsSource, Variant
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.share import choose_share
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import DataConfig

MODEL = ModelConfig(condition=())
shares = st.floats(0.01, 1)


@given(st.integers(1, 300), shares, shares, st.integers(0, 2**62))
def test_a_larger_share_contains_a_smaller_one(size, one, other, seed):
    small, large = sorted((one, other))
    if round(small * size) == 0:
        with pytest.raises(UserError, match=r"--share .* of \d+ clips leaves none; use at least "):
            choose_share(size, small, seed)
        return
    chosen, more = choose_share(size, small, seed), choose_share(size, large, seed)
    assert len(chosen) == round(small * size) and chosen == sorted(set(chosen)) and set(chosen) <= set(more)
    assert set(more) <= set(range(size)) and choose_share(size, 1.0, seed) == [*range(size)]


def test_the_clips_of_a_seed_are_always_the_same():
    assert choose_share(10, 0.3, 0) == [2, 7, 9] and choose_share(10, 0.3, 1) == [2, 4, 9]


def test_every_clip_is_chosen_as_often():
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[choose_share(20, 0.25, seed)] += 1
    assert (counts - 500).abs().max() < 90  # 4.6 standard deviations


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(10):
        encode(folder / f"{number}.mp4", make_numbered(30, 48, 64)[number : number + 20])
    prepare(folder, folder.parent / "shards", PrepareConfig(to="shards", height=16, width=16))
    return folder


@pytest.mark.parametrize("name", ["clips", "shards"])
def test_own_clips(clips, name):
    data = DataConfig(data=str(clips.parent / name) if name == "shards" else str(clips), workers=0)
    whole = open_source(data, MODEL)
    part = open_source(data.model_copy(update={"share": 0.3}), MODEL)
    assert part.size == 3 and "--share 0.3: 3 of 10 clips" in part.remarks
    assert whole.fingerprint == open_source(data.model_copy(update={"share": 1.0, "share_seed": 5}), MODEL).fingerprint
    assert part.fingerprint.clips == 3 and part.fingerprint.checksum != whole.fingerprint.checksum
    other = open_source(data.model_copy(update={"share": 0.3, "share_seed": 1}), MODEL)
    assert other.fingerprint != part.fingerprint
    items = list_clips(data, ()).items
    wanted = {items[i].name for i in choose_share(10, 0.3, 0)}
    assert {item.name for item in list_clips(data.model_copy(update={"share": 0.3}), ()).items} == wanted
    with pytest.raises(UserError, match=r"--share 0.04 of 10 clips leaves none; use at least 0.1"):
        open_source(data.model_copy(update={"share": 0.04}), MODEL)


def test_a_share_of_the_digits_is_a_share_of_their_pictures():
    """Each clip of 5% of the pictures shows one of those: at a size at which a picture lies on whole pixels."""
    source = DigitsSource(channels=1, variant=Variant(share=0.05))
    assert source.size == round(0.05 * 1287) == 64 and source.fingerprint.clips == 64
    assert source.remarks == ("--share 0.05: 64 of 1,287 pictures",)
    assert source.captions == DigitsSource(channels=1).captions
    chosen = choose_share(1287, 0.05, 0)
    pictures = torch.from_numpy(load_digits().data[:1287][chosen])
    own = torch.cat([row.flatten() for row in source._pictures]).view(-1, 64) * 16
    assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, pictures.tolist()))
    batch = next(source.batches(64, 0))
    shown = set(batch.label.tolist())
    assert shown == set(range(10))


def test_other_splits_and_the_whole_of_the_digits_are_unchanged():
    assert DigitsSource(split="test").fingerprint == DigitsSource(split="test", variant=Variant(share=0.1)).fingerprint
    assert DigitsSource().fingerprint == DigitsSource(variant=Variant(seed=4)).fingerprint
    test = open_source(DataConfig(share=0.1, reverse=True), MODEL, split="test")
    plain = DigitsSource(split="test")
    for one, other in itertools.islice(zip(test.batches(5, 3), plain.batches(5, 3), strict=True), 3):
        assert torch.equal(one.video, other.video)


def test_sharp_digits_take_the_same_pictures():
    small, sharp = (DigitsSource(height=side, width=side, variant=Variant(share=0.1)) for side in (16, 32))
    assert len(small._pictures) == len(sharp._pictures) == small.size == 129


def test_a_share_without_some_digit_is_refused():
    with pytest.raises(UserError, match=r"--share 0.004 leaves 5 of 1287 pictures, none of the digit \d; use a larger"):
        open_source(DataConfig(share=0.004), MODEL)


def test_reversed_digits_are_the_plain_ones_backwards():
    plain, source = DigitsSource(), DigitsSource(variant=Variant(reverse=True))
    assert source.draws == plain.draws + 1
    backwards = []
    for one, other in itertools.islice(zip(source.batches(50, 7), plain.batches(50, 7), strict=True), 4):
        for mine, theirs in zip(one.video, other.video, strict=True):
            backwards.append(torch.equal(mine, theirs.flip(0)) and not torch.equal(mine, theirs))
            assert backwards[-1] or torch.equal(mine, theirs)
        assert torch.equal(one.caption, other.caption) and torch.equal(one.label, other.label)
    assert 70 < sum(backwards) < 130


def test_mirrored_digits_are_refused():
    with pytest.raises(UserError, match="--mirror does not apply to the digits"):
        open_source(DataConfig(mirror=True), MODEL)
