"""A convolution with what surrounds it: the norm and activation before it, its own activation, its output's statistics.

Between two convolutions an activation is then written once and read once: the first one leaves its raw output and the
statistics of that, the second normalises and activates what it loads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import choice
from ..activations import CONV_ACTIVATIONS
from ..conv import check_down, check_up, conv_down_op, conv_up_op, conv_weight_grad_op, sizes
from ..conv.joint import both_gradients
from ..conv.protocol import Convolutions
from ..dispatch import autocasts, define, differentiable
from ..dtypes import statistics_dtype
from ..layout import empty, format_of, in_format
from ..measured.capture import are_launches_captured
from ..norm_act import norm_act_backward_op, norm_act_op
from ..norm_act.following import Following
from ..norm_act.protocol import Norm
from . import one_pass, reference


class Geometry(NamedTuple):
    """Of a convolution, or of a transposed one, with one integer for each spatial dimension."""

    transposed: bool
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1


_NO_NORM = Norm(None, None, None, None, False, 0.0, "none", 0.0)


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
        activation: "none", "relu", "leaky_relu" or "tanh", and the norm's likewise: of norm_act's activations those
            that a convolution computes along with it.
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
    y, mean, var, _, _ = _run(x, weight, bias, geometry, norm, activation, negative_slope, statistics, None, impl)
    return (y, mean, var) if statistics else (y, None, None)


def conv_before_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    norm: Norm | None,
    following: Following,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """fused_conv with statistics, which also does what a batch norm that follows in training does with them.

    Args:
        x, weight, bias, geometry, norm, impl: as fused_conv's.
        following: the norm of the output. Its running statistics are updated in place, unless the output has fewer
            than two values per channel.

    Returns:
        y, mean and var as fused_conv gives them, and `scale` and `shift` for the `Norm` of what is next.

    Raises:
        ValueError, TypeError: as fused_conv.
    """
    return _run(x, weight, bias, geometry, norm, "none", 0.0, True, following, impl)


def _run(x, weight, bias, geometry, norm, activation, slope, statistics, following, impl):
    """The operation, after its arguments are checked."""
    g, norm, f = geometry, norm or _NO_NORM, following or Following(None, None, 0.0)
    if g.transposed:
        lists = check_up(x, weight, bias, g.stride, g.padding, g.output_padding, g.dilation, g.groups, impl)
    else:
        stride, padding, dilation = check_down(x, weight, bias, g.stride, g.padding, g.dilation, g.groups, impl)
        lists = stride, padding, [0] * len(stride), dilation
    for which, name in (("activation", activation), ("the norm's activation", norm.activation)):
        if name not in CONV_ACTIVATIONS:
            raise ValueError(f"{which} must be one of {', '.join(CONV_ACTIVATIONS)}, not {name!r}")
    if activation == "leaky_relu" and slope < 0:
        raise ValueError(f"negative_slope must be at least 0 for backward to work from the output, not {slope}")
    if any(v is not None and v.shape != (x.shape[1],) for v in (*norm[:4], norm.scale, norm.shift)):
        raise ValueError(f"the norm's vectors must be of shape ({x.shape[1]},)")
    return _fused_conv(
        *(x, *norm[:4], norm.scale, norm.shift, weight, bias),
        *(f.weight, f.bias, f.running_mean, f.running_var, f.batches),
        *(*norm[4:8], activation, slope, statistics, following is not None, f.eps, f.momentum),
        *(g.transposed, *lists, g.groups, impl),
    )


def pays(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, impl: str) -> bool:
    """Whether the convolution is one that is compiled for this device, so that something is gained by fusing."""
    if impl != "auto" or type(x) is not torch.Tensor or not choice.is_undirected() or torch.jit.is_tracing():
        return _convolution(x, weight, geometry, impl).CAPABILITIES.fusion
    tensors = x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.stride()
    key = "pays", *tensors, geometry, are_launches_captured()
    known = choice.decisions.get(key)
    if known is None:
        known = choice.remember(key, _convolution(x, weight, geometry, impl).CAPABILITIES.fusion)
    return known


def _convolution(x, weight, geometry, impl) -> Convolutions:
    if geometry.transposed:
        return choice.pick("conv_up", impl, x, weight, *geometry[1:])
    _, stride, padding, _, dilation, groups = geometry
    return choice.pick("conv_down", impl, x, weight, stride, padding, dilation, groups)


class Arguments(NamedTuple):
    """The operation's arguments, in the order of its schema."""

    x: torch.Tensor
    in_mean: torch.Tensor | None
    in_var: torch.Tensor | None
    in_weight: torch.Tensor | None
    in_bias: torch.Tensor | None
    in_scale: torch.Tensor | None
    in_shift: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor | None
    out_weight: torch.Tensor | None
    out_bias: torch.Tensor | None
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    batches: torch.Tensor | None
    in_training: bool
    in_eps: float
    in_activation: str
    in_slope: float
    activation: str
    slope: float
    statistics: bool
    followed: bool
    out_eps: float
    momentum: float
    transposed: bool
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    impl: str

    @property
    def geometry(self) -> Geometry:
        return Geometry(*self[-7:-1])

    @property
    def norm(self) -> Norm | None:
        return None if self.in_mean is None else Norm(*self[1:5], *self[14:18], self.in_scale, self.in_shift)

    @property
    def following(self) -> Following | None:
        if not self.followed:
            return None
        running = self.running_mean, self.running_var, self.batches
        return Following(self.out_weight, self.out_bias, self.out_eps, *running, self.momentum)


