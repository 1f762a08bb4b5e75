"""A convolution with what surrounds it: the norm and activation before it, its own activation, its output's statistics.

Between two convolutions an activation is then written once and read once: the first one leaves its raw output and the
statistics of that, the second normalises and activates what it loads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import choice
from ..conv import _conv_down, _conv_up, _conv_weight_grad, check_down, check_up, sizes
from ..conv import reference as conv_reference
from ..conv.joint import both_gradients
from ..dispatch import autocasts, define, differentiable
from ..layout import empty, format_of, in_format
from ..norm_act import _norm_act, _norm_act_backward
from ..norm_act.reference import ACTIVATIONS, statistics_dtype
from . import one_pass, reference


class Geometry(NamedTuple):
    """Of a convolution, or of a transposed one, with one integer for each spatial dimension."""

    transposed: bool
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1


class Norm(NamedTuple):
    """Batch normalisation and an activation, to be computed on load.

    mean, var: (C,) float32; weight, bias: (C,) or None. training: whether mean and var are the batch's own, through
    which gradients then go. activation, slope: as norm_act's.
    """

    mean: torch.Tensor
    var: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    training: bool
    eps: float
    activation: str
    slope: float


_NO_NORM = (None, None, None, None, False, 0.0, "none", 0.0)


def fused_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    norm: Norm | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
    statistics: bool = False,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """activation(conv(norm(x)) + bias), and the mean and biased variance of each channel before that activation.

    Args:
        x, weight, bias: as for conv_down, or for conv_up where the geometry is transposed.
        geometry: which convolution.
        norm: of x, computed as it is loaded; None for x as it is.
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: of leaky_relu, at least 0.
        statistics: whether they are wanted. They are for a norm that follows, and take no gradient of their own: that
            norm's gradient goes through them (`Norm.training`).
        impl: "auto" or an implementation's name, which the convolution is asked for.

    Returns:
        y of x's dtype, channels-last where x or weight is; mean and var (C_out,) float32, or None and None.

    Raises:
        ValueError: sizes that do not fit, an unknown activation, a negative slope, a norm that does not fit x.
        TypeError: dtypes that are not floating-point or differ.
    """
    g = geometry
    if g.transposed:
        lists = check_up(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, impl)
    else:
        stride, padding, dilation = check_down(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, impl)
        lists = stride, padding, [0] * len(stride), dilation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if activation == "leaky_relu" and negative_slope < 0:
        raise ValueError(
            f"negative_slope must be at least 0 for the gradient to be told by the output: {negative_slope}"
        )
    if norm is not None and any(v is not None and v.shape != (x.shape[1],) for v in norm[:4]):
        raise ValueError(f"the norm's vectors must be of shape ({x.shape[1]},)")
    y, mean, var = _fused_conv(
        *(x, *(norm or _NO_NORM)[:4], weight, bias, *(norm or _NO_NORM)[4:], activation, negative_slope, statistics),
        *(g.transposed, *lists, g.groups, impl),
    )
    return (y, mean, var) if statistics else (y, None, None)


def pays(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, impl: str) -> bool:
    """Whether the convolution is one that is compiled for this device, so that something is gained by fusing."""
    return _convolution(x, weight, geometry, impl) is not conv_reference


def _convolution(x, weight, geometry, impl):
    if geometry.transposed:
        return choice.pick("conv_up", impl, x, weight, *geometry[1:])
    _, stride, padding, _, dilation, groups = geometry
    return choice.pick("conv_down", impl, x, weight, stride, padding, dilation, groups)


# The arguments of the operation, in order: see `define` below.
def _kernel(x, m, v, w, b, weight, bias, training, eps, in_act, in_slope, act, slope, statistics, *rest):
    geometry, impl = Geometry(*rest[:-1]), rest[-1]
    norm = None if m is None else Norm(m, v, w, b, training, eps, in_act, in_slope)
    convolution = _convolution(x, weight, geometry, impl)
    if convolution is conv_reference:
        y, mean, var = reference.fused_conv(x, weight, bias, geometry, norm, act, slope, statistics, impl)
    else:
        y, mean, var = one_pass.fused_conv(convolution, x, weight, bias, geometry, norm, act, slope, statistics)
    none = x.new_empty(0, dtype=statistics_dtype(x))
    y = in_format(y, format_of(x, weight))
    return (y, mean, var) if statistics else (y, none, none.clone())


def _fake(x, m, v, w, b, weight, bias, training, eps, in_act, in_slope, act, slope, statistics, *rest):
    g = Geometry(*rest[:-1])
    channels, before = weight.shape[1] * g.groups if g.transposed else weight.shape[0], (x.shape[2:], weight.shape[2:])
    if g.transposed:
        size = sizes.large(*before, g.stride, g.padding, g.output_padding, g.dilation)
    else:
        size = sizes.small(*before, g.stride, g.padding, g.dilation)
    y = empty((x.shape[0], channels, *size), x, format_of(x, weight))
    count, dtype = channels if statistics else 0, statistics_dtype(x)
    return y, x.new_empty(count, dtype=dtype), x.new_empty(count, dtype=dtype)


_fused_conv = define(
    "fused_conv(Tensor x, Tensor? in_mean, Tensor? in_var, Tensor? in_weight, Tensor? in_bias, Tensor weight, "
    "Tensor? bias, bool in_training, float in_eps, str in_activation, float in_slope, str activation, float slope, "
    "bool statistics, bool transposed, SymInt[] stride, SymInt[] padding, SymInt[] output_padding, "
    "SymInt[] dilation, SymInt groups, str impl) -> (Tensor y, Tensor mean, Tensor var)",
    _kernel,
    _fake,
)


def _save(ctx, args, outputs):
    x, m, v, w, b, weight, bias, *ctx.rest = args
    ctx.mark_non_differentiable(outputs[1], outputs[2])
    ctx.save_for_backward(x, m, v, w, b, weight, outputs[0] if ctx.rest[4] != "none" else None)


def _backward(ctx, dy, _mean, _var):
    x, m, v, w, b, weight, y = ctx.saved_tensors
    training, eps, in_act, in_slope, act, slope, _, *rest = ctx.rest
    geometry, impl = Geometry(*rest[:-1]), rest[-1]
    wants_x, _, _, wants_w, wants_b, wants_weight, wants_bias = ctx.needs_input_grad[:7]
    dy = _before_activation(dy, y, act, slope)
    dx = dw = db = dweight = None
    if wants_weight:
        loaded = x
        if m is not None:  # not kept: to compute it again costs less than to hold it
            loaded = _norm_act(x, w, b, m, v, training, eps, in_act, in_slope, impl)[0]
        if wants_x or wants_w or wants_b:
            dx, dweight = _both_gradients(loaded, dy, weight, geometry, impl)
        else:
            dweight = _weight_gradient(loaded, dy, weight, geometry, impl)
    if wants_x or wants_w or wants_b:
        if dx is None:
            dx = _data_gradient(dy, weight, x, geometry, impl)
        if m is not None:
            dx, dw, db = _norm_act_backward(dx, x, w, b, m, v, training, eps, in_act, in_slope, impl)
    dbias = dy.sum([0, *range(2, dy.dim())]) if wants_bias else None
    grads = dx if wants_x else None, None, None, dw if wants_w else None, db if wants_b else None, dweight, dbias
    return *grads, *[None] * len(ctx.rest)


def _before_activation(dy, y, activation, slope):
    """The gradient before the activation, from that after it and the output."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(dy, y, 0)
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(dy, y, slope, True)
    return torch.ops.aten.tanh_backward(dy, y) if activation == "tanh" else dy


