"""Clips made of one picture that moves, and of what is new in each frame.

A shape that every frame draws for itself drifts from frame to frame; one that is drawn once and moved as a whole stays
itself. The mask between what is moved and what is new, and that little is to be new, are from Vondrick et al. 2016
(VGAN, equation 5 and its sparsity prior), with a picture that moves in the place of a background that stands still. It
moves by bilinear sampling, as in Jaderberg et al. 2015 (Spatial Transformer Networks, equation 5), along a path that is
a function of time, like the motion of DIGAN (Yu et al. 2022).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fastvgan.models.clock import clock_features

CHANNELS = 1  # of a frame beside its picture: the mask
_HIDDEN = 256  # units between what a path depends on and its coefficients
_SIZE_AT_FIRST, _SPREAD_AT_FIRST = 0.3, 3.0
_LARGEST = 2 / 3  # coefficient of a path; edges of the frame are at 1
_MOVED_AT_FIRST = 4.0  # logit: an untrained generator moves nearly all, and so learns to move


class Drawn(NamedTuple):
    """Clips (N, C, T, H, W) in [-1, 1], and where a picture is moved also what they are made of.

    redrawn: the share of the clips that is new, a scalar. picture: what is moved, (N, C, H, W) in [-1, 1]; None where
    it was given.
    """

    clips: torch.Tensor
    redrawn: torch.Tensor | None = None
    picture: torch.Tensor | None = None


class Path(nn.Module):
    """Where the picture is in each frame, as a short Fourier series of the frame's time, for `compose`.

    `forward(noise, condition, start_noise, frames)`: noise float (N, `noise`) and condition float (N, `condition`), or
    None without one, give the series' coefficients; start_noise (N,) as `clock_features` takes it, or None for clips
    that all start at the same time; gives (N, 2, frames). A series is smooth, and a line in it becomes a circle by
    growing; a network that gives places learns to go to and fro on an arc instead. tanh bounds the coefficients, so
    that a generator whose pictures are still bad does not learn to hide them beyond the edges; of places it would make
    jumps from edge to edge.

    Args:
        noise, condition: values of a clip's noise and of its condition (0: there is none).
        period: frames of a clip. A path is an ellipse that takes so many frames.
        returns: whether that is all, as clips that start at random times need it. Otherwise an ellipse that takes twice
            as many is added, half of which is a way with no return.
    """

    def __init__(self, noise: int, condition: int, period: int, returns: bool):
        super().__init__()
        self.period, self.returns = period, returns
        sizes = 2 if returns else 4  # of a sine and a cosine each
        self.layers = nn.Sequential(
            nn.Linear(noise + condition, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 2 * (1 + sizes)),
        )
        # Paths begin as ellipses of all kinds, about one halfway between a line and a circle, and each condition's are
        # its own. Were they one for all, those that want lines would close it before those that want circles are heard,
        # and a line, which could open to a circle in two ways, opens in neither.
        with torch.no_grad():
            self.layers[-1].weight.mul_(_SPREAD_AT_FIRST)
            across, down = self.layers[-1].bias.zero_().view(2, 1 + sizes)
            across[sizes // 2] = _SIZE_AT_FIRST  # of the sine of a clip's time
            down[sizes // 2] = down[sizes] = _SIZE_AT_FIRST / math.sqrt(2)  # of sine and cosine

    def forward(
        self, noise: torch.Tensor, condition: torch.Tensor | None, start_noise: torch.Tensor | None, frames: int
    ) -> torch.Tensor:
        # In bfloat16 neighbouring frames would round differently.
        with torch.autocast(noise.device.type, enabled=False):
            known = noise.to(self.layers[0].weight.dtype)
            if condition is not None:
                # As large as noise: a condition is small at first, and as it grew it would drive paths out of sight.
                known = torch.cat([known, F.layer_norm(condition.to(known), condition.shape[1:])], 1)
            start_noise = known.new_zeros(len(known)) if start_noise is None else start_noise
            waves = clock_features(start_noise, torch.arange(frames, device=known.device), self.period, frequencies=2)
            waves = waves[:, :, 1::2] if self.returns else waves  # (N, T, S)
            series = _LARGEST * torch.tanh(self.layers(known) / _LARGEST).unflatten(1, (2, -1))
            middle, sizes = series.tensor_split([1], 2)  # (N, 2, 1), (N, 2, S)
            return middle + sizes @ waves.transpose(1, 2)  # (N, 2, T)


def compose(raw: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None) -> Drawn:
    """Move the picture `image`, or the first frame of what is drawn if there is none.

    Each frame has a place of its own: speeds that add up over time would carry the picture out of clips longer than
    those of training. A given picture is the first frame and moves from there. Beyond the picture's edges is black
    (-1).

    Args:
        raw: floating (N, C + 1, T, H, W), the last convolution's output: what is new, before tanh, and the mask.
        place: floating (N, 2, T), the place (x, y) in the picture at the middle of each frame; edges are at -1 and 1.
        image: floating (N, C, H, W) in [-1, 1], or None.

    Returns:
        Clips, share and picture in float32, or in float64 if raw is that.
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
        return Drawn(clips, (1 - moved).mean(), picture if image is None else None)


def _move(picture: torch.Tensor, place: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Shift a picture (N, C, H, W) so that place (N, 2, T) is at the middle of each frame: (N, C, T, *size)."""
    n, _, frames = place.shape
    height, width = size
    across, down = ((2 * torch.arange(size, device=place.device) + 1) / size - 1 for size in (width, height))
    shown = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], -1).to(place)  # (H, W, 2)
    grid = place.transpose(1, 2)[:, :, None, None] + shown  # (N, T, H, W, 2)
    # The frames of a clip lie one below the other, so that its picture is sampled once. Black is -1, and sampling gives
    # 0 beyond the edges.
    sampled = F.grid_sample(picture + 1, grid.reshape(n, frames * height, width, 2), align_corners=False) - 1
    return sampled.view(n, -1, frames, height, width)
