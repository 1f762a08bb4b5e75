"""Published distances and scores of features, each with a bootstrap interval (`fastvgan.metrics.intervals`)."""

from collections.abc import Callable

import torch

from fastvgan.metrics.intervals import Interval, percentile_interval, resample_counts
from fastvgan.metrics.kernel import KernelDistance

_JEDI_SCALE = 100

Tick = Callable[[], object]
"""Called after each resample, for a progress bar."""


def frechet_interval(
    generated: torch.Tensor, real: torch.Tensor, seed: int, resamples: int, tick: Tick = lambda: None
) -> Interval:
    """Return the Fréchet distance of two sets of features with its interval; of I3D's features it is FVD.

    Unterthiner et al. 2018, "Towards accurate generative models of video". Covariances divide by N - 1, as in the
    authors' implementation. It is `fastvgan.metrics.frechet.frechet_distance` of the features' Gaussians, computed
    without covariances, of which each would have F² values. Both sets are resampled.

    Args:
        generated: (N, F) of any floating dtype.
        real: (M, F).
        seed: of the resamples.
        resamples: their number.
        tick: called after each.
    """
    generated, real = generated.double(), real.double()
    every, all_real = (torch.ones(len(part), dtype=torch.float64) for part in (generated, real))
    value = max(0.0, _frechet_of_counts(generated, every, real, all_real).item())
    distances = []
    own, other = resample_counts(len(generated), seed, resamples), resample_counts(len(real), seed + 1, resamples)
    for counts, real_counts in zip(own, other, strict=True):
        distances.append(_frechet_of_counts(generated, counts, real, real_counts))
        tick()
    interval = percentile_interval(value, torch.stack(distances))
    return interval._replace(low=max(0.0, interval.low))


def kernel_interval(generated: torch.Tensor, real: torch.Tensor, seed: int, resamples: int) -> Interval:
    """Return the kernel distance of features (N, F) and (M, F) with its interval; of I3D's features it is KVD.

    It is the unbiased MMD² with the kernel (x·y / F + 1)³ of Bińkowski et al. 2018; see `fastvgan.metrics.kernel`.
    """
    return KernelDistance(real, seed=seed).interval(generated, resamples=resamples)


def jedi_distance(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Return JEDi's distance of features (N, F) and (M, F): 100 times the biased MMD² with the kernel (x·y / F)².

    Luo et al. 2024, "Beyond FVD: enhanced evaluation metrics for video generation quality", as in the authors'
    implementation. The kernel is the square of a linear one, so that the distance compares second moments.
    """
    own, other = (torch.ones(1, len(part), dtype=torch.float64) for part in (generated, real))
    return _jedi_of_counts(generated.double(), own, real.double(), other).item()


def jedi_interval(generated: torch.Tensor, real: torch.Tensor, seed: int, resamples: int) -> Interval:
    """Return `jedi_distance` of features (N, F) and (M, F) with its interval, cut at 0."""
    own, other = resample_counts(len(generated), seed, resamples), resample_counts(len(real), seed + 1, resamples)
    values = _jedi_of_counts(generated.double(), own, real.double(), other)
    interval = percentile_interval(jedi_distance(generated, real), values)
    return interval._replace(low=max(0.0, interval.low))


def inception_score(logits: torch.Tensor) -> float:
    """Return exp(mean KL(p(y|x) ‖ p(y))) of logits (N, K), all clips in one split: from 1 to K, higher is better.

    Salimans et al. 2016, "Improved techniques for training GANs"; of clips Saito et al. 2017 (TGAN).
    """
    return _inception_of_counts(logits, torch.ones(1, len(logits), dtype=torch.float64)).item()


def inception_interval(logits: torch.Tensor, seed: int, resamples: int) -> Interval:
    """Return `inception_score` of logits (N, K) with its interval, cut at 1."""
    values = _inception_of_counts(logits, resample_counts(len(logits), seed, resamples))
    interval = percentile_interval(inception_score(logits), values)
    return interval._replace(low=max(1.0, interval.low))


def _frechet_of_counts(
    generated: torch.Tensor, counts: torch.Tensor, real: torch.Tensor, real_counts: torch.Tensor
) -> torch.Tensor:
    mean, factor = _factor(generated, counts)
    real_mean, real_factor = _factor(real, real_counts)
    # For covariances AᵀA and BᵀB, the trace of their product's root is the sum of the singular values of ABᵀ.
    shared = torch.linalg.svdvals(factor @ real_factor.T).sum()
    traces = factor.square().sum() + real_factor.square().sum()
    return (mean - real_mean).square().sum() + traces - 2 * shared


def _factor(features: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (F,) of features (N, F) with counts (N,), and A (at most F rows, F) with AᵀA their covariance."""
    features, counts = features[counts > 0], counts[counts > 0]
    total = counts.sum()
    mean = counts @ features / total
    rows = (features - mean) * (counts / (total - 1)).sqrt()[:, None]
    return mean, torch.linalg.qr(rows, mode="r").R if rows.shape[0] > rows.shape[1] else rows


def _jedi_of_counts(
    generated: torch.Tensor, own: torch.Tensor, real: torch.Tensor, other: torch.Tensor
) -> torch.Tensor:
    """Return JEDi's distances, float64 (B,), for counts `own` (B, N) and `other` (B, M) of the clips."""
    own, other = own / own.sum(1, keepdim=True), other / other.sum(1, keepdim=True)

    def mean(a: torch.Tensor, weights_a: torch.Tensor, b: torch.Tensor, weights_b: torch.Tensor) -> torch.Tensor:
        kernel = (a @ b.T / a.shape[1]).square()
        return ((weights_a @ kernel) * weights_b).sum(1)

    within = mean(generated, own, generated, own) + mean(real, other, real, other)
    return _JEDI_SCALE * (within - 2 * mean(generated, own, real, other))


def _inception_of_counts(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return inception scores, float64 (B,), for counts (B, N) of the clips."""
    logs = logits.double().log_softmax(1)
    weights = counts / counts.sum(1, keepdim=True)
    entropy = -(logs.exp() * logs).sum(1)
    marginal = weights @ logs.exp()
    return (torch.special.entr(marginal).sum(1) - weights @ entropy).exp()
