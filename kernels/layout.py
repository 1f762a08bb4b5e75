"""The one rule for the memory format of results: channels-last where an input is, contiguous otherwise."""

import torch

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of(*tensors: torch.Tensor) -> torch.memory_format:
    """The memory format of an operation's result: channels-last if any of these (N, C, *space) tensors is that.

    Only the strides are asked: a channel stride of 1 says channels-last, also for a slice of a larger tensor or for
    one channel. A tensor of spatial size 1 is both and says nothing, which is why the weight is asked too.
    """
    for x in tensors:
        if x.dim() in _CHANNELS_LAST and x.stride(1) == 1 and x.shape[2:].numel() > 1:
            return _CHANNELS_LAST[x.dim()]
    return torch.contiguous_format


def in_format(x: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    """`x` in that format, copied if need be, with the strides that torch.empty would give it.

    A tensor of one channel counts as contiguous in both formats, whatever its channel stride; setting the stride
    right is what lets the next operation's `format_of` see the format.
    """
    x = x.contiguous(memory_format=memory_format)
    if x.shape[1] == 1 and x.dim() in _CHANNELS_LAST:
        channels_last = memory_format is not torch.contiguous_format
        stride = list(x.stride())
        stride[1] = 1 if channels_last else max(x.shape[2:].numel(), 1)
        if stride[1] != x.stride(1) and x.requires_grad:
            x = x.as_strided(x.shape, stride, x.storage_offset())
        elif stride[1] != x.stride(1):
            # Not as_strided: a view of what an operation made cannot be changed in place under autograd.
            x = x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, stride)
    return x


def empty(shape, like: torch.Tensor, memory_format: torch.memory_format, dtype: torch.dtype | None = None):
    """An empty tensor in that format: what fake kernels return."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def with_channels_innermost(x: torch.Tensor) -> torch.Tensor:
    """x (N, C, *space) with its channels innermost, copied if need be; other strides are free."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_with_channels_innermost(
    like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> torch.Tensor:
    """An empty dense tensor (N, C, *space) with channels innermost, of any number of sizes; like's dtype by default."""
    strides, step = [1] * len(shape), max(shape[1], 1)
    for d in range(len(shape) - 1, 1, -1):
        strides[d] = step
        step *= max(shape[d], 1)
    strides[0] = step
    # Not a view, which autograd would not let anybody change in place, as an activation does.
    return like.new_empty_strided(shape, strides, dtype=dtype)
