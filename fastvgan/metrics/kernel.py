"""The kernel distance (KID) between the features of two sets of clips.

It is the squared maximum mean discrepancy with the cubic polynomial kernel k(x, y) = (x·y / d + 1)³ of Bińkowski et al.
2018, "Demystifying MMD GANs". Unlike the Fréchet distance it is unbiased: for two sets from one distribution its mean
is zero for any number of clips, so that single values may be negative.
"""

import torch

from fastvgan.metrics.intervals import RESAMPLES, Interval, percentile_interval, resample_counts


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the unbiased estimate of MMD² (Gretton et al. 2012, equation 3) of features a (M, D) and b (N, D).

    Computed in float64.

    Raises:
        ValueError: the shapes do not match, a set has fewer than two rows, or a value is not finite.
    """
    return KernelDistance(b).distance(a)


class KernelDistance:
    """Kernel distances of sets of clips from one reference set.

    The plain estimate is biased for clips that were not drawn independently. If captions were drawn evenly (strata),
    two clips of one set share a caption less often than two of different sets, and its mean is negative. If several
    clips were generated for each of some random conditions (twins), two clips of one set share a condition more often,
    and so does a generated clip with the real clip whose condition it has. These pairs are therefore left out, and the
    other pairs within a stratum are weighted to the total of all, which makes the estimate unbiased for such draws.

    Args:
        real: features of the reference set, (N, D), N of 2 or more; any floating dtype.
        strata: int64 (N,), equal for clips of one caption, if captions were drawn evenly.
        seed: of the resamples.

    Raises:
        ValueError: the features have another shape, or a value is not finite.
    """

    def __init__(self, real: torch.Tensor, strata: torch.Tensor | None = None, seed: int = 0):
        self._real = _check(real)
        self._seed = seed
        self._within = _kernel(self._real, self._real)
        self._strata = strata
        self._pairs = _pair_weights(len(real), strata, None)

    def distance(
        self, features: torch.Tensor, strata: torch.Tensor | None = None, twins: torch.Tensor | None = None
    ) -> float:
        """Return the kernel distance of features.

        Args:
            features: (M, D), M of 2 or more.
            strata: int64 (M,), as for the reference set.
            twins: int64 (M,), the clips of the reference set whose conditions the clips have, if conditions were
                drawn at random; equal for clips under one condition.

        Raises:
            ValueError: the features do not match the reference set's.
        """
        own, other = (torch.ones(1, len(part), dtype=torch.float64) for part in (features, self._real))
        return self._resample(features, self._weigh(len(features), strata, twins), own, other).item()

    def interval(
        self,
        features: torch.Tensor,
        strata: torch.Tensor | None = None,
        twins: torch.Tensor | None = None,
        resamples: int = RESAMPLES,
    ) -> Interval:
        """Return the kernel distance with its bootstrap interval; the clips of both sets are resampled.

        Two copies of one clip in a resample do not count as a pair within the set: with them, every resample would lie
        above the estimate.

        Args:
            features: (M, D), as in `distance`.
            strata: as in `distance`.
            twins: as in `distance`.
            resamples: their number.
        """
        own = resample_counts(len(features), self._seed, resamples)
        other = resample_counts(len(self._real), self._seed + 1, resamples)
        pairs = self._weigh(len(features), strata, twins)
        return percentile_interval(self.distance(features, strata, twins), self._resample(features, pairs, own, other))

    def _weigh(
        self, count: int, strata: torch.Tensor | None, twins: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of pairs within a set of clips, float64 (M, M), and with the reference set's, (M, N)."""
        within = _pair_weights(count, strata, twins)
        between = torch.ones(count, len(self._real), dtype=torch.float64)
        if twins is None:
            return within, between
        between.scatter_(1, twins[:, None], 0.0)
        if strata is not None and self._strata is not None:
            same = (strata[:, None] == self._strata).double()
            size, left = same.sum(1, keepdim=True), (same * between).sum(1, keepdim=True)
            between = torch.where(same > 0, between * size / left.clamp_min(1), between)
        return within, between

    def _resample(
        self,
        features: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor],
        own: torch.Tensor,
        other: torch.Tensor,
    ) -> torch.Tensor:
        """Return MMD², float64 (B,), for counts `own` (B, M) and `other` (B, N) of clips and weights as of `_weigh`."""
        features = _check(features)
        if features.shape[1] != self._real.shape[1]:
            raise ValueError(
                f"features must have {self._real.shape[1]} values, as those of real clips, not {features.shape[1]}"
            )
        pairs, across = weights
        between = _mean_of_pairs(_kernel(features, self._real), across, own, other)
        within = _mean_of_pairs(_kernel(features, features), pairs, own, own)
        return within + _mean_of_pairs(self._within, self._pairs, other, other) - 2 * between


def _check(features: torch.Tensor) -> torch.Tensor:
    if features.ndim != 2 or len(features) < 2 or not features.isfinite().all():
        raise ValueError(f"features must be finite and (N, D) with N of 2 or more, not {tuple(features.shape)}")
    return features.detach().double()


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _pair_weights(n: int, strata: torch.Tensor | None, twins: torch.Tensor | None) -> torch.Tensor:
    """Return the weights of all pairs of n clips, float64 (n, n); 0 for a clip with itself or with its twin."""
    twins = torch.arange(n) if twins is None else twins
    counts = (twins[:, None] != twins).double()
    if strata is None:
        return counts
    same = (strata[:, None] == strata).double()
    size, left = same.sum(1), (same * counts) @ same[0].new_ones(n)
    # The number of pairs left in each clip's stratum.
    left = same @ left
    within = counts * (size.square() / left.clamp_min(1))[:, None]
    return torch.where(same > 0, within, counts)


def _mean_of_pairs(
    kernel: torch.Tensor, weights: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean of the kernel (M, N) over pairs, (B,) for counts (B, M) and (B, N) of the clips."""
    return ((first @ (kernel * weights)) * second).sum(1) / ((first @ weights) * second).sum(1)
