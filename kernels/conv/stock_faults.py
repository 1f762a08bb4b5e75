"""Where stock PyTorch's convolutions on the CPU are wrong or end the process, so that nothing here relies on them.

Seen with torch 2.13 (oneDNN 3.12) on a processor with AMX, over some thousand random convolutions against float64:
- a convolution of which some output sees nothing but padding may read beyond its memory (any dtype but float64);
- in half precision, a convolution that is strided along its last dimension and has one or two outputs there, or its
  weight gradient, may come out as garbage.
"""

from functools import lru_cache

import torch

_FEW = 2


def conv_down_fails(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> bool:
    """Whether stock PyTorch cannot be trusted with this convolution."""
    if not x.is_cpu or x.dtype == torch.float64:
        return False
    sizes = tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation)
    return _sees_only_padding(*sizes) or (x.dtype != torch.float32 and _few_outputs(*sizes))


def conv_weight_grad_fails(large: torch.Tensor, small: torch.Tensor, stride) -> bool:
    """Whether stock PyTorch cannot be trusted with this weight gradient."""
    half = large.is_cpu and large.dtype not in (torch.float32, torch.float64)
    return half and stride[-1] > 1 and small.shape[-1] <= _FEW


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _few_outputs(size, kernel, stride, padding, dilation) -> bool:
    return stride[-1] > 1 and _outputs(size[-1], kernel[-1], stride[-1], padding[-1], dilation[-1]) <= _FEW


@lru_cache(maxsize=4096)
def _sees_only_padding(size, kernel, stride, padding, dilation) -> bool:
    return any(map(_one_sees_only_padding, size, kernel, stride, padding, dilation))


def _one_sees_only_padding(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    if dilation == 1:
        return padding >= kernel
    starts = (o * stride - padding for o in range(_outputs(size, kernel, stride, padding, dilation)))
    return any(not any(0 <= start + j * dilation < size for j in range(kernel)) for start in starts)
