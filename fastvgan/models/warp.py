"""Clips composed of one moving picture and of newly drawn pixels in each frame.

A shape that is drawn separately in every frame changes from frame to frame; one that is drawn once and moved keeps its
form. The mask between moved and new pixels and the penalty on new ones are from Vondrick et al. 2016 (VGAN, equation 5
and its sparsity prior), with a moving picture instead of a static background. The picture moves by bilinear sampling,
as in Jaderberg et al. 2015 (Spatial Transformer Networks, equation 5), along a path that is a function of time, like
the motion of DIGAN (Yu et al. 2022).
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fastvgan.models.clock import clock_features

CHANNELS = 1  # in addition to a frame's colours: the mask
_HIDDEN = 256  # units between a path's inputs and its coefficients
_SIZE_AT_FIRST, _SPREAD_AT_FIRST = 0.3, 3.0
_LARGEST = 2 / 3  # bound of a path's coefficients; the edges of the frame are at 1
_MOVED_AT_FIRST = 4.0  # logit: an untrained generator moves nearly all pixels, and so learns to move


class GeneratorOutput(NamedTuple):
    """Generated clips (N, C, T, H, W) in [-1, 1], and, from a model with `warp`, their parts.

    redrawn: the share of pixels that are newly drawn, a scalar.
    picture: the moved picture, (N, C, H, W) in [-1, 1]; None if it is a given first frame.
    """

    clips: torch.Tensor
    redrawn: torch.Tensor | None = None
    picture: torch.Tensor | None = None


class MotionPath(nn.Module):
    """The place of the picture in each frame, for `compose`: a short Fourier series of the frame's time.

    A network computes the series' coefficients. A series is smooth, and can turn a line into a circle gradually; a
    network that computes places directly learns to swing along an arc instead. tanh bounds the coefficients, so that a
    generator whose pictures are still bad does not learn to move them out of sight. (tanh of places would cause jumps
    from edge to edge.)

    Args:
        noise: number of noise values of a clip.
        condition: number of values of its encoded condition, 0 without one.
        period: frames per clip; the path is an ellipse with this period.
        returns: whether the path has only that ellipse, as clips with random start times need. Otherwise an ellipse of
            twice the period is added, half of which is a path without return.
    """

    def __init__(self, noise: int, condition: int, period: int, returns: bool):
        super().__init__()
        self.period, self.returns = period, returns
        sizes = 2 if returns else 4  # coefficients of sines and cosines
        first, second = nn.Linear(noise + condition, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)
        last = nn.Linear(_HIDDEN, 2 * (1 + sizes))
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        # Initial paths vary: ellipses about halfway between a line and a circle, different for each condition. If all
        # clips shared one path, the conditions that ask for lines would flatten it before the others learn circles; and
        # a line could become a circle in two directions, so that training chooses neither.
        with torch.no_grad():
            last.weight.mul_(_SPREAD_AT_FIRST)
            across, down = last.bias.zero_().view(2, 1 + sizes)
            across[sizes // 2] = _SIZE_AT_FIRST  # the sine of the period
            down[sizes // 2] = down[sizes] = _SIZE_AT_FIRST / math.sqrt(2)  # sine and cosine

    def forward(
        self, noise: torch.Tensor, condition: torch.Tensor | None, start_noise: torch.Tensor | None, frames: int
    ) -> torch.Tensor:
        """Compute the picture's place (x, y) in each frame.

        Args:
            noise: float (N, `noise`).
            condition: float (N, `condition`), or None without one.
            start_noise: (N,) as `clock_features` takes it, or None for clips that all start at the same time.
            frames: the number of frames.

        Returns:
            (N, 2, frames).
        """
        # In bfloat16 neighbouring frames would round differently.
        with torch.autocast(noise.device.type, enabled=False):
            first: Any = self.layers[0]  # nn.Linear
            known = noise.to(first.weight.dtype)
            if condition is not None:
                # Normalised to the scale of noise: an encoded condition starts small, and would push paths out of sight
                # as it grows.
                known = torch.cat([known, F.layer_norm(condition.to(known), condition.shape[1:])], 1)
            start_noise = known.new_zeros(known.shape[0]) if start_noise is None else start_noise
            waves = clock_features(start_noise, torch.arange(frames, device=known.device), self.period, frequencies=2)
            waves = waves[:, :, 1::2] if self.returns else waves  # (N, T, S)
            series = _LARGEST * torch.tanh(self.layers(known) / _LARGEST).unflatten(1, (2, -1))
            middle, sizes = series.tensor_split([1], 2)  # (N, 2, 1), (N, 2, S)
            return middle + sizes @ waves.transpose(1, 2)  # (N, 2, T)


def compose(raw: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None) -> GeneratorOutput:
    """Compose clips of a moving picture, `image` or else the first drawn frame, and of newly drawn pixels.

    The path defines places, not speeds: summed over time, speeds would move the picture out of clips that are longer
    than those of training. A given picture is the first frame and moves from there. Beyond its edges the picture is
    black (-1).

    Args:
        raw: floating (N, C + 1, T, H, W), the last convolution's output: new pixels before tanh, and the mask.
        place: floating (N, 2, T), the point (x, y) of the picture at the centre of each frame; edges are at -1 and 1.
        image: floating (N, C, H, W) in [-1, 1], or None.

    Returns:
        Clips (N, C, T, H, W), share and picture in float32, or in float64 if raw is float64.
    """
    with torch.autocast(raw.device.type, enabled=False):
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        channels = raw.shape[1] - CHANNELS
        new, mask = raw.split([channels, CHANNELS], 1)
        new = torch.tanh(new)
        picture = new[:, :, 0] if image is None else image.to(raw.dtype)
        moved = (mask + _MOVED_AT_FIRST).sigmoid()
        place = place.to(raw.dtype)
        if image is not None:
            place = place - place[:, :, :1]
        clips = moved * _move(picture, place, raw.shape[3:]) + (1 - moved) * new
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        return GeneratorOutput(clips, (1 - moved).mean(), picture if image is None else None)


def _move(picture: torch.Tensor, place: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Shift a picture (N, C, H, W) so that place (N, 2, T) is at the centre of each frame: (N, C, T, *size)."""
    n, _, frames = place.shape
    height, width = size
    across, down = ((2 * torch.arange(size, device=place.device) + 1) / size - 1 for size in (width, height))
    shown = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], -1).to(place)  # (H, W, 2)
    grid = place.transpose(1, 2)[:, :, None, None] + shown  # (N, T, H, W, 2)
    # All frames of a clip are sampled as one tall image. Sampling returns 0 beyond the edges, and black is -1, so the
    # picture is shifted by 1.
    sampled = F.grid_sample(picture + 1, grid.reshape(n, frames * height, width, 2), align_corners=False) - 1
    return sampled.view(n, -1, frames, height, width)
