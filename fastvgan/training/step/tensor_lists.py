"""What a step does to many tensors at once: a few launches on a GPU, where one for each tensor would be its time."""

from collections.abc import Iterable, Sequence

import torch

from fastvgan_kernels._torch import foreach_add_, foreach_copy_, foreach_lerp_, foreach_mul_, foreach_sub


def copied(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors' bytes, uint8, as they are now; for `restore_where`."""
    now = _bytes(tensors)
    copies = [torch.empty_like(x) for x in now]
    if copies:
        foreach_copy_(copies, now)
    return copies


@torch.no_grad()
def restore_where(bad: torch.Tensor, tensors: Iterable[torch.Tensor], before: Sequence[torch.Tensor]) -> None:
    """Bring the tensors back, in place, to what they were `before`, if `bad` () is not 0 but 1.

    There is no torch.where for lists. In bytes, whose arithmetic is modulo 256, now + (before - now) · bad is one or
    the other exactly, whatever numbers the bytes stand for, NaN included.
    """
    now = _bytes(tensors)
    if now:
        changes = foreach_sub(before, now)
        foreach_mul_(changes, bad.to(torch.uint8))
        foreach_add_(now, changes)


@torch.no_grad()
def average_into(means: list[torch.Tensor], new: list[torch.Tensor], share: torch.Tensor) -> None:
    """Move running means, in place, towards new values by a share (), a tensor on their device.

    mean + (new - mean) · share, as torch.lerp computes it for a share below one half. lerp itself takes one launch for
    each tensor where the share is a tensor.
    """
    if not lists_are_fast(share.device):
        foreach_lerp_(means, new, [share.to(mean.dtype) for mean in means])
        return
    changes = foreach_sub(new, means)
    foreach_mul_(changes, share)
    foreach_add_(means, changes)


def lists_are_fast(device: torch.device) -> bool:
    """Whether functions of lists compute a list in one launch there; a CPU goes through it."""
    return device.type == "cuda"


def _bytes(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [x.detach().view(-1).view(torch.uint8) for x in tensors]
