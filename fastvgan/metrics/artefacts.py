"""Artefacts of generated clips: frames at the ends that are less sharp than the others, and a grid over textures."""

from typing import NamedTuple

import torch
from torch.nn.functional import avg_pool2d

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CHUNK = 2**22  # values that are measured at once, or one clip
_LONGEST = 4  # pixels, the longest period of a pattern that is looked for
_ROUNDING = 1 / 12  # power per frequency of rounding to bytes


def end_sharpness(video: torch.Tensor) -> tuple[float, float]:
    """Return the sharpness of the first and of the last frame, relative to the middle half of the frames.

    A frame's sharpness is the mean absolute difference of neighbouring cells of 2x2 pixels. Single pixels would count a
    checkerboard as sharpness.

    Args:
        video: uint8 (N, T, H, W, C), H and W even and at least 4.
    """
    total = torch.zeros(video.shape[1], dtype=torch.float64)
    for part in _split(video):
        grey = avg_pool2d(_grey(part), 2)  # (n, T, H/2, W/2)
        down, across = grey.diff(dim=2).abs(), grey.diff(dim=3).abs()
        total += down.mean((2, 3)).sum(0) + across.mean((2, 3)).sum(0)
    frames = len(total)
    middle = total[frames // 4 : frames - frames // 4].mean().clamp_min(1e-12)
    return (total[0] / middle).item(), (total[-1] / middle).item()


class GridPower(NamedTuple):
    """The mean spectrum of frames at the frequencies (i/4, j/4) per pixel, i and j from 0 to 2 and not both 0.

    at: power at each frequency, float64 (8,).
    around: median power of the frequencies 2 or 3 steps away, float64 (8,).
    """

    at: torch.Tensor
    around: torch.Tensor


def measure_grid(video: torch.Tensor) -> GridPower:
    """Measure the spectrum of frames where upsampling leaves patterns: of period 2, and of 4 by the layer before.

    Such patterns are lines in the spectrum (Odena et al. 2016), which textures do not have. Frames are multiplied by a
    Hann window, which keeps their edges out of the spectrum.

    Args:
        video: uint8 (N, T, H, W, C), H and W multiples of 4.
    """
    height, width = video.shape[2:4]
    window = torch.outer(*(torch.hann_window(size, dtype=torch.float64) for size in (height, width)))
    power = torch.zeros(height, width, dtype=torch.float64)
    for part in _split(video):
        grey = _grey(part).flatten(0, 1)
        centred = grey - grey.mean((1, 2), keepdim=True)
        power += torch.fft.fft2(centred * window).abs().square().sum(0)
    power /= video.shape[0] * video.shape[1] * window.square().sum()
    steps = range(_LONGEST // 2 + 1)
    places = [(i * height // _LONGEST, j * width // _LONGEST) for i in steps for j in steps if (i, j) != (0, 0)]
    around = [_median_around(power, *place) for place in places]
    return GridPower(torch.stack([power[place] for place in places]), torch.stack(around))


def grid_pattern(generated: GridPower, real: GridPower) -> float:
    """Return how far the strongest pattern of generated clips stands out, in dB; 0 or less if none does.

    A pattern counts where its power exceeds both that of the frequencies around it and that of real clips.
    """
    expected = torch.maximum(generated.around, real.at).clamp_min(_ROUNDING)
    return 10 * (generated.at.clamp_min(_ROUNDING) / expected).log10().max().item()


def _median_around(power: torch.Tensor, row: int, column: int) -> torch.Tensor:
    offsets = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]
    height, width = power.shape
    return torch.stack([power[(row + i) % height, (column + j) % width] for i, j in offsets]).quantile(0.5)


def _split(video: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return video.split(max(1, _CHUNK // video[0].numel()))


def _grey(video: torch.Tensor) -> torch.Tensor:
    """Return the brightness of pixels, float64 (N, T, H, W) from 0 to 255."""
    x = video.double()
    return x[..., 0] if x.shape[-1] == 1 else x @ torch.tensor(_LUMA, dtype=torch.float64)
