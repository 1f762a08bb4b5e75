"""The three convolutions in plain PyTorch: the definition of right, on every device and dtype."""

import torch
from torch.nn import functional


def conv_down(x, weight, bias, stride, padding, dilation, groups):
    """Convolution; arguments as fastvgan_kernels.conv_down, with one integer a spatial dimension."""
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Transposed convolution; arguments as fastvgan_kernels.conv_up, with one integer a spatial dimension."""
    return torch.convolution(x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups):
    """Weight gradient; arguments as fastvgan_kernels.conv_weight_grad, with one integer a spatial dimension."""
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
