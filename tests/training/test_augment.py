"""Augmentations against the paper's formulas, written out by clip in NumPy's float64 from the same random words."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from fastvgan.training.augment import WORDS, ChangeMaker, apply_changes

CPU = torch.device("cpu")
ALL = ("color", "translation", "cutout")
ONE, ZERO = torch.tensor(1.0), torch.tensor(0.0)
names_of = st.lists(st.sampled_from(ALL), unique=True).map(tuple)


def clips_of(n, channels, frames, height, width, seed=0, dtype=torch.float64):
    """Clips in channels_last_3d, as everywhere in training."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(n, frames, height, width, channels, generator=random, dtype=dtype) * 2 - 1
    return x.permute(0, 4, 1, 2, 3)


def words_of(n, seed=0):
    return torch.randint(0, 2**32, (n, WORDS), generator=torch.Generator().manual_seed(seed))


def written_out(x, words, names, probability, mean=None):
    """DiffAugment_pytorch.py's functions for one clip x (C, T, H, W), with their random numbers from `words` (10,)."""
    u = [int(word) / 2**32 for word in words]

    def integer(word, low, high):  # torch.randint(low, high), from a word
        return low + int(words[word]) * (high - low) // 2**32

    height, width = x.shape[2:]
    if "color" in names and u[0] < probability:
        x = x + (u[3] - 0.5)
        grey = x.mean(0, keepdims=True)
        x = (x - grey) * (u[4] * 2) + grey
        # An image beside a clip has the clip's mean, to which brightness was added as well.
        center = x.mean() if mean is None else mean + u[3] - 0.5
        x = (x - center) * (u[5] + 0.5) + center
    if "translation" in names and u[1] < probability:
        down, across = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        row, column = integer(6, -down, down + 1), integer(7, -across, across + 1)
        padded = np.pad(x, ((0, 0), (0, 0), (down, down), (across, across)))
        x = padded[:, :, down + row :, across + column :][:, :, :height, :width]
    if "cutout" in names and u[2] < probability:
        tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        top = integer(8, 0, height + (1 - tall % 2)) - tall // 2
        left = integer(9, 0, width + (1 - wide % 2)) - wide // 2
        mask = np.ones((height, width))
        rows = np.clip(np.arange(top, top + tall), 0, height - 1)
        mask[np.ix_(rows, np.clip(np.arange(left, left + wide), 0, width - 1))] = 0
        x = x * mask
    return x


