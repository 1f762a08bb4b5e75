"""Bootstrap intervals: the variation of a score over other draws of clips (Efron 1979)."""

from typing import NamedTuple

import torch

RESAMPLES = 100
_LEVEL = 0.95


class Interval(NamedTuple):
    """A score and the 95% interval around it."""

    value: float
    low: float
    high: float


def resample_counts(n: int, seed: int, resamples: int = RESAMPLES) -> torch.Tensor:
    """Draw n of n clips with replacement, B = `resamples` times; return each clip's count, float64 (B, n)."""
    import numpy as np  # late: the plain install lacks it

    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    return torch.from_numpy(counts).double()


def percentile_interval(value: float, resampled: torch.Tensor) -> Interval:
    """Return the interval between the 2.5th and 97.5th percentiles of resampled scores, shifted to the score.

    A resample contains some clips several times, which biases some scores upwards (the Fréchet distance most of all,
    since covariances lose rank). The shift by the mean difference removes this bias and keeps the spread.

    Args:
        value: the score of all clips.
        resampled: the score of each resample, float (B,).
    """
    tail = (1 - _LEVEL) / 2
    centred = resampled.double() - resampled.double().mean()
    low, high = centred.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, value + low, value + high)
