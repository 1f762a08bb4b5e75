"""Bootstrap intervals: how far a score would move if other clips had been drawn (Efron 1979)."""

from typing import NamedTuple

import numpy as np
import torch

RESAMPLES = 100
_LEVEL = 0.95


class Interval(NamedTuple):
    """A score and the 95% interval around it."""

    value: float
    low: float
    high: float


def resample_counts(n: int, seed: int, resamples: int = RESAMPLES) -> torch.Tensor:
    """How often each of n clips is in each resample of n clips drawn with replacement, float64 (resamples, n)."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    return torch.from_numpy(counts).double()


def percentile_interval(value: float, resampled: torch.Tensor) -> Interval:
    """The interval between the 2.5th and the 97.5th percentile of resampled scores, shifted onto the score itself.

    A resample holds clips twice, which raises some scores (the Fréchet distance above all, whose covariances lose
    rank). The shift by the mean difference takes that bias out, so that the interval shows spread alone.

    Args:
        value: the score of all clips. resampled: float (resamples,), the same of each resample.
    """
    tail = (1 - _LEVEL) / 2
    centred = resampled.double() - resampled.double().mean()
    low, high = centred.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, value + low, value + high)
