"""The number of modes that a generator of stacked digits covers, and their divergence from the real distribution."""

from typing import NamedTuple

import torch

from fastvgan.data.digits.stacked import MODES
from fastvgan.metrics.oracle import load_oracle


class ModeCount(NamedTuple):
    """The modes of N clips.

    modes: Number of different triples of digits, of 1,000.
    divergence: Kullback-Leibler divergence from the shares of the triples to equal shares, in nats.
    """

    modes: int
    divergence: float


def read_modes(video: torch.Tensor) -> torch.Tensor:
    """Return the triple of digits that each clip shows, int64 (N,) from 0 to 999, by the oracle.

    Args:
        video: uint8 (N, T, H, W, 3), with a digit in each channel.
    """
    channels = video.permute(0, 4, 1, 2, 3).flatten(0, 1)[..., None]  # (3 N, T, H, W, 1)
    digits = load_oracle().read(channels).digits.unflatten(0, (-1, 3))
    return (digits * torch.tensor([100, 10, 1])).sum(1)


def count_modes(triples: torch.Tensor) -> ModeCount:
    """Count modes as Metz et al. 2017 (Unrolled GAN, section 3.3.1) do, who draw 25,600 samples.

    Args:
        triples: int64 (N,), from `read_modes`.
    """
    counts = triples.unique(return_counts=True)[1]
    shares = counts.double() / len(triples)
    divergence = (shares * (shares * MODES).log()).sum().item()
    return ModeCount(len(counts), divergence)
