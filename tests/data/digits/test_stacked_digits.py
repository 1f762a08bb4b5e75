"""Stacked digits: each channel shows the digit that was drawn, all 1,000 triples occur, and they can be counted."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.datasets import load_digits

from fastvgan.data import open_source
from fastvgan.data.digits import DigitsSource
from fastvgan.data.digits.stacked import StackedDigitsSource
from fastvgan.errors import UserError
from fastvgan.metrics.modes import count_modes, read_modes
from fastvgan.models.config import ModelConfig
from fastvgan.random_draws import Draws, Purpose, uniforms
from fastvgan.runs.config import DataConfig
from fastvgan.runs.presets import PRESETS


@pytest.mark.parametrize("split, least", [("train", 0.99), ("test", 0.95)])
def test_each_channel_shows_the_digit_that_was_drawn(split, least):
    clips = next(StackedDigitsSource(split=split).batches(300, seed=3))
    assert clips.video.shape == (300, 4, 16, 16, 3) and clips.caption is None and clips.label is None
    assert (clips.video == clips.video[:, :1]).all()
    words = Draws(3, {Purpose.CLIP: 6})(torch.arange(300))[Purpose.CLIP]
    digits = (uniforms(words)[:, ::2] * 10).long()
    expected = (digits * torch.tensor([100, 10, 1])).sum(1)
    assert (read_modes(clips.video) == expected).double().mean() > least


@pytest.mark.parametrize("size", [(16, 16), (32, 64)])
def test_a_channel_is_a_still_picture_of_the_digits_source(size):
    digits = DigitsSource(1, *size, channels=1)
    chances = torch.tensor([0.0, 0.3, 0.999], dtype=torch.float64)
    still = digits.draw_still(torch.tensor([0, 4, 9]), chances)
    pictures = {
        i: digits.draw_still(torch.full((200,), i), torch.arange(200, dtype=torch.float64) / 200) for i in (0, 4, 9)
    }
    # At 16x16 a picture lies on whole pixels.
    data = load_digits()
    stored = {i: torch.from_numpy(data.images[:1287][data.target[:1287] == i] / 16 * 255).round() for i in pictures}
    for shown, digit in zip(still, (0, 4, 9), strict=True):
        assert shown.shape == size and (pictures[digit] == shown).all((1, 2)).any()
        assert size != (16, 16) or (stored[digit] == shown[4:12, 4:12]).all((1, 2)).any()
    top, left = size[0] // 4, size[1] // 4
    border = still.clone()
    border[:, top : size[0] - top, left : size[1] - left] = 0
    assert border.double().mean() < 1 < still.double().mean()


def test_batches_are_functions_of_seed_and_number():
    one = StackedDigitsSource().batches(6, seed=1, start=2)
    parts = [StackedDigitsSource().batches(3, seed=1, start=2, rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(next(one).video, torch.cat([next(part).video for part in parts]))


def test_all_triples_are_equally_likely():
    words = Draws(0, {Purpose.CLIP: 6})(torch.arange(50_000))[Purpose.CLIP]
    digits = (uniforms(words)[:, ::2] * 10).long()
    found = count_modes((digits * torch.tensor([100, 10, 1])).sum(1))
    assert found.modes == 1000 and found.divergence < 0.02


def test_the_divergence_is_scipys():
    rng = np.random.default_rng(0)
    triples = rng.zipf(1.5, 5000) % 1000
    shares = np.bincount(triples, minlength=1000) / 5000
    found = count_modes(torch.from_numpy(triples))
    assert found.modes == len(np.unique(triples))
    assert found.divergence == pytest.approx(entropy(shares, np.full(1000, 1e-3)))


@pytest.mark.parametrize(
    ("data", "model", "sentence"),
    [
        ({}, {"condition": ("text",)}, "have no conditions; use --condition none"),
        ({}, {"channels": 1}, "use --channels 3"),
        ({"hold_out": 0.1}, {}, "--hold-out does not apply"),
        ({"test_share": 0.1}, {}, "--test-share does not apply"),
        ({"reverse": True}, {}, "--reverse does not apply"),
        ({"captions": "free"}, {}, "--captions free does not apply"),
        ({"decoder": "pyav"}, {}, "--decoder pyav does not apply"),
    ],
)
def test_what_does_not_apply_is_named(data, model, sentence):
    with pytest.raises(UserError, match=sentence):
        open_source(DataConfig(data="stacked-digits", **data), ModelConfig(**{"condition": (), **model}))


def test_the_preset_trains_on_them():
    preset = PRESETS["stacked-digits"]
    assert isinstance(open_source(preset.data, preset.model), StackedDigitsSource)
    assert isinstance(open_source(preset.data, preset.model, split="test"), StackedDigitsSource)
