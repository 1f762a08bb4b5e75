"""The captioned digits: what the captions say is what the pixels show, read off by a rule that learns nothing."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.metrics.digits import read_colour, read_motion


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
    parts = [np.concatenate([x.flatten(1) for x in DigitsSource(split=split)._images]) for split in ("train", "test")]
    assert sum(map(len, parts)) == len(images)
    assert not {row.tobytes() for row in parts[0]} & {row.tobytes() for row in parts[1]}


def test_a_still_clip_has_no_motion():
    assert read_motion(np.repeat(np.eye(16, dtype=np.uint8)[None, :, :, None] * 255, 16, 0)) == "none"
