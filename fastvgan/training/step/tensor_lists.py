"""Operations on lists of tensors in a few launches, where one launch per tensor would take most of a step."""

from collections.abc import Iterable, Sequence

import torch

from fastvgan_kernels._torch import foreach_add_, foreach_copy_, foreach_lerp_, foreach_mul_, foreach_sub


def copy_bytes(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
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
def restore_where(bad: torch.Tensor, tensors: Iterable[torch.Tensor], before: Sequence[torch.Tensor]) -> None:
    """Restore tensors in place where a flag is set.

    torch.where has no version for lists. In bytes, whose arithmetic is modulo 256, now + (before - now) · bad is
    exactly one or the other, whatever numbers the bytes encode, including NaN.

    Args:
        bad: () 1 to restore, 0 to change nothing.
        tensors: tensors of any shape.
        before: their bytes by `copy_bytes`.
    """
    now = _bytes(tensors)
    if now:
        changes = foreach_sub(before, now)
        foreach_mul_(changes, bad.to(torch.uint8))
        foreach_add_(now, changes)


@torch.no_grad()
def average_into(means: list[torch.Tensor], new: list[torch.Tensor], share: torch.Tensor) -> None:
    """Update running means in place: mean + (new - mean) · share, as torch.lerp for a share below one half.

    torch's lerp takes one launch per tensor if the share is a tensor.

    Args:
        means: tensors of any shape.
        new: new values of the same shapes.
        share: () on their device.
    """
    if not lists_are_fast(share.device):
        foreach_lerp_(means, new, [share.to(mean.dtype) for mean in means])
        return
    changes = foreach_sub(new, means)
    foreach_mul_(changes, share)
    foreach_add_(means, changes)


def lists_are_fast(device: torch.device) -> bool:
    """Whether torch's functions of lists take one launch per list on a device; a CPU loops over the list."""
    return device.type == "cuda"


def _bytes(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [x.detach().view(-1).view(torch.uint8) for x in tensors]
