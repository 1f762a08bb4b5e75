"""A convolution with what surrounds it out of the operations that there are: the definition of right."""

import torch

from ..activations import activate_
from ..conv import conv_down_op, conv_up_op
from ..dtypes import statistics_dtype
from ..norm_act import norm_act_with


def fused_conv(x, weight, bias, geometry, norm, activation, slope, statistics, impl):
    """(y, mean, var); arguments as the operation's, and mean and var None where no statistics are wanted."""
    if norm is not None:
        x = norm_act_with(x, norm, impl)
    g = geometry
    if g.transposed:
        y = conv_up_op(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, impl)
    else:
        y = conv_down_op(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, impl)
    mean = var = None
    if statistics:
        space = [0, *range(2, y.dim())]
        var, mean = torch.var_mean(y.detach().to(statistics_dtype(y)), space, correction=0)
    return activate_(y, activation, slope), mean, var
