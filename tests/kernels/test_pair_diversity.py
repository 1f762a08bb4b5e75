"""The diversity of clips against its formula in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan_kernels.diversity import diversity

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def formula(clips, noise, target):
    """The mean over pairs of min(mean |difference of clips| / mean |difference of noise|, target)."""
    clips, noise = clips.double().flatten(1), noise.double().flatten(1)
    ratios = [
        ((clips[i] - clips[i + 1]).abs().mean() / (noise[i] - noise[i + 1]).abs().mean()).clamp(max=target)
        for i in range(0, len(clips) - 1, 2)
    ]
    return torch.stack(ratios).mean() if ratios else torch.zeros((), dtype=torch.float64)


@given(st.integers(1, 40), SIZES, SIZES, st.sampled_from([0.25, 1, 1e9]))
def check(count, size, noise_size, target):
    clips, noise = torch.randn(count, *size), torch.randn(count, *noise_size)
    found = diversity(clips, noise, target)
    torch.testing.assert_close(found.double(), formula(clips, noise, target), rtol=1e-5, atol=1e-7)
    assert found.dtype == torch.float32 and found.shape == ()


def test_it_is_the_formula(implementation):
    check()
    # Several parts of a pair, the last one of which is short, and more noise than a tile has.
    check.hypothesis.inner_test(5, [3, 2, 33, 65], [1500], 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_clips_and_noise_in_any_layout(implementation, dtype):
    clips = torch.randn(6, 3, 4, 5, 7).to(dtype)
    last, part = clips.movedim(1, -1).contiguous().movedim(-1, 1), torch.stack([clips, clips * 0], -1)[..., 0]
    apart = clips.transpose(0, 1).contiguous().transpose(0, 1)
    noise = torch.randn(16, 6).T
    for x in clips, last, part, apart:
        # In float16 the reference rounds each difference.
        found = diversity(x, noise, 0.9)
        torch.testing.assert_close(found.double(), formula(x, noise, 0.9), rtol=1e-3, atol=1e-4)


def test_what_is_not_finite_is_seen(implementation):
    clips, noise = torch.randn(4, 3, 5), torch.randn(4, 2)
    clips[1, 2, 4] = torch.nan
    assert diversity(clips, noise, 1.0).isnan()
    assert diversity(torch.zeros(2, 3), torch.zeros(2, 2), 1.0).isnan()  # alike noise: 0 / 0


def test_gradients_are_those_of_the_formula(implementation):
    clips, noise = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    for wanted in (clips, noise):
        wanted.requires_grad_()
        (grad,) = torch.autograd.grad(diversity(clips, noise, 2.0), wanted)
        (expected,) = torch.autograd.grad(formula(clips, noise, 2.0), wanted)
        torch.testing.assert_close(grad, expected)
        wanted.requires_grad_(False)
