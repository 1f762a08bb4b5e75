"""The three convolutions in plain PyTorch: the definition of right, on every device and dtype.

What stock PyTorch cannot be trusted with (see stock_faults.py) is computed in float64, by its other code.
"""

import torch
from torch.nn import functional

from ..weight_copies import to_dtype
from . import stock_faults
from .protocol import Capabilities

CAPABILITIES = Capabilities()


def conv_down(x, weight, bias, stride, padding, dilation, groups):
    """Convolution; arguments as fastvgan_kernels.conv_down, with one integer a spatial dimension."""
    if stock_faults.conv_down_fails(x, weight, stride, padding, dilation):
        exact = (None if t is None else t.double() for t in (x, weight, bias))
        return conv_down(*exact, stride, padding, dilation, groups).to(x.dtype)
    return torch.convolution(
        x, to_dtype(weight, x.dtype), bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


def conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Transposed convolution; arguments as fastvgan_kernels.conv_up, with one integer a spatial dimension."""
    if stock_faults.conv_up_fails(x, weight, stride, padding, output_padding, dilation):
        exact = (None if t is None else t.double() for t in (x, weight, bias))
        return conv_up(*exact, stride, padding, output_padding, dilation, groups).to(x.dtype)
    return torch.convolution(
        x, to_dtype(weight, x.dtype), bias, stride, padding, dilation, True, output_padding, groups
    )


def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups, in_float32=False):
    """Weight gradient; arguments as fastvgan_kernels.conv_weight_grad, with one integer a spatial dimension."""
    if in_float32 and large.dtype != torch.float32:
        grad = conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups)
        return grad.float()
    if stock_faults.conv_weight_grad_fails(large, small, stride, padding):
        exact = conv_weight_grad(large.double(), small.double(), kernel_size, stride, padding, dilation, groups)
        return exact.to(large.dtype)
    # convolution_backward wants a gradient of the size that the convolution of `large` has, which exceeds that of
    # `small` when an output_padding of a stride or more made `large`; zeros there change nothing.
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
