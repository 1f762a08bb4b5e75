"""The convolutions in C++ (csrc/cpu): the schemas, and the functions that call them.

Tensors are (N, C, 1 to 3 sizes), float32, bfloat16 or float16, and weights of that dtype or float32; sums are kept in
float32. Channels lie side by side in memory there, so a contiguous tensor is rearranged first.
"""

import torch

from .. import layout
from ..activations import CODES
from ..compiled_support import as_float32, cpu_refusal, empty
from ..layout import with_channels_innermost
from . import sizes
from .fusion import Fusion
from .protocol import Capabilities

CAPABILITIES = Capabilities(fusion=True)  # its convolutions give finished statistics, and no parts of them

refusal = cpu_refusal

_GATHER = (
    "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, Tensor? scale, "
    "Tensor? shift, int in_activation, float in_slope, int activation, float slope, Tensor(a!) y, Tensor(b!)? mean, "
    "Tensor(c!)? var"
)
_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(f"conv_up({_GATHER}) -> ()")
_library.define(f"conv_down({_GATHER}) -> ()")
_library.define(
    "conv_weight_grad(Tensor large, Tensor small, int[] stride, int[] padding, int[] dilation, int groups, "
    "Tensor(a!) grad) -> ()"
)


def conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Transposed convolution; arguments as fastvgan_kernels.conv_up, with one integer a spatial dimension."""
    return conv_up_fused(x, weight, bias, stride, padding, output_padding, dilation, groups, Fusion())[0]


def conv_down(x, weight, bias, stride, padding, dilation, groups):
    """Convolution; arguments as fastvgan_kernels.conv_down, with one integer a spatial dimension."""
    return conv_down_fused(x, weight, bias, stride, padding, dilation, groups, Fusion())[0]


def conv_up_fused(x, weight, bias, stride, padding, output_padding, dilation, groups, fusion):
    """conv_up and what `fusion` says.

    Returns:
        y; the mean and the biased variance, (C_out,) float32 (NaN of an empty batch), or None and None.
    """
    size = sizes.large(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    shape = (x.shape[0], weight.shape[1] * groups, *size)
    return _gather(
        torch.ops.fastvgan_compiled.conv_up, x, weight, bias, stride, padding, dilation, groups, fusion, empty(x, shape)
    )


def conv_up_to(y, x, weight, stride, padding, dilation, groups):
    """conv_up into y: of the result's shape and dtype, with its channels innermost; other strides are free."""
    _gather(torch.ops.fastvgan_compiled.conv_up, x, weight, None, stride, padding, dilation, groups, Fusion(), y)


def conv_down_fused(x, weight, bias, stride, padding, dilation, groups, fusion):
    """conv_down and what `fusion` says; returns as conv_up_fused."""
    size = sizes.small(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    shape = (x.shape[0], weight.shape[0], *size)
    return _gather(
        torch.ops.fastvgan_compiled.conv_down,
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        fusion,
        empty(x, shape),
    )


def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups, in_float32=False):
    """Weight gradient; arguments as fastvgan_kernels.conv_weight_grad, with one integer a spatial dimension."""
    shape = (small.shape[1], large.shape[1] // groups, *kernel_size)
    dtype = torch.float32 if in_float32 else large.dtype
    grad = layout.empty(shape, large, layout.format_of(large, small), dtype)
    torch.ops.fastvgan_compiled.conv_weight_grad(
        with_channels_innermost(large), with_channels_innermost(small), stride, padding, dilation, groups, grad
    )
    return grad


def _gather(operation, x, weight, bias, stride, padding, dilation, groups, fusion, y):
    bias, scale, shift = map(as_float32, (bias, fusion.scale, fusion.shift))
    mean = var = None
    if fusion.statistics:
        mean, var = (x.new_empty(y.shape[1], dtype=torch.float32) for _ in range(2))
    operation(
        *(with_channels_innermost(x), weight, bias, stride, padding, dilation, groups, scale, shift),
        *(CODES[fusion.in_activation], fusion.in_slope),
        *(CODES[fusion.activation], fusion.slope, y, mean, var),
    )
    return y, mean, var
