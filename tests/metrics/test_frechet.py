"""The Fréchet distance against SciPy and closed forms, and the coarse score on clips with known faults."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fastvgan.data.digits import DigitsSource
from fastvgan.metrics.frechet import CoarseScore, FrechetDistance, coarse_features, frechet_distance, gaussian
from fastvgan.metrics.intervals import resample_counts


def random_covariance(size, rank):
    factor = torch.randn(size, rank, dtype=torch.float64)
    return factor @ factor.T


def by_scipy(mean_a, covariance_a, mean_b, covariance_b):
    shared = np.trace(sqrtm((covariance_a @ covariance_b).numpy())).real
    traces = covariance_a.trace() + covariance_b.trace() - 2 * shared
    return ((mean_a - mean_b) ** 2).sum().item() + traces.item()


@pytest.mark.parametrize("size", [1, 2, 17, 64])
def test_as_scipy_says(size):
    mean_a, mean_b = torch.randn(2, size, dtype=torch.float64)
    covariances = random_covariance(size, 2 * size), random_covariance(size, 2 * size)
    expected = by_scipy(mean_a, covariances[0], mean_b, covariances[1])
    assert frechet_distance(mean_a, covariances[0], mean_b, covariances[1]) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(mean_b, covariances[1], mean_a, covariances[0]) == pytest.approx(expected, rel=1e-9)


def test_closed_forms():
    zero, eye = torch.zeros(5), torch.eye(5)
    assert frechet_distance(zero, eye, zero + 2, eye) == pytest.approx(20)
    assert frechet_distance(zero, 4 * eye, zero, 9 * eye) == pytest.approx(5)
    first, second = torch.rand(2, 5, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q  # covariances that commute, in no special axes
    expected = (first.sqrt() - second.sqrt()).square().sum().item()
    turned = [turn @ values.diag() @ turn.T for values in (first, second)]
    assert frechet_distance(zero, turned[0], zero, turned[1]) == pytest.approx(expected)


def test_singular_covariances():
    """Cases in which SciPy's root is unreliable: fewer clips than features, constant features, no spread."""
    zero, nothing = torch.zeros(6), torch.zeros(6, 6)
    low = random_covariance(6, 2)
    assert frechet_distance(zero, low, zero, low) == pytest.approx(0, abs=1e-12 * low.trace().item())
    assert frechet_distance(zero, low, zero, nothing) == pytest.approx(low.trace().item())
    assert frechet_distance(zero, nothing, zero, nothing) == 0
    flat = [torch.diag(torch.tensor(values)) for values in ([4.0, 0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0, 0])]
    assert frechet_distance(zero, flat[0], zero, flat[1]) == pytest.approx(13)  # they share no direction
    turn = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64)).Q
    apart = turn[:, :32] @ turn[:, :32].T, turn[:, 32:] @ turn[:, 32:].T
    assert frechet_distance(turn[0], apart[0], turn[0], apart[1]) == pytest.approx(64, rel=1e-12)
    one = torch.outer(*[torch.arange(6.0)] * 2)
    assert frechet_distance(zero, one, zero, 4 * one) == pytest.approx(one.trace().item())


