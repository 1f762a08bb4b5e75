"""Differences between clips, and the consistency of a clip from its first frame to its last."""

import torch
from torch.nn.functional import cosine_similarity

from fastvgan.metrics.frechet import coarse_features

_CHUNK = 64  # pairs per comparison


def mean_difference(video: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the mean absolute difference between the pixels of clips first[i] and second[i], from 0 to 255.

    Args:
        video: uint8 (N, T, H, W, C).
        first: indices of clips, int64 (P,), P of 1 or more.
        second: indices of clips, int64 (P,).
    """
    total = 0.0
    for a, b in zip(first.split(_CHUNK), second.split(_CHUNK), strict=True):
        total += (video[a].float() - video[b].float()).abs().mean().item() * len(a)
    return total / len(first)


def pair_within_groups(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair each clip with the next one of its group, for groups int64 (N,); return the pairs' indices, (P,) each."""
    order = groups.argsort(stable=True)
    same = groups[order[:-1]] == groups[order[1:]]
    return order[:-1][same], order[1:][same]


def share_of_differing(labels: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the share of pairs first[i], second[i] with different labels: for random pairs, the Gini-Simpson index.

    Args:
        labels: int64 (N,).
        first: indices of labels, int64 (P,), P of 1 or more.
        second: indices of labels, int64 (P,).

    Source: Simpson, "Measurement of Diversity", 1949.
    """
    return (labels[first] != labels[second]).double().mean().item()


def first_middle_last(video: torch.Tensor) -> torch.Tensor:
    """Select the first, the middle and the last frame of clips (N, T, ...), as clips (N, 3, ...)."""
    frames = video.shape[1]
    return video[:, [0, frames // 2, frames - 1]]


def frame_similarity(video: torch.Tensor) -> float:
    """Return the mean cosine similarity of a clip's first frame to its middle and last one, from -1 to 1.

    It compares `coarse_features` of single frames, colours in 4x4 cells. It therefore shows whether a scene remains the
    same, not whether a shape in it does.

    Args:
        video: uint8 (N, T, H, W, C).
    """
    first, middle, last = (coarse_features(frame) for frame in first_middle_last(video).split(1, dim=1))
    return torch.stack([cosine_similarity(first, other) for other in (middle, last)]).mean().item()
