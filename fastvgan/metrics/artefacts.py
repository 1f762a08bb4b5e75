"""Artefacts of generated clips: frames at the ends that are less sharp than the others, and a grid over textures."""

import math

import torch
from torch.nn.functional import avg_pool2d

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CHUNK = 64  # clips that are measured at once
_PERIODS = (2, 4)  # of patterns that upsampling by 2 leaves: those of the last layer, and of the one before


def end_sharpness(video: torch.Tensor) -> tuple[float, float]:
    """Return the sharpness of the first and of the last frame, relative to the middle half of the frames.

    A frame's sharpness is the mean absolute difference of neighbouring cells of 2x2 pixels. Single pixels would count a
    checkerboard as sharpness.

    Args:
        video: uint8 (N, T, H, W, C), H and W even and at least 4.
    """
    total = torch.zeros(video.shape[1], dtype=torch.float64)
    for part in video.split(_CHUNK):
        grey = avg_pool2d(_grey(part), 2)  # (n, T, H/2, W/2)
        down, across = grey.diff(dim=2).abs(), grey.diff(dim=3).abs()
        total += down.mean((2, 3)).sum(0) + across.mean((2, 3)).sum(0)
    frames = len(total)
    middle = total[frames // 4 : frames - frames // 4].mean().clamp_min(1e-12)
    return (total[0] / middle).item(), (total[-1] / middle).item()


def grid_peaks(video: torch.Tensor) -> torch.Tensor:
    """Return how far the mean spectrum of frames stands out at the frequencies of a grid of pixels, in dB.

    Transposed convolutions leave patterns of period 2, and of period 4 by the layer before (Odena et al. 2016). They
    are lines in the spectrum that textures do not have, so each is compared with the median of the frequencies around
    it (2 or 3 steps away). Frames are multiplied by a Hann window, which keeps their edges out of the spectrum.

    Args:
        video: uint8 (N, T, H, W, C), H and W multiples of 4.

    Returns:
        float64 (8,): the peaks at the frequencies (i/4, j/4) per pixel, i and j from 0 to 2 and not both 0.
    """
    height, width = video.shape[2:4]
    window = torch.outer(*(torch.hann_window(size, dtype=torch.float64) for size in (height, width)))
    power = torch.zeros(height, width, dtype=torch.float64)
    for part in video.split(_CHUNK):
        grey = _grey(part).flatten(0, 1)
        centred = grey - grey.mean((1, 2), keepdim=True)
        power += torch.fft.fft2(centred * window).abs().square().sum(0)
    power += 1e-12 * power.sum().clamp_min(1)  # blank frames have no pattern
    steps = range(max(_PERIODS) // 2 + 1)
    points = [(i, j) for i in steps for j in steps if (i, j) != (0, 0)]
    found = [_stand_out(power, i * height // max(_PERIODS), j * width // max(_PERIODS)) for i, j in points]
    return torch.tensor(found, dtype=torch.float64)


def _stand_out(power: torch.Tensor, row: int, column: int) -> float:
    """Return the ratio of a frequency's power and the median power around it, in dB."""
    offsets = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]
    height, width = power.shape
    around = torch.stack([power[(row + i) % height, (column + j) % width] for i, j in offsets])
    return 10 * math.log10((power[row, column] / around.quantile(0.5)).item())


def _grey(video: torch.Tensor) -> torch.Tensor:
    """Return the brightness of pixels, float64 (N, T, H, W) from 0 to 255."""
    x = video.double()
    return x[..., 0] if x.shape[-1] == 1 else x @ torch.tensor(_LUMA, dtype=torch.float64)
