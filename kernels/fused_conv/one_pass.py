"""A convolution with what surrounds it in one pass, by an implementation of the convolutions that can."""

import torch

from ..conv.fusion import Fusion
from ..conv.protocol import ConvolutionsWithParts, FusedConvolutions


def fused_conv(functions: FusedConvolutions, x, weight, bias, geometry, norm, activation, slope, statistics):
    """(y, mean, var) by `functions`' conv_up_fused or conv_down_fused; mean and var None where not wanted."""
    fusion = _fusion(norm, activation, slope, statistics)
    up, down = functions.conv_up_fused, functions.conv_down_fused
    return _call(up, down, x, weight, bias, geometry, fusion)


def conv_with_parts(functions: ConvolutionsWithParts, x, weight, bias, geometry, norm, activation, slope):
    """(y, parts) by `functions`, which joins the parts of the statistics in a call of its own, joined_before_norm."""
    fusion = _fusion(norm, activation, slope, True)
    return _call(functions.conv_up_with_parts, functions.conv_down_with_parts, x, weight, bias, geometry, fusion)


def _call(up, down, x, weight, bias, g, fusion):
    if g.transposed:
        return up(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, fusion)
    return down(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, fusion)


def _fusion(norm, activation, slope, statistics):
    if norm is None:
        return Fusion(activation=activation, slope=slope, statistics=statistics)
    known = norm.scale, norm.shift
    if norm.scale is None:
        known = scale_and_shift(norm.mean, norm.var, norm.weight, norm.bias, norm.eps)
    return Fusion(*known, norm.activation, norm.slope, activation, slope, statistics)


def scale_and_shift(mean, var, weight, bias, eps):
    """What a batch norm multiplies and adds, (C,) float32 at least."""
    scale = torch.rsqrt(var.to(torch.promote_types(var.dtype, torch.float32)) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
