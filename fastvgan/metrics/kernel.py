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
    clips were generated for each of some random conditions (twins), two clips of one set share a condition more often.
    Pairs of twins are therefore left out, and the other pairs within a stratum of s clips are weighted to a total of
    s², which makes the estimate unbiased for such draws.

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
        self._pairs = _pair_weights(len(real), strata, None)

    def distance(
        self, features: torch.Tensor, strata: torch.Tensor | None = None, twins: torch.Tensor | None = None
    ) -> float:
        """Return the kernel distance of features.

        Args:
            features: (M, D), M of 2 or more.
            strata: int64 (M,), as for the reference set.
            twins: int64 (M,), equal for clips under one condition, if conditions were drawn at random.

        Raises:
            ValueError: the features do not match the reference set's.
        """
        own, other = (torch.ones(1, len(part), dtype=torch.float64) for part in (features, self._real))
        return self._resample(features, _pair_weights(len(features), strata, twins), own, other).item()

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
        pairs = _pair_weights(len(features), strata, twins)
        return percentile_interval(self.distance(features, strata, twins), self._resample(features, pairs, own, other))

    def _resample(
        self, features: torch.Tensor, pairs: torch.Tensor, own: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """Return MMD², float64 (B,), for counts `own` (B, M) and `other` (B, N) of clips and pair weights (M, M)."""
        features = _check(features)
        if features.shape[1] != self._real.shape[1]:
            raise ValueError(
                f"features must have {self._real.shape[1]} values, as those of real clips, not {features.shape[1]}"
            )
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


def _mean_of_pairs(kernel: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of the kernel over pairs of different clips, (B,) for counts (B, N) of the clips."""
    return ((counts @ (kernel * weights)) * counts).sum(1) / ((counts @ weights) * counts).sum(1)
