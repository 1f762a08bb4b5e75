"""A convolution with its norm on load, activation and statistics in one pass, by an implementation that can."""

import torch
from torch import Tensor

from ..conv.fusion import Fusion
from ..conv.geometry import Geometry
from ..conv.protocol import ConvolutionsWithParts, FusedConvolutions, Partials
from ..dtypes import statistics_dtype
from ..norm_act.protocol import Norm
from .arguments import Epilogue


def convolve(
    functions: FusedConvolutions,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    norm: Norm | None,
    epilogue: Epilogue,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute fused_conv by the implementation `functions`.

    Args:
        functions: the implementation.
        x: (N, C_in, *space).
        weight: as for conv_up if transposed, else as for conv_down.
        bias: (C_out,) or None.
        geometry: of the convolution.
        norm: of x, or None.
        epilogue: the work on the output.

    Returns:
        y (N, C_out, *space); mean and var, (C_out,) float32, or None and None without statistics.
    """
    return functions.conv_fused(x, weight, bias, geometry, _fusion(norm, epilogue))


def convolve_with_parts(
    functions: ConvolutionsWithParts,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    norm: Norm | None,
    epilogue: Epilogue,
) -> tuple[Tensor, Partials | None]:
    """Compute fused_conv as `convolve`, but with partial statistics, which `merge_before_norm` of `functions` merges.

    Returns:
        y (N, C_out, *space) and the partial statistics.
    """
    return functions.conv_with_parts(x, weight, bias, geometry, _fusion(norm, epilogue))


def _fusion(norm: Norm | None, epilogue: Epilogue) -> Fusion:
    if norm is None:
        return Fusion(activation=epilogue.activation, slope=epilogue.slope, statistics=epilogue.statistics)
    scale, shift = norm.scale, norm.shift
    if scale is None:
        scale, shift = scale_and_shift(*norm.statistics, norm.weight, norm.bias, norm.eps)
    return Fusion(scale, shift, norm.activation, norm.slope, *epilogue)


def scale_and_shift(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of a batch norm, (C,) and at least float32: it computes x · scale + shift.

    Args:
        mean: (C,).
        var: (C,), biased.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: added to var.
    """
    scale = torch.rsqrt(var.to(statistics_dtype(var)) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
