"""Whether generated clips are copies of training clips.

Each clip's distance to its nearest neighbour in a sample of training clips is set beside the same distance of real
clips that were not trained on, as in Meehan et al. 2020, "A non-parametric test to detect data-copying". A clip is a
copy where it is nearer to a training clip than a quarter of the median of those real distances: real digits of unseen
writers are never so near (their nearest ones come to 0.37 of the median), a training clip with noise of a few grey
levels always is.
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
    """Distance of each clip to its nearest training clip, float32 (N,); infinite where it was compared with none.

    The distance is the root mean square of the differences of pixels, which count from 0 to 255; frames larger than
    16x16 are averaged down to that first.

    Args:
        video: uint8 (N, T, H, W, C).
        training: parts of the training clips: indices (n,) of the clips to compare, and uint8 (m, T, H, W, C).
        own: int64 (N,), where the clips are training clips themselves: the place of each in the sequence of all
            training clips, which is not compared with.
    """
    clips = _pixels(video)
    nearest = torch.full((len(video),), torch.inf)
    start = 0
    for rows, part in training:
        # Products, not differences: exact enough (1e-2 grey levels), and a matrix product is all it takes.
        distances = torch.cdist(clips[rows], _pixels(part), compute_mode="use_mm_for_euclid_dist")
        if own is not None:
            itself = own[rows, None] == torch.arange(start, start + len(part))
            distances = distances.masked_fill(itself, torch.inf)
        nearest[rows] = torch.minimum(nearest[rows], distances.amin(1) / clips.shape[1] ** 0.5)
        start += len(part)
    return nearest


def share_of_copies(generated: torch.Tensor, real: torch.Tensor) -> float:
    """The share of clips that are copies, from the distances `nearest_distances` gives for them and for real clips."""
    return (generated < COPY * real.median()).double().mean().item()


def _pixels(video: torch.Tensor) -> torch.Tensor:
    """Clips as rows, float32 (N, T h w C)."""
    height, width = video.shape[2:4]
    if max(height, width) <= _SIDE:
        return video.flatten(1).float()
    size = min(height, _SIDE), min(width, _SIDE)
    parts = [
        adaptive_avg_pool2d(part.permute(0, 1, 4, 2, 3).flatten(0, 1).float(), size).reshape(len(part), -1)
        for part in video.split(64)
    ]
    return torch.cat(parts)
