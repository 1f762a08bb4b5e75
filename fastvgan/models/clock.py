"""The time of a clip's frames as an input of its generator.

The idea is from DIGAN (Yu et al. 2022), sines and cosines of it from Fourier features (Tancik et al. 2020).
"""

import math

import torch

FREQUENCIES = 4  # each twice the one before
SCALE = 2.0  # for a network that gets far more noise beside these values


def clock_features(
    start_noise: torch.Tensor, time: torch.Tensor, period: int, frequencies: int = FREQUENCIES
) -> torch.Tensor:
    """Sines and cosines of each frame's time, for clips that start at random times.

    A ConvLSTM with a constant input moves things only as it settles, which puts them at the same place in the first
    frame of every clip; 3D convolutions learn the same place for all of them, too.

    Args:
        start_noise: standard normal (N,). Its normal distribution function gives the start, uniform over 2 * `period`
            frames, which is also the longest period of the sines.
        time: (T,), in frames since the start.
        frequencies: how many, each twice the one before.

    Returns:
        Floating (N, T, 2 * `frequencies`), sines and then cosines, in the dtype of `start_noise`.
    """
    cycles = 2 ** torch.arange(frequencies, device=start_noise.device, dtype=start_noise.dtype)  # in 2 * period frames
    turns = time.to(start_noise) / (2 * period) + torch.special.ndtr(start_noise)[:, None]  # (N, T)
    angle = 2 * math.pi * turns[..., None] * cycles  # (N, T, frequencies)
    return torch.cat([angle.sin(), angle.cos()], 2)
