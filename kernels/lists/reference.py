"""Operations on lists of tensors in plain PyTorch: the definition of correct results, on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._torch import foreach_add_, foreach_copy_, foreach_lerp_, foreach_mul_, foreach_norm, foreach_sub
from ..logistic import logistic


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of each tensor, of any shape, (number of tensors,) float32."""
    return torch.stack([norm.float() for norm in foreach_norm(tensors)])


def restore_where(bad: Tensor, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Restore tensors, uint8 (number of bytes,), where `bad` () is not 0.

    torch.where has no version for lists. In bytes, whose arithmetic is modulo 256, now + (before - now) · bad is
    exactly one or the other, whatever numbers the bytes encode, including NaN.
    """
    changes = foreach_sub(before, tensors)
    foreach_mul_(changes, bad.to(torch.uint8))
    foreach_add_(tensors, changes)


def average_into(means: Sequence[Tensor], new: Sequence[Tensor], share: Tensor) -> None:
    """Update running means in place: mean + (new - mean) · share ()."""
    if not lists_are_fast(share.device):
        foreach_lerp_(means, new, [share.to(mean.dtype) for mean in means])
        return
    # torch's lerp takes one launch per tensor if the share is a tensor.
    changes = foreach_sub(new, means)
    foreach_mul_(changes, share)
    foreach_add_(means, changes)


def copy_into(copies: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors to others of their shapes, casting them, in one launch for all whose strides are equal."""
    pairs = list(zip(copies, tensors, strict=True))
    same_strides = [pair for pair in pairs if pair[0].stride() == pair[1].stride()]
    if same_strides:
        foreach_copy_(*map(list, zip(*same_strides, strict=True)))
    for copy, tensor in pairs:
        if copy.stride() != tensor.stride():
            copy.copy_(tensor)


def mean_sigmoids(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the mean over a group's tensors, of any shape, of their mean sigmoid, (number of groups,) float32."""
    means = [[logistic(x, True)[1] for x in group] for group in groups]
    return torch.stack([group[0] if len(group) == 1 else torch.stack(group).mean() for group in means])


def lists_are_fast(device: torch.device) -> bool:
    """Whether torch's functions of lists take one launch per list on a device; a CPU loops over the list."""
    return device.type == "cuda"
