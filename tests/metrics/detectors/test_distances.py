"""Distances of features against the published implementations, written out with NumPy, SciPy and scikit-learn."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics.pairwise import polynomial_kernel

from fastvgan.metrics.detectors.distances import (
    frechet_interval,
    inception_interval,
    inception_score,
    jedi_distance,
    jedi_interval,
    kernel_interval,
)
from fastvgan.metrics.frechet import frechet_distance, gaussian
from fastvgan.metrics.intervals import resample_counts


def stylegan_v(fake, real):
    """Skorokhodov et al. 2022: the mean, np.cov, SciPy's root of the product of the covariances, its real part."""
    means, covariances = zip(*((part.mean(0), np.cov(part, rowvar=False)) for part in (fake, real)), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # of singular covariances
        root = scipy.linalg.sqrtm(np.dot(*covariances))
    return float(np.real(np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - root * 2)))


def unbiased_mmd(x, y):
    """KID's and KVD's estimate (Bińkowski et al. 2018) by scikit-learn's kernel, with its defaults."""
    xx, yy, xy = polynomial_kernel(x), polynomial_kernel(y), polynomial_kernel(x, y)
    m, n = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return within - 2 * xy.mean()


def jedi(x, y):
    """Luo et al. 2024: scikit-learn's kernel of degree 2 without a constant, the biased estimate, times 100."""
    xx, yy, xy = (polynomial_kernel(a, b, degree=2, coef0=0) for a, b in ((x, x), (y, y), (x, y)))
    return 100 * (xx.mean() + yy.mean() - 2 * xy.mean())


def inception(probabilities):
    """Salimans et al. 2016, one split."""
    marginal = probabilities.mean(0, keepdims=True)
    return np.exp(np.mean(np.sum(probabilities * (np.log(probabilities) - np.log(marginal)), axis=1)))


