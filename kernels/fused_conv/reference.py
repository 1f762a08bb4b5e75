"""A convolution with what surrounds it out of the operations that there are: the definition of right."""

import torch

from ..conv import _conv_down, _conv_up
from ..norm_act import norm_act_with
from ..norm_act.reference import activate_, statistics_dtype


def fused_conv(x, weight, bias, geometry, norm, activation, slope, statistics, impl):
    """(y, mean, var); arguments as the operation's, and mean and var None where no statistics are wanted."""
    if norm is not None:
        x = norm_act_with(x, norm, impl)
    g = geometry
    if g.transposed:
        y = _conv_up(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, impl)
    else:
        y = _conv_down(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, impl)
    mean = var = None
    if statistics:
        space = [0, *range(2, y.dim())]
        var, mean = torch.var_mean(y.detach().to(statistics_dtype(y)), space, correction=0)
    return activate_(y, activation, slope), mean, var
