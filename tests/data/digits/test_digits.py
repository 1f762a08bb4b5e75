"""The captioned digits: what the captions say is what the pixels show, read off by a rule that learns nothing."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

from fastvgan.data import open_source
from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.data.digits.shapes import REACH
from fastvgan.errors import UserError
from fastvgan.metrics.oracle.rules import read_colour, read_motion
from fastvgan.models.config import ModelConfig
from fastvgan.random_draws import Draws, Purpose
from fastvgan.runs.config import DataConfig

BRIGHTNESS = [74958, 66552, 158084, 150448, 179012, 159650, 169814, 160158, 141768, 137214, 89245, 162182]


@pytest.mark.parametrize("size", [(16, 16, 16), (8, 32, 32), (16, 64, 32), (32, 16, 128)])
def test_clips_show_what_their_captions_say(size):
    source = DigitsSource(*size)
    clips = next(source.batches(96, seed=1))
    assert clips.video.dtype == torch.uint8 and clips.video.shape == (96, *size, 3)
    read = [(read_colour(video), read_motion(video)) for video in clips.video.numpy()]
    said = [source.captions[i] for i in clips.caption.tolist()]
    agree = [
        f"a {colour} " in text and text.endswith(motion) for (colour, motion), text in zip(read, said, strict=True)
    ]
    assert np.mean(agree) >= 0.98, [
        pair for pair, fine in zip(zip(read, said, strict=True), agree, strict=True) if not fine
    ]
    assert [f" {label} " in text for label, text in zip(clips.label.tolist(), said, strict=True)] == [True] * 96


def test_every_combination_has_one_caption():
    source = DigitsSource()
    expected = {caption(*row) for row in itertools.product(range(10), COLOURS, MOTIONS)}
    assert set(source.captions) == expected and len(source.captions) == len(expected) == 240
    assert "a red 7 moving up and down" in expected


def test_grey_captions_name_no_colour():
    source = DigitsSource(channels=1)
    assert next(source.batches(3, 0)).video.shape == (3, 16, 16, 16, 1)
    assert len(source.captions) == 40 and not any(colour in " ".join(source.captions) for colour in COLOURS)


@given(seed=st.integers(0, 2**31), start=st.integers(0, 50))
@settings(max_examples=10)
def test_a_batch_depends_on_seed_and_number_alone(seed, start):
    source = DigitsSource()
    late = next(source.batches(4, seed, start))
    early = next(itertools.islice(source.batches(4, seed), start, None))
    assert all(torch.equal(a, b) for a, b in zip(late, early, strict=True))
    assert not torch.equal(late.video, next(source.batches(4, seed, start + 1)).video)


def test_no_image_is_in_both_splits():
    images = load_digits().images.reshape(-1, 64) / 16
    sources = (DigitsSource(split=split) for split in ("train", "test"))
    parts = [source._pictures.flatten(1).numpy() for source in sources]
    assert sum(map(len, parts)) == len(images)
    assert not {row.tobytes() for row in parts[0]} & {row.tobytes() for row in parts[1]}


@pytest.mark.parametrize("share, seed", [(0.1, 0), (0.1, 1), (0.25, 2), (0.5, 3)])
def test_held_out_captions_are_never_drawn_and_every_word_loses_as_many(share, seed):
    everything, source = DigitsSource(), DigitsSource(hold_out=share, hold_out_seed=seed)
    assert len(source.held_out) == round(share * 240)
    assert sorted([*source.captions, *source.held_out]) == sorted(everything.captions)
    for kind in (1, 2, slice(4, None)):
        lost = Counter(str(text.split()[kind]) for text in source.held_out)
        words = {str(text.split()[kind]) for text in everything.captions}
        losses = [lost[word] for word in words]
        assert max(losses) - min(losses) <= (1 if share < 0.5 else 2), lost
    clips = next(source.batches(256, seed=0))
    assert clips.caption.max() < len(source.captions)
    said = [source.captions[i] for i in clips.caption.tolist()]
    assert all(f" {label} " in text for label, text in zip(clips.label.tolist(), said, strict=True))
    assert [read_colour(video) for video in clips.video[:32].numpy()] == [text.split()[1] for text in said[:32]]


def test_the_seed_alone_chooses_what_is_held_out():
    first, again, other = (DigitsSource(hold_out=0.1, hold_out_seed=seed).held_out for seed in (0, 0, 1))
    assert first == again != other
    assert DigitsSource().held_out == () and len(DigitsSource(channels=1, hold_out=0.1).held_out) == 4


def test_a_share_that_leaves_a_word_in_no_caption_is_refused():
    with pytest.raises(UserError, match="--hold-out 0.97 keeps 233 of the digits' 240 captions out"):
        DigitsSource(hold_out=0.97)
    with pytest.raises(
        UserError, match="--hold-out 0.002 is less than one of the digits' 240 captions; .* at least 0.004"
    ):
        DigitsSource(hold_out=0.002)


def test_the_test_split_draws_every_caption():
    source = open_source(DataConfig(hold_out=0.1), ModelConfig(), split="test")
    assert len(source.captions) == 240 and source.held_out == () and source.size == 510
    assert len(open_source(DataConfig(hold_out=0.1), ModelConfig()).captions) == 216


@pytest.mark.parametrize(
    "settings, split, said",
    [
        ({}, "validation", "the digits have no split 'validation'; use one of train, test"),
        ({"data": "clips"}, "test", "clips has no split 'test'; the only split is 'train'"),
        ({"data": "clips", "hold_out": 0.1}, "train", "--hold-out applies only to the digits"),
    ],
)
def test_what_a_source_lacks_is_named(settings, split, said):
    with pytest.raises(UserError, match=re.escape(said)):
        open_source(DataConfig(**settings), ModelConfig(), split=split)


def test_the_clips_of_a_seed_stay_what_they_were():
    clips = next(DigitsSource().batches(12, seed=5, start=3))
    assert clips.caption.tolist() == [149, 172, 60, 180, 112, 110, 187, 114, 211, 157, 153, 60]
    # Rounding may differ by a few grey levels between processors.
    assert clips.video.long().sum((1, 2, 3, 4)).tolist() == pytest.approx(BRIGHTNESS, rel=2e-5)


@pytest.mark.parametrize("size", [(16, 16, 16), (5, 64, 32), (20, 32, 128)])
def test_a_clip_is_its_picture_moved(size):
    """Against float64 and scipy's bilinear interpolation."""
    frames, height, width = size
    source, rng = DigitsSource(*size, channels=1), np.random.default_rng(0)
    index, chances = rng.integers(40, size=12), rng.random((12, 4))
    clips = source.render(torch.from_numpy(index), torch.from_numpy(chances))[..., 0].numpy()
    pictures, labels, margin = (
        source._pictures.double().numpy(),
        source._sorted_digits.numpy(),
        REACH if max(size[1:]) > 16 else 0,
    )
    time = np.arange(frames) / min(frames, 16)
    for clip, row, (hand, phase, where, way) in zip(clips, index, chances, strict=True):
        digit, _, motion = source._table[row]
        picture = pictures[labels == digit][int(hand * (labels == digit).sum())]
        angle, turn, still = 2 * np.pi * (time + phase), -1 if way < 0.5 else 1, np.full(frames, where - 0.5)
        x, y = {
            "up and down": (still, np.sin(angle)),
            "left and right": (np.sin(angle), still),
            "diagonally": (np.sin(angle), turn * np.sin(angle)),
            "in a circle": (np.sin(angle), turn * np.cos(angle)),
        }[motion]
        for t in range(frames):
            # A digit's middle lies as far from the frame's as half the frame at most, and it is half as large.
            down, across = (
                ((np.arange(n) + 0.5) * 2 / n - 1 - c / 2) * (rows - 2 * margin) + (rows - 1) / 2
                for n, c, rows in ((height, y[t], picture.shape[0]), (width, x[t], picture.shape[1]))
            )
            # scipy's own edge, "constant", is sharp; ours fades over one pixel, as a picture with a black rim does.
            grey = map_coordinates(np.pad(picture, 2), np.meshgrid(down + 2, across + 2, indexing="ij"), order=1)
            grey = np.clip(grey - (margin - 0.5), 0, 1) if margin else grey
            off = np.abs(clip[t] - 255 * grey)
            assert off.max() < 0.501


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(16, 16, 16), (16, 64, 64)])
def test_a_gpu_draws_the_same_clips(size):
    source = DigitsSource(*size)
    words = Draws(0, {Purpose.CLIP: source.draws})(torch.arange(256))[Purpose.CLIP]
    here, there = source.draw(words), source.draw(words.cuda())
    assert torch.equal(here.caption, there.caption.cpu()) and torch.equal(here.label, there.label.cpu())
    off = (here.video.int() - there.video.cpu().int()).abs()
    assert off.max() <= 1 and (off > 0).double().mean() < 1e-3


def test_a_still_clip_has_no_motion():
    assert read_motion(np.repeat(np.eye(16, dtype=np.uint8)[None, :, :, None] * 255, 16, 0)) == "none"


@pytest.mark.parametrize("way", [-1, 1])
@pytest.mark.parametrize("phase", [0.0, 0.7, 1.6, 3.0, 5.1])
def test_a_circle_goes_round(phase, way):
    """In one direction: to and fro on most of the same circle, at the same speed, is none."""

    def spot(angle):
        x, y = np.meshgrid(np.arange(16), np.arange(16))
        far = [(x - 7.5 - 4 * math.cos(a)) ** 2 + (y - 7.5 - 4 * math.sin(a)) ** 2 for a in angle]
        return (255 * np.exp(-np.array(far)))[..., None].astype(np.uint8)

    turns = phase + way * 2 * math.pi * np.arange(16) / 16
    assert read_motion(spot(turns)) == "in a circle"
    assert read_motion(spot(way * np.abs((turns % (2 * math.pi)) - math.pi) * 1.5)) != "in a circle"
