"""Draws depend on seed, purpose and number alone, and have the right distribution."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan.random_draws import Draws, Purpose, draw_below, normals, uniforms

SIZES = {Purpose.NOISE: 7, Purpose.CLIP: 5, Purpose.WRONG_CONDITION: 0}


@given(st.integers(0, 2**64), st.integers(0, 2**62), st.integers(1, 9))
def test_words_are_a_function_of_seed_purpose_and_number(seed, first, size):
    numbers = first + torch.arange(5)
    together = Draws(seed, SIZES)(numbers)
    assert [together[purpose].shape for purpose in SIZES] == [(5, 7), (5, 5), (5, 0)]
    one = Draws(seed, {Purpose.NOISE: size})(numbers[3:4])[Purpose.NOISE][0]
    shared = min(size, 7)
    assert torch.equal(together[Purpose.NOISE][3, :shared], one[:shared])
    expected = together[Purpose.CLIP][3, 0].item() * 10**6 >> 32
    assert draw_below(10**6, seed, Purpose.CLIP, first + 3) == expected


def test_seeds_purposes_and_numbers_share_nothing():
    words = [
        Draws(seed, {purpose: 8})(torch.tensor([number]))[purpose].flatten()
        for seed in (0, 1, 2**32)
        for purpose in Purpose
        for number in (0, 1, 2**32)
    ]
    assert len(torch.cat(words).unique()) == sum(map(len, words))


def test_uniforms_are_even_and_keep_every_bit():
    words = Draws(3, {Purpose.CLIP: 64})(torch.arange(2000))[Purpose.CLIP]
    assert words.min() >= 0 and words.max() < 2**32
    found = uniforms(words)
    assert found.dtype == torch.float64 and torch.equal((found * 2**32).long(), words)
    assert scipy.stats.kstest(found.flatten().numpy(), "uniform").pvalue > 1e-3
    ends = uniforms(torch.tensor([0, 2**32 - 1]))
    assert ends[0] == 0 and (ends * 4096).long().tolist() == [0, 4095]


def test_normals_are_the_inverse_of_the_normal_distribution_function():
    words = Draws(4, {Purpose.NOISE: 100})(torch.arange(2000))[Purpose.NOISE]
    words[0, :4] = torch.tensor([0, 1, 2**32 - 1, 2**31])
    found = normals(words)
    assert found.dtype == torch.float32
    expected = scipy.stats.norm.ppf((words.double().numpy() + 0.5) / 2**32).astype(np.float32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-7)
    assert scipy.stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-3
    for a, b in ((found[:, 0], found[:, 1]), (found[:-1, 0], found[1:, 0])):
        assert abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) < 0.08


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    numbers = torch.arange(4096) + 2**40
    here, there = (Draws(5, SIZES, device)(numbers.to(device)) for device in ("cpu", "cuda"))
    assert all(torch.equal(here[purpose], there[purpose].cpu()) for purpose in SIZES)
    assert torch.equal(uniforms(here[Purpose.CLIP]), uniforms(there[Purpose.CLIP]).cpu())
    differs = normals(here[Purpose.NOISE]) != normals(there[Purpose.NOISE]).cpu()
    assert differs.double().mean() < 1e-5
