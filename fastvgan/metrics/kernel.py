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
    sets do, and the plain estimate is below zero on average. Where two clips were made for each of some conditions that
    were drawn at random, two clips of one set share a condition more often. Pairs under one such condition therefore do
    not count, and the others within a stratum of s clips count so much more that they weigh s² together, which makes
    the estimate unbiased for such draws.

    Args:
        real: features (N, D) of the one, N of 2 or more; any floating dtype.
        strata: int64 (N,), equal for clips of one caption, where they were drawn evenly.
        seed: of the resamples.

    Raises:
        ValueError: they are no such features.
    """

    def __init__(self, real: torch.Tensor, strata: torch.Tensor | None = None, seed: int = 0):
        self._real = _check(real)
        self._seed = seed
        self._within = _kernel(self._real, self._real)
        self._pairs = _pair_weights(len(real), strata, None)

    def distance(
        self, features: torch.Tensor, strata: torch.Tensor | None = None, twins: torch.Tensor | None = None
    ) -> float:
        """The kernel distance of features (M, D).

        Args:
            strata: as for the real ones. twins: int64 (M,), equal for clips under one condition, where conditions were
                drawn at random.

        Raises:
            ValueError: they do not fit the real ones.
        """
        own, other = (torch.ones(1, len(part), dtype=torch.float64) for part in (features, self._real))
        return self._resampled(features, _pair_weights(len(features), strata, twins), own, other).item()

    def interval(
        self,
        features: torch.Tensor,
        strata: torch.Tensor | None = None,
        twins: torch.Tensor | None = None,
        resamples: int = RESAMPLES,
    ) -> Interval:
        """The same with its bootstrap interval; the clips of both sets are resampled.

        Two draws of one clip are no pair of clips, so that they are left out of the sums within a set: with them, every
        resample would lie above the estimate.
        """
        own = resample_counts(len(features), self._seed, resamples)
        other = resample_counts(len(self._real), self._seed + 1, resamples)
        pairs = _pair_weights(len(features), strata, twins)
        return percentile_interval(self.distance(features, strata, twins), self._resampled(features, pairs, own, other))

    def _resampled(
        self, features: torch.Tensor, pairs: torch.Tensor, own: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """MMD² with clips counted `own` (B, M) and `other` (B, N) times and pairs weighed (M, M), float64 (B,)."""
        features = _check(features)
        if features.shape[1] != self._real.shape[1]:
            raise ValueError(f"features have {features.shape[1]} values, those of real clips {self._real.shape[1]}")
        between = ((own @ _kernel(features, self._real)) * other).sum(1) / (own.sum(1) * other.sum(1))
        within = _mean_of_pairs(_kernel(features, features), pairs, own)
        return within + _mean_of_pairs(self._within, self._pairs, other) - 2 * between


def _check(features: torch.Tensor) -> torch.Tensor:
    if features.ndim != 2 or len(features) < 2 or not features.isfinite().all():
        raise ValueError(f"features must be finite and (N, D) with N of 2 or more, not {tuple(features.shape)}")
    return features.detach().double()


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _pair_weights(n: int, strata: torch.Tensor | None, twins: torch.Tensor | None) -> torch.Tensor:
    """How much each pair of n clips counts, float64 (n, n): a clip with itself, or with its twin, not at all."""
    twins = torch.arange(n) if twins is None else twins
    counts = (twins[:, None] != twins).double()
    if strata is None:
        return counts
    same = (strata[:, None] == strata).double()
    size, left = same.sum(1), (same * counts) @ same[0].new_ones(n)
    # Summed over a stratum: of each of its clips the pairs that are left.
    left = same @ left
    within = counts * (size.square() / left.clamp_min(1))[:, None]
    return torch.where(same > 0, within, counts)


def _mean_of_pairs(kernel: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the kernel over pairs of different clips, each counted so many times: (B,) for counts (B, N)."""
    return ((counts @ (kernel * weights)) * counts).sum(1) / ((counts @ weights) * counts).sum(1)
