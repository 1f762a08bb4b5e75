"""Where stock PyTorch was measured to be faster than the compiled convolutions, so that auto takes it there.

bench/test_conv.py measures both; the rules are for two cores with AVX-512 and bfloat16, with AMX or without, and lean
to stock where the two are within a few per cent. What the compiled ones are for: strided and transposed convolutions on
batches, channels last, with kernels larger than 1; few channels of a transposed one's output; weight gradients; and
whatever stock PyTorch cannot be trusted with (stock_faults.py).

The choice depends on shapes, strides and dtypes alone: a choice by timing would differ from run to run, and results
with it in their last bits.
"""

import math

import torch

from .. import layout
from . import stock_faults

_CONTIGUOUS = "of contiguous tensors stock PyTorch is faster"
_FLAT = "of contiguous tensors and in fewer than three strided dimensions stock PyTorch is faster"
_FEW = 8  # output channels of a transposed convolution
_SMALL = "of a problem as small stock PyTorch is faster"


def conv_up_slower(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> str | None:
    """Why auto leaves this transposed convolution to stock PyTorch, or None."""
    if stock_faults.conv_up_fails(x, weight, stride, padding, output_padding, dilation):
        return None
    single_voxel, outputs = x.shape[2:].numel() == 1, weight.shape[1]
    if max(stride) == 1 and not single_voxel:
        return "of a stride of 1 stock PyTorch is faster"
    if x.shape[1] < 16 and not single_voxel:
        return "of few input channels stock PyTorch is faster"
    if single_voxel and x.dim() != 5:
        return _FLAT
    contiguous = layout.format_of(x, weight) is torch.contiguous_format
    if groups > 1 and not _fast_in_groups(x.dtype, outputs, stride, contiguous):
        return "stock PyTorch is faster with these groups and strides"
    few = x.shape[0] < 16 or min(x.shape[1], outputs) < 64
    slow_when_contiguous = x.dtype != torch.bfloat16 or (single_voxel and few)
    if contiguous and slow_when_contiguous and (single_voxel or outputs > _FEW):
        return _CONTIGUOUS
    if single_voxel:
        return _SMALL if outputs > _FEW and x.shape[0] < 8 else None
    small_volume = x.shape[2:].numel() <= 64
    flat = x.dim() != 5 or (contiguous and min(stride) == 1)
    if outputs <= _FEW:
        if x.shape[0] * math.prod(weight.shape[2:]) < 64:  # few taps of few samples: V-Net's 2x2x2 took 3 times as long
            return _SMALL
        one_deep = x.shape[0] == 1 and x.shape[1] > 128 and (small_volume or x.dtype == torch.bfloat16)
        return _SMALL if one_deep else _FLAT if contiguous and flat else None
    if flat:
        return _FLAT
    if x.shape[0] < 8 or (outputs < 32 and (x.shape[0] < 16 or contiguous)):
        return _SMALL
    if contiguous and small_volume and x.shape[0] < 16:
        return _SMALL
    return None


def conv_down_slower(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> str | None:
    """Why auto leaves this convolution to stock PyTorch, or None."""
    if stock_faults.conv_down_fails(x, weight, stride, padding, dilation):
        return None
    outputs, inputs, *kernel = weight.shape
    if layout.format_of(x, weight) is torch.contiguous_format:
        return _CONTIGUOUS
    if max(stride) == 1 or math.prod(kernel) < 64 or x.dim() != 5:
        return "without a stride, or with few taps, stock PyTorch is faster"
    if x.shape[0] < 16 or outputs < (64 if x.dtype == torch.bfloat16 else 128):
        return _SMALL
    if inputs < 64 and not (1 < inputs <= 4 and x.dtype == torch.bfloat16):
        return "of few input channels stock PyTorch is faster"
    return None


def conv_weight_grad_slower(
    large: torch.Tensor,
    small: torch.Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> str | None:
    """Why auto leaves this weight gradient to stock PyTorch, or None."""
    if stock_faults.conv_weight_grad_fails(large, small, stride, padding):
        return None
    outputs, inputs = small.shape[1] // groups, large.shape[1] // groups
    if math.prod(kernel_size) == 1:
        return "of a kernel of 1 stock PyTorch is faster"
    if outputs < 32 or large.shape[0] < 16:
        return _SMALL
    if inputs < 32 and small.shape[2:].numel() == 1:
        return "of few channels and a single voxel stock PyTorch is faster"
    if layout.format_of(large, small) is torch.contiguous_format and not _fast_when_contiguous(large, small, inputs):
        return _CONTIGUOUS
    flat = large.dim() != 5 or (min(kernel_size) == 1 and outputs < 128)
    if large.dtype != torch.bfloat16 and (inputs < 32 or flat):
        return "in float32, of few channels or in fewer than three dimensions, stock PyTorch is faster"
    if inputs < 32 and large.dim() != 5:
        return "of few channels stock PyTorch is faster"
    return None


def _fast_in_groups(dtype: torch.dtype, outputs: int, stride: list[int], contiguous: bool) -> bool:
    """Whether a transposed convolution of several groups, with so many outputs each, is worth compiling.

    Of 1,000 cases with kernels of 3 and 4, 1 to 32 channels a group and 2 or 8 samples, the others took up to twice
    stock's time. In channels-last these take 0.3 to 0.8 times it; contiguous ones 0.15 to 0.9 times, and in float32 up
    to twice.
    """
    strided = sum(s > 1 for s in stride)
    if contiguous:
        return strided == 3 and 1 < outputs <= 4 and dtype == torch.bfloat16
    return strided > 1 and outputs > 1


def is_one_backward_faster(transposed: bool, x: torch.Tensor, outputs: int, groups: int) -> bool:
    """Whether one call of stock PyTorch for both gradients takes less time than one of its own and a compiled one.

    That is so in fewer than three dimensions: (16, 64, 8, 8) with kernel 3 in bfloat16, channels last, takes 1.44 ms
    forward and backward by stock on one thread and 1.70 with the weight's gradient in C++, which alone is the faster;
    at (8, 64, 32, 32) they are alike. It is so for grouped convolutions too, which took up to 2.2 times as long.
    """
    if not x.is_cpu or (transposed and outputs <= _FEW):
        return False
    return x.dim() != 5 or (groups > 1 and not transposed)


def _fast_when_contiguous(large, small, inputs) -> bool:
    many = small.shape[2:].numel() > 1 and inputs >= 64 and large.shape[0] >= 16
    return many and large.dtype == torch.bfloat16 and large.dim() == 5