def _kernel(*args):
    a = Arguments(*args)
    x, weight, geometry, norm = a.x, a.weight, a.geometry, a.norm
    convolution = _convolution(x, weight, geometry, a.impl)
    how = geometry, norm, a.activation, a.slope
    known = None, None
    can = convolution.CAPABILITIES
    if not can.fusion:
        y, mean, var = reference.fused_conv(x, weight, a.bias, *how, a.statistics, a.impl)
    elif a.followed and can.statistics_in_parts:
        y, parts = one_pass.conv_with_parts(convolution, x, weight, a.bias, *how)
        mean, var, *known = convolution.joined_before_norm(y, parts, a.following)
    else:
        y, mean, var = one_pass.fused_conv(convolution, x, weight, a.bias, *how, a.statistics)
    return in_format(y, format_of(x, weight)), *_vectors(a, y, mean, var, *known)


def _stock(*args):
    a = Arguments(*args)
    how = a.geometry, a.norm, a.activation, a.slope, a.statistics, a.impl
    y, mean, var = reference.fused_conv(a.x, a.weight, a.bias, *how)
    with torch.no_grad():
        return y, *_vectors(a, y, mean, var)


def _vectors(a, y, mean, var, scale=None, shift=None):
    """The four that the operation returns beside y, after what the norm that follows does with its statistics."""
    if a.followed and scale is None:
        a.following.update(mean, var, y.numel() // max(y.shape[1], 1))
        scale, shift = one_pass.scale_and_shift(mean, var, a.out_weight, a.out_bias, a.out_eps)
    made = (mean, var, scale, shift) if a.statistics else (None,) * 4
    return tuple(y.new_empty(0, dtype=statistics_dtype(y)) if vector is None else vector for vector in made)


def _fake(*args):
    a = Arguments(*args)
    x, weight, g = a.x, a.weight, a.geometry
    channels, before = weight.shape[1] * g.groups if g.transposed else weight.shape[0], (x.shape[2:], weight.shape[2:])
    if g.transposed:
        size = sizes.large(*before, g.stride, g.padding, g.output_padding, g.dilation)
    else:
        size = sizes.small(*before, g.stride, g.padding, g.dilation)
    y = empty((x.shape[0], channels, *size), x, format_of(x, weight))
    count, dtype = channels if a.statistics else 0, statistics_dtype(x)
    known = channels if a.followed else 0
    return y, *(x.new_empty(n, dtype=dtype) for n in (count, count, known, known))


_fused_conv = define(
    "fused_conv(Tensor x, Tensor? in_mean, Tensor? in_var, Tensor? in_weight, Tensor? in_bias, Tensor? in_scale, "
    "Tensor? in_shift, Tensor weight, Tensor? bias, Tensor? out_weight, Tensor? out_bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? batches, bool in_training, float in_eps, str in_activation, float in_slope, "
    "str activation, float slope, bool statistics, bool followed, float out_eps, float momentum, bool transposed, "
    "SymInt[] stride, SymInt[] padding, SymInt[] output_padding, SymInt[] dilation, SymInt groups, str impl) "
    "-> (Tensor y, Tensor mean, Tensor var, Tensor scale, Tensor shift)",
    _kernel,
    _fake,
)


def _save(ctx, args, outputs):
    a = Arguments(*args)
    ctx.mark_non_differentiable(*outputs[1:])
    # Only what backward needs, and not the running statistics, which change.
    ctx.rest = a._replace(**dict.fromkeys(Arguments._fields[:14]))
    ctx.save_for_backward(*args[:5], a.weight, outputs[0] if a.activation != "none" else None)


def _backward(ctx, dy, *_):
    x, m, v, w, b, weight, y = ctx.saved_tensors
    a = ctx.rest
    geometry, impl, into = a.geometry, a.impl, (a.in_training, a.in_eps, a.in_activation, a.in_slope)
    needed = Arguments(*ctx.needs_input_grad)
    dy = _before_activation(dy, y, a.activation, a.slope)
    wants_data = needed.x or needed.in_weight or needed.in_bias
    grads, dx = {}, None
    if needed.weight:
        loaded = x
        if m is not None:  # not kept: to compute it again costs less than to hold it
            loaded = norm_act_op(x, w, b, m, v, *into, impl, None)[0]
        if wants_data:
            dx, grads["weight"] = _both_gradients(loaded, dy, weight, geometry, impl)
        else:
            grads["weight"] = _weight_gradient(loaded, dy, weight, geometry, impl)
    if wants_data:
        dx, dw, db = _data_gradient(dy, weight, x, geometry, impl) if dx is None else dx, None, None
        if m is not None:
            dx, dw, db = norm_act_backward_op(dx, x, w, b, m, v, *into, impl)
        found = {"x": dx, "in_weight": dw, "in_bias": db}
        grads |= {name: grad for name, grad in found.items() if getattr(needed, name)}
    if needed.bias:
        grads["bias"] = dy.sum([0, *range(2, dy.dim())])
    return tuple(grads.get(name) for name in Arguments._fields)


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
    return conv_weight_grad_op(large, small, kernel, g.stride, g.padding, g.dilation, g.groups, in_float32, impl)


def _data_gradient(dy, weight, x, g, impl):
    size, geometry = x.shape[2:], (g.stride, g.padding, g.dilation)
    if g.transposed:
        dx = conv_down_op(dy, weight, None, *geometry, g.groups, impl)
        return sizes.trim(dx, size)
    extra = sizes.extra(size, dy.shape[2:], weight.shape[2:], *geometry)
    return conv_up_op(dy, weight, None, g.stride, g.padding, extra, g.dilation, g.groups, impl)


differentiable(_fused_conv, _save, _backward, stock=_stock)
autocasts(_fused_conv, (0, 7, 8), float32_stays=(7,))
