"""A convolution with what surrounds it in one pass of C++ (csrc/cpu)."""

import torch

from ..conv.compiled import Fusion, conv_down_fused, conv_up_fused


def fused_conv(x, weight, bias, geometry, norm, activation, slope, statistics, impl):
    """(y, mean, var); arguments as the operation's, and mean and var None where no statistics are wanted."""
    scale, shift = (None, None) if norm is None else _scale_and_shift(norm)
    into = ("none", 0.0) if norm is None else (norm.activation, norm.slope)
    fusion = Fusion(scale, shift, *into, activation, slope, statistics)
    g = geometry
    if g.transposed:
        return conv_up_fused(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, fusion)
    return conv_down_fused(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, fusion)


def _scale_and_shift(norm):
    scale = torch.rsqrt(norm.var.float() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
