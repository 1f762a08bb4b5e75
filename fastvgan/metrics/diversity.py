"""How much clips differ from each other, and whether a clip stays itself from its first frame to its last."""

import torch
from torch.nn.functional import cosine_similarity

from fastvgan.metrics.frechet import coarse_features

_CHUNK = 64  # pairs compared at once


def mean_difference(video: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """The mean absolute difference of pixels, which count from 0 to 255, between clips first[i] and second[i].

    Args:
        video: uint8 (N, T, H, W, C). first, second: int64 (P,), indices into it, P of 1 or more.
    """
    total = 0.0
    for a, b in zip(first.split(_CHUNK), second.split(_CHUNK), strict=True):
        total += (video[a].float() - video[b].float()).abs().mean().item() * len(a)
    return total / len(first)


def pairs_of(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (P,), (P,) of clips of one group, each clip paired with the next of its group; groups is int64 (N,)."""
    order = groups.argsort(stable=True)
    same = groups[order[:-1]] == groups[order[1:]]
    return order[:-1][same], order[1:][same]


def share_that_differ(labels: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """The share of pairs first[i], second[i] whose labels differ: the Gini-Simpson index where pairs are random.

    Args:
        labels: int64 (N,). first, second: int64 (P,), indices into it, P of 1 or more.

    Source: Simpson, "Measurement of Diversity", 1949.
    """
    return (labels[first] != labels[second]).double().mean().item()


def first_middle_last(video: torch.Tensor) -> torch.Tensor:
    """The first, the middle and the last frame of clips (N, T, ...), as clips (N, 3, ...)."""
    frames = video.shape[1]
    return video[:, [0, frames // 2, frames - 1]]


def frame_similarity(video: torch.Tensor) -> float:
    """How alike the first frame of a clip is to its middle and last one, from -1 to 1: mean cosine similarity.

    Compared are `coarse_features` of single frames, colours in 4x4 cells, so that this notices whether a scene stays
    the same and not whether a shape in it does.

    Args:
        video: uint8 (N, T, H, W, C).
    """
    first, middle, last = (coarse_features(frame) for frame in first_middle_last(video).split(1, dim=1))
    return torch.stack([cosine_similarity(first, other) for other in (middle, last)]).mean().item()
