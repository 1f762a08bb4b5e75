"""Sharp outlines for the 8x8 digits, for frames in which they are drawn larger than that.

The 8x8 grey values of the UCI digits count the ink in the 4x4 blocks of a 32x32 bitmap (Alpaydin & Kaynak 1998).
That bitmap is reconstructed: of all bitmaps with these counts, one of short, smooth outlines. It gives the distance of
any point to the outline, and the distance gives a picture of any size with edges one pixel wide.
"""

import math

import torch

_SIDE, _BLOCK = 32, 4  # of a bitmap and of its blocks, in pixels
_BLURS = (2.5, 2.3, 2.1, 1.9, 1.7, 1.5, 1.4, 1.3, 1.2, 1.2, 1.2)
_SOFT = 0.9  # standard deviation, in pixels of the bitmap, of the blur whose level one half is the outline
_FLAT = 0.18  # share of a straight edge's slope, about, below which there is no edge to measure a distance to

REACH = 2  # pixels; distances are cut off there


def reconstruct_bitmaps(grey: torch.Tensor) -> torch.Tensor:
    """Bitmaps, float32 (N, 32, 32) of 0 and 1, with as much ink in each block as the grey values say.

    Blurring a shape and keeping the brightest pixels shortens its outline; when each block keeps as many pixels as it
    has ink, its counts stay right. This is threshold dynamics (Merriman, Bence & Osher 1992) with a volume constraint
    for each block.

    Args:
        grey: (N, 8, 8) in [0, 1], multiples of 1/16.
    """
    ink = (grey * _BLOCK**2).round()[..., None]  # (N, 8, 8, 1)
    enlarge = _gaussians(torch.arange(_SIDE) / _BLOCK - (_BLOCK - 1) / (2 * _BLOCK), grey.shape[-1], 0.6)[0]  # (32, 8)
    field = enlarge @ grey @ enlarge.T
    for blur in _BLURS:
        blocks = field.unflatten(1, (-1, _BLOCK)).unflatten(3, (-1, _BLOCK)).transpose(2, 3)  # (N, 8, 8, 4, 4)
        rank = blocks.flatten(3).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        kept = (rank < ink).to(grey.dtype).unflatten(3, (_BLOCK, _BLOCK))
        bitmaps = kept.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (N, 32, 32)
        kernel = _gaussians(torch.arange(_SIDE), _SIDE, blur)[0]
        field = kernel @ bitmaps @ kernel.T
    return bitmaps


def distance_pictures(bitmaps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """How far inside the outline each pixel of a digit lies when it is drawn with height x width pixels.

    Args:
        bitmaps: (N, 32, 32).

    Returns:
        (N, height + 2 REACH, width + 2 REACH), in pixels of the drawing plus REACH, from 0 (REACH pixels or more
        outside) to 2 REACH; there is a margin of REACH pixels on each side.
    """
    (down, down_slope, down_blur), (across, across_slope, across_blur) = _samples(height), _samples(width)
    level = down @ bitmaps @ across.T - 0.5
    slope = torch.hypot(down_slope @ bitmaps @ across.T, down @ bitmaps @ across_slope.T)  # a pixel of the drawing
    return level.div_(slope.clamp_(min=_FLAT / max(down_blur, across_blur))).clamp_(-REACH, REACH).add_(REACH)


def coverage(distances: torch.Tensor) -> torch.Tensor:
    """The share of each pixel that is ink, in [0, 1], in place, from distances as `distance_pictures` gives them."""
    return distances.sub_(REACH - 0.5).clamp_(0, 1)


def _samples(size: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """For one axis: matrices from the bitmap to the drawing's pixels and their slopes, and the blur in these pixels."""
    scale = size / _SIDE  # pixels of the drawing for each one of the bitmap
    blur = max(_SOFT, 0.5 / scale)
    middle = (torch.arange(size + 2 * REACH) - REACH + 0.5) / scale - 0.5
    weights, slopes = _gaussians(middle, _SIDE, blur)
    return weights, slopes / scale, blur * scale


def _gaussians(points: torch.Tensor, size: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (points, size) of pixels 0 to size - 1 at these points, a Gaussian each, and their derivatives."""
    apart = points[:, None] - torch.arange(size)
    weights = torch.exp(-((apart / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    return weights, -apart / deviation**2 * weights
