"""A convolution with what surrounds it in one pass, by an implementation of the convolutions that can."""

import torch

from ..conv.compiled import Fusion


def fused_conv(functions, x, weight, bias, geometry, norm, activation, slope, statistics):
    """(y, mean, var) by `functions`' conv_up_fused or conv_down_fused; mean and var None where not wanted."""
    scale, shift = (None, None) if norm is None else _scale_and_shift(norm)
    into = ("none", 0.0) if norm is None else (norm.activation, norm.slope)
    fusion = Fusion(scale, shift, *into, activation, slope, statistics)
    g = geometry
    if g.transposed:
        lists = g.stride, g.padding, g.output_padding, g.dilation
        return functions.conv_up_fused(x, weight, bias, *lists, g.groups, fusion)
    return functions.conv_down_fused(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, fusion)


def _scale_and_shift(norm):
    scale = torch.rsqrt(norm.var.float() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
