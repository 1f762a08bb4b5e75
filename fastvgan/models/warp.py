"""Clips made of one picture that moves, and of what is new in each frame.

A shape that every frame draws for itself drifts from frame to frame; one that is drawn once and moved stays itself. The
mask between what is moved and what is new, and that little is to be new, are from Vondrick et al. 2016 (VGAN,
equation 5 and its sparsity prior), with a picture that moves in the place of a background that stands still. It moves
by bilinear sampling along a flow, as in Jaderberg et al. 2015 (Spatial Transformer Networks, equation 5).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

CHANNELS = 3  # of a frame beside its picture: the mask and two of the flow
_SPEED = 0.3  # the most that the whole picture moves from one frame to the next; the frame is 2 wide
_BEND = 0.1  # the most that a place departs from that
_MOVED_AT_FIRST = 4.0  # logit: an untrained generator moves nearly all, and so learns to move


class Drawn(NamedTuple):
    """Clips (N, C, T, H, W) in [-1, 1], and the share of them that is new, a scalar; None where nothing is moved."""

    clips: torch.Tensor
    redrawn: torch.Tensor | None = None


def compose(raw: torch.Tensor, image: torch.Tensor | None) -> Drawn:
    """Clips of the picture `image` that moves, or of the first frame drawn where there is none.

    How fast the whole picture moves is the mean flow of each frame. It adds up over time, so that where a frame is
    follows from the ones before, and clips longer than those of training lose the picture. What comes in from beyond
    the edges is black (-1).

    Args:
        raw: floating (N, C + 3, T, H, W), the last convolution's output: what is new, before tanh, the mask and the
            flow. image: floating (N, C, H, W) in [-1, 1], or None.

    Returns:
        Clips and share in float32, or in float64 if raw is that.
    """
    with torch.autocast(raw.device.type, enabled=False):
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        channels = raw.shape[1] - CHANNELS
        new, mask, flow = raw.split([channels, 1, 2], 1)
        new = torch.tanh(new)
        picture = new[:, :, 0] if image is None else image.to(raw.dtype)
        moved = (mask + _MOVED_AT_FIRST).sigmoid()
        clips = moved * _move(picture, _path(flow)) + (1 - moved) * new
        return Drawn(clips.contiguous(memory_format=torch.channels_last_3d), (1 - moved).mean())


def _path(flow: torch.Tensor) -> torch.Tensor:
    """From a frame's flow, (N, 2, T, H, W), to where each place of it was in the picture, relative to itself."""
    mean = flow.mean((3, 4), keepdim=True)  # (N, 2, T, 1, 1)
    speed = _SPEED * torch.tanh(mean)
    speed = torch.cat([torch.zeros_like(speed[:, :, :1]), speed[:, :, 1:]], 2)  # the first frame is where it is
    return speed.cumsum(2) + _BEND * torch.tanh(flow - mean)


def _move(picture: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
    """A picture (N, C, H, W) sampled where path (N, 2, T, H, W), (x, y), says: (N, C, T, H, W)."""
    n, _, frames, height, width = path.shape
    across, down = ((2 * torch.arange(size, device=path.device) + 1) / size - 1 for size in (width, height))
    place = torch.stack([across.expand(height, width), down[:, None].expand(height, width)]).to(path)  # (2, H, W)
    place = place[:, None] + path  # (N, 2, T, H, W)
    # The frames of a clip lie one below the other, so that its picture is sampled once.
    grid = place.permute(0, 2, 3, 4, 1).reshape(n, frames * height, width, 2)
    # Black is -1, and sampling gives 0 beyond the edges.
    sampled = F.grid_sample(picture + 1, grid, align_corners=False) - 1
    return sampled.view(n, -1, frames, height, width)