def test_gaussian_is_mean_and_unbiased_covariance():
    features = torch.randn(9, 4) + 1000
    mean, covariance = gaussian(features)
    assert torch.allclose(mean, features.double().mean(0)) and torch.allclose(
        covariance, torch.cov(features.double().T)
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3)), "means must be"),
        (lambda: frechet_distance(*[torch.zeros(2), torch.full((2, 2), torch.nan)] * 2), "must be finite"),
        (lambda: gaussian(torch.zeros(1, 4)), "N of 2 or more"),
        (lambda: coarse_features(torch.zeros(2, 4, 4, 4, 3)), "must be uint8"),
        (lambda: coarse_features(torch.zeros(2, 4, 4, 4, 2, dtype=torch.uint8)), "C of 1 or 3"),
        (lambda: coarse_features(torch.zeros(2, 0, 4, 4, 3, dtype=torch.uint8)), "C of 1 or 3"),
        (lambda: CoarseScore(torch.zeros(1, 4, 4, 4, 3, dtype=torch.uint8)), "N of 2 or more"),
    ],
)
def test_what_cannot_be_measured(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (7, 16, 4), (33, 20, 18)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_the_same_features_again(size, channels):
    clips = torch.randint(0, 256, (10, *size, channels), dtype=torch.uint8)
    features = coarse_features(clips)
    assert features.shape == (10, 64) and features.isfinite().all()
    assert torch.equal(features, coarse_features(clips))
    assert torch.allclose(features[3:5], coarse_features(clips[3:5]))
    assert CoarseScore(clips).score(clips) == pytest.approx(0, abs=1e-9)


def test_long_sets_of_clips_are_taken_in_parts(monkeypatch):
    clips = torch.randint(0, 256, (7, 4, 4, 4, 3), dtype=torch.uint8)
    whole = coarse_features(clips)
    monkeypatch.setattr("fastvgan.metrics.frechet._CHUNK", 500)
    assert torch.allclose(whole, coarse_features(clips))


def test_features_keep_distances():
    """The projection is random and so favours no clip: it preserves distances on average."""
    black = torch.zeros(1, 4, 4, 4, 3, dtype=torch.uint8)
    bright = torch.randint(0, 256, (200, 4, 4, 4, 3), dtype=torch.uint8)
    exact = (bright / 255).square().sum((1, 2, 3, 4)) + 4 / 3 * (bright.float() / 255).diff(dim=1).square().sum(
        (1, 2, 3, 4)
    )
    seen = (coarse_features(bright) - coarse_features(black)).square().sum(1)
    assert (seen / exact).mean().item() == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def digits():
    """The score for 512 clips of the digits, and 256 other clips."""
    source = DigitsSource()
    return CoarseScore(next(source.batches(512, seed=0)).video), next(source.batches(256, seed=1)).video


def test_other_real_clips_score_low(digits):
    score, real = digits
    assert score.score(real) < 0.2
    assert score.score(next(DigitsSource(split="test").batches(256, seed=2)).video) < 0.3


def test_it_falls_as_noise_is_blended_out(digits):
    score, real = digits
    noise = torch.randint(0, 256, real.shape, dtype=torch.uint8)
    scores = [score.score((real * (1 - share) + noise * share).byte()) for share in (1, 0.8, 0.4, 0.2, 0.1, 0)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 100 * scores[-1]
    assert all(before > 1.2 * after for before, after in zip(scores, scores[1:], strict=False))


@pytest.mark.parametrize(
    ("spoil", "times"),
    [
        (lambda real: real[:, :1].expand_as(real), 10),  # frozen
        (lambda real: real[:, torch.randperm(16)], 4),  # out of order
        (lambda real: real.roll(1, -1), 1.5),  # yellow for cyan, the other colours in each other's place
        (lambda real: real * torch.tensor([1, 0, 0], dtype=torch.uint8), 10),  # red alone
        (lambda real: real[:1].expand_as(real), 20),  # all alike
        (lambda real: real // 2, 4),  # dim
        (lambda real: real.roll(8, 3), 4),  # out of place
    ],
)
def test_it_rises_when_clips_are_wrong(digits, spoil, times):
    score, real = digits
    assert score.score(spoil(real)) > times * score.score(real)


def test_sizes_may_differ_and_channels_may_not(digits):
    score, real = digits
    larger = real.repeat_interleave(2, 2).repeat_interleave(4, 3)
    assert score.score(larger) == pytest.approx(score.score(real), rel=0.1)
    with pytest.raises(ValueError, match="3 channels, the generated 1"):
        score.score(larger[..., :1])


def test_distances_from_one_set_are_those_of_its_gaussian():
    real, other = torch.randn(50, 6), 2 * torch.randn(40, 6) + 1
    distance = FrechetDistance(real)
    assert distance.distance(other) == pytest.approx(frechet_distance(*gaussian(other), *gaussian(real)))
    interval = distance.interval(other)
    assert interval.value == distance.distance(other) and interval.low < interval.value < interval.high
    assert interval == FrechetDistance(real).interval(other)
    assert interval != FrechetDistance(real, seed=1).interval(other)


def test_resamples_are_scored_as_the_clips_in_them_would_be():
    """Distances from counts equal distances of the resampled sets themselves."""
    real, other = torch.randn(30, 5).double(), torch.randn(20, 5).double() + 1
    distances = []
    for own, reals in zip(resample_counts(20, 3, 40).long(), resample_counts(30, 4, 40).long(), strict=True):
        sets = other.repeat_interleave(own, 0), real.repeat_interleave(reals, 0)
        distances.append(frechet_distance(*gaussian(sets[0]), *gaussian(sets[1])))
    interval = FrechetDistance(real, seed=3).interval(other, resamples=40)
    low, high = np.quantile(np.array(distances) - np.mean(distances), [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((interval.value + low, interval.value + high), rel=1e-5)


def test_the_interval_is_as_wide_as_draws_spread():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return [torch.randn(300, 8, generator=generator) + place for place in (1, 0)]

    values = [FrechetDistance(real).distance(other) for other, real in (draw() for _ in range(200))]
    spread = np.quantile(values, 0.975) - np.quantile(values, 0.025)
    intervals = [FrechetDistance(real).interval(other) for other, real in (draw() for _ in range(5))]
    assert np.mean([i.high - i.low for i in intervals]) == pytest.approx(spread, rel=0.3)
    # No interval of a squared distance reaches below zero.
    same = torch.randn(20, 4)
    assert FrechetDistance(same).interval(same).low == 0
