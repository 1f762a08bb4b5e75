"""Sharp outlines of the 8x8 digits, for frames in which they are drawn larger.

The 8x8 grey values of the UCI digits count the ink in the 4x4 blocks of a 32x32 bitmap (Alpaydin & Kaynak 1998). The
bitmap is reconstructed: among all bitmaps with these counts, one with a short, smooth outline. The distance to the
outline then yields a picture of any size with edges one pixel wide.
"""

import math

import torch

_SIDE, _BLOCK = 32, 4  # sides of a bitmap and of its blocks, in pixels
_BLURS = (2.5, 2.3, 2.1, 1.9, 1.7, 1.5, 1.4, 1.3, 1.2, 1.2, 1.2)  # standard deviations, in pixels of the bitmap
_SOFT = 0.9  # standard deviation, in pixels of the bitmap, of the blur whose level 0.5 is the outline
_FLAT = 0.18  # smallest slope for which a distance is computed; about this share of a straight edge's slope

REACH = 2  # pixels; distances are clamped there


def reconstruct_bitmaps(grey: torch.Tensor) -> torch.Tensor:
    """Reconstruct the bitmaps whose blocks contain as much ink as the grey values say.

    Blurring a shape and keeping its brightest pixels shortens the outline. If each block keeps as many pixels as it has
    ink, the counts stay right. This is threshold dynamics (Merriman, Bence & Osher 1992) with a volume constraint per
    block.

    Args:
        grey: float32 (N, 8, 8) in [0, 1], multiples of 1/16.

    Returns:
        float32 (N, 32, 32) of 0 and 1.
    """
    ink = (grey * _BLOCK**2).round()[..., None]  # (N, 8, 8, 1)
    enlarge = _gaussians(torch.arange(_SIDE) / _BLOCK - (_BLOCK - 1) / (2 * _BLOCK), grey.shape[-1], 0.6)[0]  # (32, 8)
    bitmaps = _keep_brightest(enlarge @ grey @ enlarge.T, ink)
    for blur in _BLURS[:-1]:
        kernel = _gaussians(torch.arange(_SIDE), _SIDE, blur)[0]
        bitmaps = _keep_brightest(kernel @ bitmaps @ kernel.T, ink)
    return bitmaps


def _keep_brightest(field: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """Bitmaps (N, 32, 32) of the brightest pixels of a field (N, 32, 32), `ink` (N, 8, 8, 1) of them per block."""
    blocks = field.unflatten(1, (-1, _BLOCK)).unflatten(3, (-1, _BLOCK)).transpose(2, 3)  # (N, 8, 8, 4, 4)
    rank = blocks.flatten(3).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    kept = (rank < ink).to(field.dtype).unflatten(3, (_BLOCK, _BLOCK))
    return kept.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def distance_pictures(bitmaps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Compute how far inside its outline each pixel of a digit lies, if drawn with height x width pixels.

    Args:
        bitmaps: float32 (N, 32, 32) of 0 and 1.
        height: Height of the drawing, in pixels.
        width: Width of the drawing, in pixels.

    Returns:
        float32 (N, height + 2 REACH, width + 2 REACH) in [0, 2 REACH]: the signed distance in pixels of the drawing,
        positive inside, plus REACH. The drawing has a margin of REACH pixels on each side.
    """
    (down, down_slope, down_blur), (across, across_slope, across_blur) = _samples(height), _samples(width)
    level = down @ bitmaps @ across.T - 0.5
    slope = torch.hypot(down_slope @ bitmaps @ across.T, down @ bitmaps @ across_slope.T)  # per pixel of the drawing
    return level.div_(slope.clamp_(min=_FLAT / max(down_blur, across_blur))).clamp_(-REACH, REACH).add_(REACH)


def coverage(distances: torch.Tensor) -> torch.Tensor:
    """Convert distances of `distance_pictures`, of any shape, to each pixel's share of ink in [0, 1], in place."""
    return distances.sub_(REACH - 0.5).clamp_(0, 1)


def _samples(size: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Matrices from a bitmap's pixels along one axis to a drawing's values and slopes, and the blur in its pixels."""
    scale = size / _SIDE  # pixels of the drawing per pixel of the bitmap
    blur = max(_SOFT, 0.5 / scale)
    middle = (torch.arange(size + 2 * REACH) - REACH + 0.5) / scale - 0.5
    weights, slopes = _gaussians(middle, _SIDE, blur)
    return weights, slopes / scale, blur * scale


def _gaussians(points: torch.Tensor, size: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (points, size) of pixels 0 to size - 1 at some points, Gaussian in distance, and their derivatives."""
    apart = points[:, None] - torch.arange(size)
    weights = torch.exp(-((apart / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    return weights, -apart / deviation**2 * weights
