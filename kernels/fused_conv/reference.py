"""fused_conv by separate operations: the reference for the implementations in one pass."""

import torch
from torch import Tensor

from ..activations import activate_
from ..conv import conv_down_op, conv_up_op
from ..conv.geometry import Geometry
from ..dtypes import statistics_dtype
from ..norm_act import norm_act_with
from ..norm_act.protocol import Norm
from .arguments import Epilogue


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    norm: Norm | None,
    epilogue: Epilogue,
    impl: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute fused_conv.

    Args:
        x: (N, C_in, *space).
        weight: as for conv_up if transposed, else as for conv_down.
        bias: (C_out,) or None.
        geometry: of the convolution.
        norm: of x, or None.
        epilogue: the work on the output.
        impl: of the convolution and the norm.

    Returns:
        y (N, C_out, *space); mean and var, (C_out,), or None and None without statistics.
    """
    if norm is not None:
        x = norm_act_with(x, norm, impl)
    g = geometry
    if g.transposed:
        y = conv_up_op(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, impl)
    else:
        y = conv_down_op(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, impl)
    mean = var = None
    if epilogue.statistics:
        space = [0, *range(2, y.dim())]
        var, mean = torch.var_mean(y.detach().to(statistics_dtype(y)), space, correction=0)
    return activate_(y, epilogue.activation, epilogue.slope), mean, var