def _both_gradients(x, dy, weight, g, impl):
    extra = g.output_padding
    if not g.transposed:
        extra = sizes.extra(x.shape[2:], dy.shape[2:], weight.shape[2:], g.stride, g.padding, g.dilation)
    both = both_gradients(g.transposed, dy, x, weight, g.stride, g.padding, extra, g.dilation, g.groups, impl)
    return both or (_data_gradient(dy, weight, x, g, impl), _weight_gradient(x, dy, weight, g, impl))


def _weight_gradient(x, dy, weight, g, impl):
    large, small = (dy, x) if g.transposed else (x, dy)
    in_float32 = weight.dtype != x.dtype
    kernel = list(weight.shape[2:])
    return _conv_weight_grad(large, small, kernel, g.stride, g.padding, g.dilation, g.groups, in_float32, impl)


def _data_gradient(dy, weight, x, g, impl):
    size, geometry = x.shape[2:], (g.stride, g.padding, g.dilation)
    if g.transposed:
        dx = _conv_down(dy, weight, None, *geometry, g.groups, impl)
        return sizes.trim(dx, size)
    extra = sizes.extra(size, dy.shape[2:], weight.shape[2:], *geometry)
    return _conv_up(dy, weight, None, g.stride, g.padding, extra, g.dilation, g.groups, impl)


differentiable(_fused_conv, _save, _backward)
autocasts(_fused_conv, (0, 5, 6), float32_stays=(5,))
