"""Where stock PyTorch was measured to be faster than the compiled convolutions, so that auto takes it there.

bench/test_conv.py measures both; the rules are for two cores with AVX-512 and bfloat16, and lean to stock where the two
are within a few per cent. What the compiled ones are for: strided and transposed convolutions on batches, channels
last, with kernels larger than 1; few channels of a transposed one's output; weight gradients.
"""

import math

import torch

from .. import layout

_CONTIGUOUS = "of contiguous tensors stock PyTorch is faster"
_SMALL = "of a problem as small stock PyTorch is faster"


def conv_up_slower(x: torch.Tensor, weight: torch.Tensor, stride: list[int]) -> str | None:
    """Why auto leaves this transposed convolution to stock PyTorch, or None."""
    single_voxel, outputs = x.shape[2:].numel() == 1, weight.shape[1]
    if max(stride) == 1 and not single_voxel:
        return "of a stride of 1 stock PyTorch is faster"
    if x.shape[1] < 16 and not single_voxel:
        return "of few input channels stock PyTorch is faster"
    if outputs <= 8:
        return None
    if x.shape[0] < 8:
        return _SMALL
    if layout.format_of(x, weight) is torch.contiguous_format and (single_voxel or x.dtype != torch.bfloat16):
        return _CONTIGUOUS
    return None


def conv_down_slower(x: torch.Tensor, weight: torch.Tensor, stride: list[int]) -> str | None:
    """Why auto leaves this convolution to stock PyTorch, or None."""
    outputs, inputs, *kernel = weight.shape
    if layout.format_of(x, weight) is torch.contiguous_format:
        return _CONTIGUOUS
    if max(stride) == 1 or math.prod(kernel) < 64 or x.dim() != 5:
        return "without a stride, or with few taps, stock PyTorch is faster"
    if x.shape[0] < 16 or outputs < 64:
        return _SMALL
    if inputs < 64 and not (1 < inputs <= 4 and x.dtype == torch.bfloat16):
        return "of few input channels stock PyTorch is faster"
    return None


def conv_weight_grad_slower(
    large: torch.Tensor, small: torch.Tensor, kernel_size: list[int], groups: int
) -> str | None:
    """Why auto leaves this weight gradient to stock PyTorch, or None."""
    outputs, inputs = small.shape[1] // groups, large.shape[1] // groups
    if math.prod(kernel_size) == 1:
        return "of a kernel of 1 stock PyTorch is faster"
    if large.shape[0] < 4 or outputs < 32 or (inputs < 32 and large.shape[0] < 16):
        return _SMALL
    if layout.format_of(large, small) is torch.contiguous_format and not _fast_when_contiguous(large, small, inputs):
        return _CONTIGUOUS
    if inputs < 32 and (large.dim() != 5 or (large.dtype != torch.bfloat16 and inputs > 8)):
        return "of few channels stock PyTorch is faster"
    return None


def _fast_when_contiguous(large, small, inputs) -> bool:
    many = small.shape[2:].numel() > 1 and inputs >= 64 and large.shape[0] >= 16
    return many and large.dtype == torch.bfloat16 and large.dim() == 5
