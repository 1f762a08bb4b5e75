"""The time of a clip's frames as an input of its generator.

Time as an input is from DIGAN (Yu et al. 2022), its sines and cosines from Fourier features (Tancik et al. 2020).
"""

import math

import torch

FREQUENCIES = 4  # each twice the previous one
SCALE = 2.0  # weighs these few values against the many noise values


def clock_features(
    start_noise: torch.Tensor, time: torch.Tensor, period: int, frequencies: int = FREQUENCIES
) -> torch.Tensor:
    """Return sines and cosines of each frame's time, for clips that start at random times.

    Without them, all clips show an object at the same place in their first frame: a ConvLSTM with a constant input
    moves things only while its state settles, and 3D convolutions learn one place for all clips.

    Args:
        start_noise: standard normal, (N,). Its normal distribution function is the start time, uniform over
            2 * `period` frames, the longest period of the sines.
        time: (T,), in frames since the start.
        period: in frames.
        frequencies: the number of frequencies, each twice the previous one.

    Returns:
        (N, T, 2 * `frequencies`), sines and then cosines, in the dtype of `start_noise`.
    """
    cycles = 2 ** torch.arange(frequencies, device=start_noise.device, dtype=start_noise.dtype)  # in 2 * period frames
    turns = time.to(start_noise) / (2 * period) + torch.special.ndtr(start_noise)[:, None]  # (N, T)
    angle = 2 * math.pi * turns[..., None] * cycles  # (N, T, frequencies)
    return torch.cat([angle.sin(), angle.cos()], 2)