def draw(m, n, d, rank=None, seed=0):
    """Two sets of correlated features with different means, of this rank if given."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or d, d)) * rng.random(d)
    return rng.normal(size=(m, rank or d)) @ mixing + rng.random(d), rng.normal(size=(n, rank or d)) @ mixing * 0.7


# Many clips of few features, as many clips as features, fewer clips than features, features of low rank, one feature
SIZES = [(300, 250, 12, None), (40, 40, 40, None), (30, 20, 64, None), (100, 80, 30, 5), (16, 16, 400, None)]


@pytest.mark.parametrize(("m", "n", "d", "rank"), SIZES)
def test_fvd_is_the_published_one(m, n, d, rank):
    fake, real = draw(m, n, d, rank)
    expected = stylegan_v(fake, real)
    found = frechet_interval(torch.tensor(fake), torch.tensor(real), seed=0, resamples=2).value
    assert found == pytest.approx(expected, rel=1e-6)
    moments = [part for features in (fake, real) for part in gaussian(torch.tensor(features))]
    assert found == pytest.approx(frechet_distance(*moments), rel=1e-9)


def test_fvd_of_the_size_of_i3d_is_the_published_one():
    fake, real = draw(600, 500, 400)
    found = frechet_interval(torch.tensor(fake), torch.tensor(real), seed=0, resamples=2).value
    assert found == pytest.approx(stylegan_v(fake, real), rel=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 12), st.integers(0, 2**31))
def test_distances_of_any_size_are_the_published_ones(m, n, d, seed):
    fake, real = draw(m, n, d, seed=seed)
    pair = torch.tensor(fake), torch.tensor(real)
    # SciPy's root of a singular matrix has errors of the root of float64's precision, relative to the covariances.
    scale = np.trace(np.cov(fake, rowvar=False)) + np.trace(np.cov(real, rowvar=False))
    found = frechet_interval(*pair, seed=0, resamples=2).value
    assert found == pytest.approx(stylegan_v(fake, real), rel=1e-6, abs=1e-6 * scale)
    assert kernel_interval(*pair, seed=0, resamples=2).value == pytest.approx(
        unbiased_mmd(fake, real), rel=1e-6, abs=1e-9
    )
    assert jedi_distance(*pair) == pytest.approx(jedi(fake, real), rel=1e-6, abs=1e-9)


def test_one_feature():
    """For one feature the Fréchet distance is (μ₁ - μ₂)² + (σ₁ - σ₂)²."""
    fake, real = torch.randn(9, 1).double(), 3 * torch.randn(7, 1).double()
    expected = (fake.mean() - real.mean()) ** 2 + (fake.std() - real.std()) ** 2
    assert frechet_interval(fake, real, 0, 2).value == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_of_any_dtype_are_computed_in_float64(dtype):
    fake, real = (torch.tensor(part).to(dtype) for part in draw(40, 30, 6))
    wide = fake.double().numpy(), real.double().numpy()
    assert frechet_interval(fake, real, 0, 2).value == pytest.approx(stylegan_v(*wide), rel=1e-6)
    assert kernel_interval(fake, real, 0, 2).value == pytest.approx(unbiased_mmd(*wide), rel=1e-6)
    assert jedi_distance(fake, real) == pytest.approx(jedi(*wide), rel=1e-6)


def test_features_far_from_zero_lose_no_digits():
    fake, real = (part + 1e4 for part in draw(200, 150, 8))
    found = frechet_interval(torch.tensor(fake), torch.tensor(real), 0, 2).value
    assert found == pytest.approx(stylegan_v(fake, real), rel=1e-6)


def test_equal_and_constant_features_have_no_distance():
    same = torch.randn(20, 5)
    assert frechet_interval(same, same, 0, 5).value == pytest.approx(0, abs=1e-9)
    assert jedi_distance(same, same) == 0
    constant = torch.ones(6, 3)
    assert frechet_interval(constant, constant, 0, 5) == (0, 0, 0)


@pytest.mark.parametrize("scale", [0.1, 1, 30, 1000])
def test_the_inception_score_is_the_published_one(scale):
    logits = scale * torch.randn(50, 7).double()
    probabilities = scipy.special.softmax(logits.numpy(), axis=1)
    each = [entropy(row, probabilities.mean(0)) for row in probabilities]
    assert inception_score(logits) == pytest.approx(np.exp(np.mean(each)), rel=1e-9)
    if scale <= 30:  # with larger logits the published logarithm is infinite
        assert inception_score(logits) == pytest.approx(inception(probabilities), rel=1e-9)


def test_the_inception_score_is_one_for_equal_clips_and_at_most_the_number_of_classes():
    assert inception_score(torch.randn(1, 5).expand(8, 5)) == pytest.approx(1)
    assert inception_score(1e4 * torch.eye(6)) == pytest.approx(6)
    assert inception_score(torch.zeros(4, 1)) == pytest.approx(1)


def check_interval(interval, value, resampled):
    """An interval is the 2.5th and the 97.5th percentile of the resamples, shifted to the value, and not negative."""
    low, high = np.quantile(np.array(resampled) - np.mean(resampled), [0.025, 0.975])
    assert interval.value == pytest.approx(value, rel=1e-6)
    assert (interval.low, interval.high) == pytest.approx((max(0, value + low), value + high), rel=1e-6)


def resampled_sets(fake, real, seed, resamples):
    counts = [resample_counts(len(part), seed + i, resamples).int().numpy() for i, part in enumerate((fake, real))]
    return [(fake.repeat(a, axis=0), real.repeat(b, axis=0)) for a, b in zip(*counts, strict=True)]


@pytest.mark.parametrize(("m", "n", "d"), [(30, 20, 5), (12, 9, 20)])
def test_resamples_are_scored_as_the_clips_in_them_would_be(m, n, d):
    fake, real = draw(m, n, d)
    pair, sets = (torch.tensor(fake), torch.tensor(real)), resampled_sets(fake, real, 3, 25)
    check_interval(frechet_interval(*pair, 3, 25), stylegan_v(fake, real), [stylegan_v(*one) for one in sets])
    check_interval(jedi_interval(*pair, 3, 25), jedi(fake, real), [jedi(*one) for one in sets])


def test_resamples_of_logits_are_scored_as_the_clips_in_them_would_be():
    logits = np.random.default_rng(0).normal(size=(30, 4))
    probabilities = scipy.special.softmax(logits, axis=1)
    counts = resample_counts(30, 3, 25).int().numpy()
    scores = [inception(probabilities.repeat(one, axis=0)) for one in counts]
    check_interval(inception_interval(torch.tensor(logits), 3, 25), inception(probabilities), scores)


def test_intervals_are_as_wide_as_draws_spread():
    generator = torch.Generator().manual_seed(0)

    def draws():
        return torch.randn(200, 4, generator=generator) + 1, torch.randn(200, 4, generator=generator)

    functions = {"frechet": frechet_interval, "kernel": kernel_interval, "jedi": jedi_interval}
    for name, function in functions.items():
        values = [function(*draws(), 0, 2).value for _ in range(80)]
        spread = np.quantile(values, 0.975) - np.quantile(values, 0.025)
        widths = [one.high - one.low for one in (function(*draws(), seed, 100) for seed in range(5))]
        assert np.mean(widths) == pytest.approx(spread, rel=0.3), name


def test_the_same_seed_gives_the_same_interval_and_each_resample_is_counted():
    pair = [torch.tensor(part) for part in draw(20, 20, 3)]
    ticks = []
    assert frechet_interval(*pair, 1, 12, lambda: ticks.append(1)) == frechet_interval(*pair, 1, 12)
    assert len(ticks) == 12
    for function in (frechet_interval, kernel_interval, jedi_interval):
        assert function(*pair, 1, 12) == function(*pair, 1, 12) != function(*pair, 2, 12)
        assert function(*pair, 1, 12) != function(*pair, 1, 13)


def test_no_interval_leaves_the_possible_values():
    same = torch.randn(20, 4)
    assert frechet_interval(same, same, 0, 20).low == 0
    assert min(frechet_interval(same[i:], same[i:], 0, 2).value for i in range(15)) >= 0
    assert jedi_interval(same, same, 0, 20).low == 0
    assert inception_interval(torch.randn(1, 5).expand(8, 5), 0, 20).low >= 1
    one_differs = torch.zeros(8, 5)
    one_differs[0, 0] = 1
    assert min(inception_interval(one_differs, seed, 10).low for seed in range(200)) == 1
