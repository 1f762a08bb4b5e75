"""The memory format of results: channels-last if an input is, contiguous otherwise."""

from collections.abc import Sequence

import torch

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of(*tensors: torch.Tensor) -> torch.memory_format:
    """Return an operation's memory format: channels-last if any of these (N, C, *space) tensors is, else contiguous.

    A channel stride of 1 means channels-last, also for a slice of a larger tensor and for one channel, if the other
    dimensions follow in their order, as torch demands of strides. A tensor of spatial size 1 has both formats and
    decides nothing, which is why callers pass the weight too.
    """
    for x in tensors:
        channels_last = _CHANNELS_LAST.get(x.dim())
        if channels_last is not None and x.stride(1) == 1 and x.shape[2:].numel() > 1:
            if x.is_contiguous(memory_format=channels_last) or _is_in_order(x):
                return channels_last
    return torch.contiguous_format


def _is_in_order(x: torch.Tensor) -> bool:
    """Whether each dimension of x (N, C, *space) steps over the next, with channels innermost; not for a transpose."""
    shape, strides = x.shape, x.stride()
    least = strides[1] * shape[1]
    for d in (*range(x.dim() - 1, 1, -1), 0):
        if shape[d] > 1:
            if strides[d] < least:
                return False
            least = strides[d] * shape[d]
    return True


def in_format(x: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    """Return x (N, C, *space) in that format, copied if needed, with the strides that torch.empty would choose.

    A tensor of one channel counts as contiguous in both formats, whatever its channel stride. Its stride is corrected
    here, so that the next operation's `format_of` sees the format.
    """
    x = x.contiguous(memory_format=memory_format)
    if x.shape[1] == 1 and x.dim() in _CHANNELS_LAST:
        channels_last = memory_format is not torch.contiguous_format
        stride = list(x.stride())
        stride[1] = 1 if channels_last else max(x.shape[2:].numel(), 1)
        if stride[1] != x.stride(1) and x.requires_grad:
            x = x.as_strided(x.shape, stride, x.storage_offset())
        elif stride[1] != x.stride(1):
            # Not as_strided: under autograd, a view of an operation's output cannot be changed in place.
            x = x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, stride)
    return x


def empty(
    shape: Sequence[int], like: torch.Tensor, memory_format: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return an empty tensor of that shape and format, on like's device and by default of its dtype."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def with_channels_innermost(x: torch.Tensor) -> torch.Tensor:
    """Return x (N, C, *space) with channels innermost, copied if needed; its other strides may be any."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_with_channels_innermost(
    like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return an empty dense tensor (N, C, *space) with channels innermost; like's dtype by default."""
    strides, step = [1] * len(shape), max(shape[1], 1)
    for d in range(len(shape) - 1, 1, -1):
        strides[d] = step
        step *= max(shape[d], 1)
    strides[0] = step
    # Not a view: under autograd, an activation could not change it in place.
    return like.new_empty_strided(shape, strides, dtype=dtype)
