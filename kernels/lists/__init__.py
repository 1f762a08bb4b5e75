"""Operations on lists of tensors, which take a launch or two on a GPU where PyTorch takes several.

These are plain functions that change tensors in place, without gradients. They are no registered operations, because
only a training loop calls them.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .. import choice
from .._torch import foreach_copy_
from ..measured.capture import are_launches_captured
from . import reference
from .protocol import Lists


def _slower(x: Tensor) -> str | None:
    if are_launches_captured():
        return None
    return "outside a CUDA graph a launch with the addresses of a list costs the host more than it spares the GPU"


choice.register(
    "lists",
    triton=choice.in_triton(__name__, _slower, measured=False),
    reference=choice.Implementation(reference),
)


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Compute the Euclidean norms of parts that together are all values of the tensors.

    Args:
        tensors: any shapes, floating-point, at least one.

    Returns:
        The norms, float32 (P,) for any number of parts P. Their norm is that of all values, and is not finite if one of
        the values is not.
    """
    return _pick(tensors[0]).norms(tensors)


def copy_bytes(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy the bytes of tensors of any shape, for `restore_where`.

    Returns:
        One uint8 tensor (number of bytes,) per tensor.
    """
    now = _bytes(tensors)
    copies = [torch.empty_like(x) for x in now]
    if copies:
        foreach_copy_(copies, now)
    return copies


@torch.no_grad()
def restore_where(bad: Tensor, tensors: Iterable[Tensor], before: Sequence[Tensor]) -> None:
    """Restore tensors in place, to the bit, where a flag is set.

    Args:
        bad: () float32, 1 to restore, 0 to change nothing.
        tensors: tensors of any shape and dtype.
        before: their bytes by `copy_bytes`.
    """
    now = _bytes(tensors)
    if now:
        _pick(bad).restore_where(bad, now, before)


@torch.no_grad()
def average_into(means: Sequence[Tensor], new: Sequence[Tensor], share: Tensor) -> None:
    """Update running means in place: mean + (new - mean) · share, as torch.lerp for a share below one half.

    Args:
        means: tensors of any shape.
        new: new values of the same shapes.
        share: () on their device.
    """
    if means:
        _pick(means[0]).average_into(means, new, share)


@torch.no_grad()
def copy_into(copies: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors to others, casting them.

    Args:
        copies: tensors of any shape, of one dtype, written.
        tensors: tensors of their shapes, of one dtype.
    """
    if copies:
        _pick(copies[0]).copy_into(copies, tensors)


@torch.no_grad()
def mean_sigmoids(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Compute the mean sigmoid of each group of tensors, each tensor of a group having the same weight.

    Args:
        groups: tensors of any shapes with at least one value, floating-point; equally many, at least one, per group.

    Returns:
        (number of groups,) float32.
    """
    return _pick(groups[0][0]).mean_sigmoids(groups)


def _bytes(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [x.detach().view(-1).view(torch.uint8) for x in tensors]


def _pick(x: Tensor) -> Lists:
    return choice.pick("lists", "auto", x)