@given(
    st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20),
    names_of, st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_clips_and_images_are_those_of_the_paper_s_formulas(n, channels, frames, height, width, names, p, seed):
    x, words = clips_of(n, channels, frames, height, width, seed), words_of(n, seed)
    image = clips_of(n, channels, 1, height, width, seed + 1)[:, :, 0]
    made, shown = apply_changes(ChangeMaker(names, height, width, CPU)(words, torch.tensor(p)), x, image)
    for i in range(n):
        wanted = written_out(x[i].numpy(), words[i], names, p)
        np.testing.assert_allclose(made[i].numpy(), wanted, rtol=0, atol=1e-12)
        beside = written_out(image[i, :, None].numpy(), words[i], names, p, x[i].mean().item())
        np.testing.assert_allclose(shown[i].numpy(), beside[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("names", [ALL, *((name,) for name in ALL)])
def test_a_picture_held_for_a_clip_stays_held_and_the_memory_format_stays(names):
    still = clips_of(6, 3, 1, 16, 12, dtype=torch.float32).expand(6, 3, 9, 16, 12)
    still = still.contiguous(memory_format=torch.channels_last_3d)
    made = apply_changes(ChangeMaker(names, 16, 12, CPU)(words_of(6), ONE), still)[0]
    assert torch.equal(made, made[:, :, :1].expand_as(made)) and not torch.equal(made, still)
    assert made.is_contiguous(memory_format=torch.channels_last_3d) and made.dtype == torch.float32


def test_a_first_frame_gets_the_change_of_its_clip():
    x = clips_of(5, 3, 8, 16, 16, dtype=torch.float32)
    made, shown = apply_changes(ChangeMaker(ALL, 16, 16, CPU)(words_of(5), ONE), x, x[:, :, 0])
    torch.testing.assert_close(shown, made[:, :, 0], rtol=0, atol=1e-6)


def test_at_probability_zero_all_bits_stay():
    x = clips_of(6, 3, 5, 16, 16, dtype=torch.float32)
    made, shown = apply_changes(ChangeMaker(ALL, 16, 16, CPU)(words_of(6), ZERO), x, x[:, :, 2])
    assert torch.equal(made.view(torch.int32), x.view(torch.int32))
    assert torch.equal(shown.view(torch.int32), x[:, :, 2].view(torch.int32))


@pytest.mark.parametrize("names", [ALL, *((name,) for name in ALL)])
@pytest.mark.parametrize("shape", [(2, 3, 2, 8, 5), (1, 1, 3, 4, 4), (2, 3, 1, 1, 9)])
def test_gradients_of_first_and_second_order(names, shape):
    x = clips_of(*shape).requires_grad_()
    image = clips_of(shape[0], shape[1], 1, *shape[3:], seed=1)[:, :, 0].detach().requires_grad_()
    changes = ChangeMaker(names, *shape[3:], CPU)(words_of(shape[0], 3), ONE)

    def change(clips, images):
        made = apply_changes(changes, clips, images)
        return [part * part for part in made]  # of a linear function alone the second derivative would be zero

    assert gradcheck(change, (x, image)) and gradgradcheck(change, (x, image))


def test_a_gradient_has_the_memory_format_too():
    x = clips_of(4, 3, 5, 16, 16, dtype=torch.float32).requires_grad_()
    made = apply_changes(ChangeMaker(("translation",), 16, 16, CPU)(words_of(4), ONE), x)[0]
    (gradient,) = torch.autograd.grad(made.square().sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


def test_changes_are_drawn_as_often_as_they_should():
    """Each value of a uniform distribution as often as another, each coin by its probability, none with another."""
    n, height, width = 40_000, 16, 24
    changes = ChangeMaker(ALL, height, width, CPU)(words_of(n), torch.tensor(0.6))
    color = changes.color.numpy()
    chosen = np.stack([color[:, 1] != 1, changes.shift.any(1).numpy(), (~changes.keep).any(1).any(1).numpy()], 1)
    # One translation in 5 · 7 moves nothing.
    for found, wanted in zip(chosen.mean(0), (0.6, 0.6 * 34 / 35, 0.6), strict=True):
        assert abs(found - wanted) < 0.01
    assert np.abs(np.corrcoef(chosen.T) - np.eye(3)).max() < 0.02
    drawn = color[chosen[:, 0]]
    for value, (low, high) in zip(drawn.T, ((-0.5, 0.5), (0, 2), (0.5, 1.5)), strict=True):
        assert np.histogram(value, 10, (low, high))[0].std() / len(drawn) < 0.004 and low <= value.min() < low + 0.01
    rows, columns = changes.shift[changes.shift.any(1)].unbind(1)
    assert sorted(set(rows.tolist())) == [*range(-2, 3)] and sorted(set(columns.tolist())) == [*range(-3, 4)]
    # A cutout's center is anywhere in the frame, so that it may reach beyond.
    cut = (~changes.keep[torch.from_numpy(chosen[:, 2])]).sum((1, 2))
    assert cut.max() == height * width // 4 and cut.min() == height * width // 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_stay(dtype):
    x = clips_of(3, 3, 4, 16, 16).to(dtype)
    made = apply_changes(ChangeMaker(ALL, 16, 16, CPU)(words_of(3), ONE), x)[0]
    assert made.dtype == dtype and made.isfinite().all()
