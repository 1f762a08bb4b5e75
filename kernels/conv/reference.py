"""The convolutions in plain PyTorch, on every device and dtype: the reference for the other implementations.

Where stock PyTorch computes wrong results (see stock/faults.py), it is called in float64, which other code serves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..weight_copies import to_dtype
from .protocol import Capabilities
from .stock import faults

CAPABILITIES = Capabilities()


def conv_down(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution (N, C_out, *S); arguments as protocol.Convolutions.conv_down."""
    if faults.conv_down_fails(x, weight, stride, padding, dilation):
        bias = None if bias is None else bias.double()
        return conv_down(x.double(), weight.double(), bias, stride, padding, dilation, groups).to(x.dtype)
    return torch.convolution(
        x, to_dtype(weight, x.dtype), bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


def conv_up(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Transposed convolution (N, C_out, *L); arguments as protocol.Convolutions.conv_up."""
    if faults.conv_up_fails(x, weight, stride, padding, output_padding, dilation):
        bias = None if bias is None else bias.double()
        y = conv_up(x.double(), weight.double(), bias, stride, padding, output_padding, dilation, groups)
        return y.to(x.dtype)
    return torch.convolution(
        x, to_dtype(weight, x.dtype), bias, stride, padding, dilation, True, output_padding, groups
    )


def conv_weight_grad(
    large: Tensor,
    small: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_float32: bool = False,
) -> Tensor:
    """Weight gradient (C_small, C_large / groups, *kernel_size); arguments as in protocol.Convolutions."""
    if in_float32 and large.dtype != torch.float32:
        grad = conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups)
        return grad.float()
    if faults.conv_weight_grad_fails(large, small, stride, padding):
        exact = conv_weight_grad(large.double(), small.double(), kernel_size, stride, padding, dilation, groups)
        return exact.to(large.dtype)
    # convolution_backward expects a gradient of the size that the convolution of `large` has. That is more than the
    # size of `small` where an output_padding of a stride or more made `large`; padding with zeros changes no sum.
    missing = []
    for axis in range(len(kernel_size) - 1, -1, -1):
        reach = dilation[axis] * (kernel_size[axis] - 1) + 1
        size = (large.shape[axis + 2] + 2 * padding[axis] - reach) // stride[axis] + 1
        missing += [0, size - small.shape[axis + 2]]
    if any(missing):
        small = functional.pad(small, missing)
    weight = large.new_empty((small.shape[1], large.shape[1] // groups, *kernel_size))
    none = [0] * len(stride)
    _, grad, _ = torch.ops.aten.convolution_backward(
        small, large, weight, None, stride, padding, dilation, False, none, groups, [False, True, False]
    )
    return grad
