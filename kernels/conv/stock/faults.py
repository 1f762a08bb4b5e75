"""Convolutions that stock PyTorch computes wrong on the CPU, or that end the process; nothing here relies on them.

Seen with torch 2.13 (oneDNN 3.12) on a processor with AMX, over some thousand random convolutions against float64:
- a convolution with an output that sees nothing but padding, or a transposed convolution with an input that reaches no
  output, may read beyond its memory (any dtype but float64);
- in half precision, a convolution that is strided along its last dimension and has one or two outputs there, or its
  weight gradient, may return garbage; so may a convolution over a single frame with padding in time;
- in half precision, without AMX too, the weight gradient in three dimensions is garbage if the first dimension has two
  or more outputs and each of them sees padding;
- in float32, the weight gradient in three dimensions may write beyond its memory if the first dimension is strided and
  its padding exceeds the stride;
- in float32, without AMX too, a convolution of one channel that is strided along its last dimension and has one output
  there may return garbage if one of its tensors is channels-last; among them is the gradient of a transposed
  convolution to one channel, for which the layout of its input counts too. The rule is for every layout, since which
  of the tensors stock PyTorch goes by differs between the passes.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch

from .. import sizes

_FEW = 2


def conv_down_fails(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> bool:
    """Whether stock PyTorch may fail at this convolution of x (N, C_in, *L)."""
    if not x.is_cpu or x.dtype == torch.float64:
        return False
    geometry = tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation)
    if _sees_only_padding(*geometry):
        return True
    strided = stride[-1] > 1
    if x.dtype == torch.float32:
        return strided and x.shape[1] == 1 and sizes.small(*geometry)[-1] == 1
    one_frame = x.dim() == 5 and x.shape[2] == 1 and padding[0] > 0
    return one_frame or (strided and sizes.small(*geometry)[-1] <= _FEW)


def conv_up_fails(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> bool:
    """Whether stock PyTorch may fail at this transposed convolution of x (N, C_in, *S)."""
    if not x.is_cpu or x.dtype == torch.float64:
        return False
    large = sizes.large(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    return _sees_only_padding(tuple(large), tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation))


def conv_weight_grad_fails(
    large: torch.Tensor, small: torch.Tensor, stride: Sequence[int], padding: Sequence[int]
) -> bool:
    """Whether stock PyTorch may fail at this weight gradient of large (N, C_large, *L) and small (N, C_small, *S)."""
    if large.is_cpu and large.dtype == torch.float32 and large.dim() == 5 and padding[0] > stride[0] > 1:
        return True
    half = large.is_cpu and large.dtype not in (torch.float32, torch.float64)
    frames = small.shape[2]
    all_see_padding = large.dim() == 5 and frames > 1 and (frames - 1) * stride[0] < 2 * padding[0]
    return half and (all_see_padding or (stride[-1] > 1 and small.shape[-1] <= _FEW))


@lru_cache(maxsize=4096)
def _sees_only_padding(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> bool:
    outputs = sizes.small(size, kernel, stride, padding, dilation)
    return any(map(_one_sees_only_padding, size, outputs, kernel, stride, padding, dilation))


def _one_sees_only_padding(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    if dilation == 1:
        return padding >= kernel
    starts = (o * stride - padding for o in range(outputs))
    return any(not any(0 <= start + j * dilation < size for j in range(kernel)) for start in starts)
