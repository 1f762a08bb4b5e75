"""Whether generated clips are copies of training clips.

The distance of each clip to its nearest neighbour in a sample of training clips is compared with that of real clips
outside the training set, as in Meehan et al. 2020, "A non-parametric test to detect data-copying". A clip counts as a
copy if its distance is below a quarter of the median of those real distances. Real digits of unseen writers are never
that near (the nearest has 0.37 of the median); a training clip with noise of a few grey levels always is.
"""

from collections.abc import Iterable

import torch
from torch.nn.functional import adaptive_avg_pool2d

COPY = 0.25  # of the median distance of real clips
_SIDE = 16


def nearest_distances(
    video: torch.Tensor,
    training: Iterable[tuple[torch.Tensor, torch.Tensor]],
    own: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the distance of each clip to its nearest training clip, float32 (N,); infinite if it was compared to none.

    The distance is the root mean square difference of pixels from 0 to 255. Frames larger than 16x16 are first averaged
    down to that size.

    Args:
        video: uint8 (N, T, H, W, C).
        training: parts of the training clips: indices (n,) of the clips to compare, and uint8 (m, T, H, W, C).
        own: if the clips are training clips themselves, the position of each in the sequence of all training clips,
            int64 (N,); a clip is not compared with itself.
    """
    clips = _pixels(video)
    nearest = torch.full((len(video),), torch.inf)
    start = 0
    for rows, part in training:
        # A matrix product is faster than differences, and exact enough (1e-2 grey levels).
        distances = torch.cdist(clips[rows], _pixels(part), compute_mode="use_mm_for_euclid_dist")
        if own is not None:
            itself = own[rows, None] == torch.arange(start, start + len(part))
            distances = distances.masked_fill(itself, torch.inf)
        nearest[rows] = torch.minimum(nearest[rows], distances.amin(1) / clips.shape[1] ** 0.5)
        start += len(part)
    return nearest


def share_of_copies(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Return the share of copies, from the `nearest_distances` (N,) of generated and (M,) of real clips."""
    return (generated < COPY * real.median()).double().mean().item()


def _pixels(video: torch.Tensor) -> torch.Tensor:
    """Flatten clips to rows, float32 (N, T h w C), with frames of at most 16x16."""
    height, width = video.shape[2:4]
    if max(height, width) <= _SIDE:
        return video.flatten(1).float()
    size = min(height, _SIDE), min(width, _SIDE)
    parts = [
        adaptive_avg_pool2d(part.permute(0, 1, 4, 2, 3).flatten(0, 1).float(), size).reshape(len(part), -1)
        for part in video.split(64)
    ]
    return torch.cat(parts)
