"""Why auto leaves a convolution on the CPU to stock PyTorch: rules from measurements.

bench/test_conv.py measures both. The rules hold for two cores with AVX-512 and bfloat16, with AMX or without, and take
stock PyTorch where the two are within a few per cent. The compiled convolutions are for strided and transposed
convolutions on batches, channels last, with kernels larger than 1; for transposed convolutions with few output
channels; for weight gradients; and for everything that stock PyTorch computes wrong (faults.py).

The choice depends on shapes, strides and dtypes alone: a choice by timing would differ between runs, and with it the
last bits of results.
"""

import math

import torch

from ... import layout
from . import faults

_CONTIGUOUS = "stock PyTorch is faster on contiguous tensors"
_FLAT = "stock PyTorch is faster on contiguous tensors and in fewer than three strided dimensions"
_FEW = 8  # output channels of a transposed convolution
_SMALL = "stock PyTorch is faster on problems this small"


def conv_up_slower(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> str | None:
    """Return why auto leaves this transposed convolution of x (N, C_in, *S) to stock PyTorch, or None."""
    if faults.conv_up_fails(x, weight, stride, padding, output_padding, dilation):
        return None
    single_voxel, outputs = x.shape[2:].numel() == 1, weight.shape[1]
    if max(stride) == 1 and not single_voxel:
        return "stock PyTorch is faster with a stride of 1"
    if x.shape[1] < 16 and not single_voxel:
        return "stock PyTorch is faster with few input channels"
    if single_voxel and x.dim() != 5:
        return _FLAT
    contiguous = layout.format_of(x, weight) is torch.contiguous_format
    if groups > 1 and not _is_fast_in_groups(x.dtype, outputs, stride, contiguous):
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
        if x.shape[0] * math.prod(weight.shape[2:]) < 64:  # few taps and samples: V-Net's 2x2x2 took 3 times as long
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
    """Return why auto leaves this convolution of x (N, C_in, *L) to stock PyTorch, or None."""
    if faults.conv_down_fails(x, weight, stride, padding, dilation):
        return None
    outputs, inputs, *kernel = weight.shape
    if layout.format_of(x, weight) is torch.contiguous_format:
        return _CONTIGUOUS
    if max(stride) == 1 or math.prod(kernel) < 64 or x.dim() != 5:
        return "stock PyTorch is faster without a stride or with few taps"
    if x.shape[0] < 16 or outputs < (64 if x.dtype == torch.bfloat16 else 128):
        return _SMALL
    if inputs < 64 and not (1 < inputs <= 4 and x.dtype == torch.bfloat16):
        return "stock PyTorch is faster with few input channels"
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
    """Return why auto leaves this weight gradient of large (N, C_large, *L) to stock PyTorch, or None."""
    if faults.conv_weight_grad_fails(large, small, stride, padding):
        return None
    outputs, inputs = small.shape[1] // groups, large.shape[1] // groups
    if math.prod(kernel_size) == 1:
        return "stock PyTorch is faster with a kernel of 1"
    if outputs < 32 or large.shape[0] < 16:
        return _SMALL
    if inputs < 32 and small.shape[2:].numel() == 1:
        return "stock PyTorch is faster with few channels and a single voxel"
    if layout.format_of(large, small) is torch.contiguous_format and not _is_fast_when_contiguous(large, small, inputs):
        return _CONTIGUOUS
    flat = large.dim() != 5 or (min(kernel_size) == 1 and outputs < 128)
    if large.dtype != torch.bfloat16 and (inputs < 32 or flat):
        return "stock PyTorch is faster in float32 with few channels or in fewer than three dimensions"
    if inputs < 32 and large.dim() != 5:
        return "stock PyTorch is faster with few channels"
    return None


def _is_fast_in_groups(dtype: torch.dtype, outputs: int, stride: list[int], contiguous: bool) -> bool:
    """Whether the compiled transposed convolution is faster in several groups of `outputs` output channels.

    Measured on 1,000 cases with kernels of 3 and 4, 1 to 32 channels per group and 2 or 8 samples. The cases accepted
    here take 0.3 to 0.8 times stock PyTorch's time in channels-last and 0.15 to 0.9 times contiguous; the rejected
    ones take up to twice its time, contiguous float32 included.
    """
    strided = sum(s > 1 for s in stride)
    if contiguous:
        return strided == 3 and 1 < outputs <= 4 and dtype == torch.bfloat16
    return strided > 1 and outputs > 1


def is_one_backward_faster(transposed: bool, x: torch.Tensor, outputs: int, groups: int) -> bool:
    """Whether stock PyTorch's one call for both gradients beats its data gradient plus the compiled weight gradient.

    It does in fewer than three dimensions: (16, 64, 8, 8) with kernel 3 in bfloat16, channels last, takes 1.44 ms
    forward and backward by stock on one thread and 1.70 ms with the weight gradient in C++, although that is faster
    alone; at (8, 64, 32, 32) both take the same. It does for grouped convolutions too, where two calls took up to 2.2
    times as long.

    Args:
        transposed: whether the convolution is conv_up.
        x: (N, C_in, *space), its input.
        outputs: output channels per group.
        groups: of the convolution.
    """
    if not x.is_cpu or (transposed and outputs <= _FEW):
        return False
    return x.dim() != 5 or (groups > 1 and not transposed)


def _is_fast_when_contiguous(large: torch.Tensor, small: torch.Tensor, inputs: int) -> bool:
    many = small.shape[2:].numel() > 1 and inputs >= 64 and large.shape[0] >= 16
    return many and large.dtype == torch.bfloat16 and large.dim() == 5
