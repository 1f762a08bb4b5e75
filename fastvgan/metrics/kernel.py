"""The kernel distance (KID) between two sets of clips, from their features.

Squared maximum mean discrepancy with the cubic polynomial kernel k(x, y) = (x·y / d + 1)³ of Bińkowski et al. 2018,
"Demystifying MMD GANs". Unlike the Fréchet distance it has no bias: two sets of clips of one kind give zero on average,
however few they are, so that single values may fall below zero.
"""

import torch

from fastvgan.metrics.intervals import RESAMPLES, Interval, percentile_interval, resample_counts


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The unbiased estimate of MMD² (Gretton et al. 2012, equation 3) between features a (M, D) and b (N, D).

    Computed in float64.

    Raises:
        ValueError: the shapes do not fit, a set has fewer than two rows, or a value is not finite.
    """
    return KernelDistance(b).distance(a)


class KernelDistance:
    """Kernel distances of several sets of clips from one.

    Where clips were drawn evenly over captions, two clips of one set share a caption less often than two of different
    sets do, and the plain estimate is below zero on average. Pairs within a group of s clips therefore count
    s / (s - 1) times, which makes the estimate unbiased for such draws.

    Args:
        real: features (N, D) of the one, N of 2 or more; any floating dtype.
        groups: int64 (N,), equal for clips of one caption, where they were drawn evenly.
        seed: of the resamples.

    Raises:
        ValueError: they are no such features.
    """

    def __init__(self, real: torch.Tensor, groups: torch.Tensor | None = None, seed: int = 0):
        self._real = _check(real)
        self._seed = seed
        self._within = _kernel(self._real, self._real)
        self._pairs = _pair_weights(len(real), groups)

    def distance(self, features: torch.Tensor, groups: torch.Tensor | None = None) -> float:
        """The kernel distance of features (M, D), with the groups of their clips, int64 (M,).

        Raises:
            ValueError: they do not fit the real ones.
        """
        own, other = (torch.ones(1, len(part), dtype=torch.float64) for part in (features, self._real))
        return self._resampled(features, groups, own, other).item()

    def interval(
        self, features: torch.Tensor, groups: torch.Tensor | None = None, resamples: int = RESAMPLES
    ) -> Interval:
        """The same with its bootstrap interval; the clips of both sets are resampled.

        Two draws of one clip are no pair of clips, so that they are left out of the sums within a set: with them, every
        resample would lie above the estimate.
        """
        own = resample_counts(len(features), self._seed, resamples)
        other = resample_counts(len(self._real), self._seed + 1, resamples)
        return percentile_interval(self.distance(features, groups), self._resampled(features, groups, own, other))

    def _resampled(
        self, features: torch.Tensor, groups: torch.Tensor | None, own: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """MMD² with clips counted `own` (B, M) and `other` (B, N) times, float64 (B,)."""
        features = _check(features)
        if features.shape[1] != self._real.shape[1]:
            raise ValueError(f"features have {features.shape[1]} values, those of real clips {self._real.shape[1]}")
        between = ((own @ _kernel(features, self._real)) * other).sum(1) / (own.sum(1) * other.sum(1))
        within = _mean_of_pairs(_kernel(features, features), _pair_weights(len(features), groups), own)
        return within + _mean_of_pairs(self._within, self._pairs, other) - 2 * between


def _check(features: torch.Tensor) -> torch.Tensor:
    if features.ndim != 2 or len(features) < 2 or not features.isfinite().all():
        raise ValueError(f"features must be finite and (N, D) with N of 2 or more, not {tuple(features.shape)}")
    return features.detach().double()


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _pair_weights(n: int, groups: torch.Tensor | None) -> torch.Tensor:
    """How much each pair of n clips counts, float64 (n, n): a clip with itself not at all."""
    weights = torch.ones(n, n, dtype=torch.float64)
    if groups is not None:
        same = (groups[:, None] == groups).double()
        size = same.sum(1, keepdim=True)
        weights += same / (size - 1).clamp_min(1)
    return weights.fill_diagonal_(0)


def _mean_of_pairs(kernel: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the kernel over pairs of different clips, each counted so many times: (B,) for counts (B, N)."""
    return ((counts @ (kernel * weights)) * counts).sum(1) / ((counts @ weights) * counts).sum(1)
