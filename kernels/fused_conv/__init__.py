"""A convolution fused with the norm and activation before it, its own activation, and statistics of its output.

Between two convolutions an activation is then written once and read once: the first convolution writes its raw output
and computes its statistics, and the second normalises and activates as it loads.
"""

from typing import Any

import torch
from torch import Tensor

from .. import choice
from ..activations import CONV_ACTIVATIONS
from ..conv import conv_down_op, conv_up_op, conv_weight_grad_op, sizes
from ..conv.checks import check_arguments
from ..conv.geometry import Geometry
from ..conv.stock.joint import both_gradients, is_joinable
from ..dispatch import autocasts, define, differentiable
from ..dtypes import statistics_dtype
from ..layout import empty, format_of, in_format
from ..measured.capture import are_launches_captured
from ..norm_act import norm_act_backward_op, norm_act_with
from ..norm_act.following import Following
from ..norm_act.parameters import keep_statistics
from ..norm_act.protocol import Norm
from . import one_pass, reference
from .arguments import TENSORS, Arguments, Epilogue, Saved

__all__ = ["Arguments", "Geometry", "Norm", "conv_before_norm", "fused_conv", "pays"]

_Convolved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # y, mean, var, scale, shift


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
    """Compute activation(conv(norm(x)) + bias), and each channel's mean and biased variance before that activation.

    Args:
        x: (N, C_in, *space), 1 to 3 spatial dimensions.
        weight: as for conv_down, or for conv_up if the geometry is transposed.
        bias: (C_out,) or None.
        geometry: of the convolution.
        norm: of x, computed as it is loaded; None for no norm.
        activation: "none", "relu", "leaky_relu" or "tanh". The norm's activation must be one of these too.
        negative_slope: of leaky_relu, at least 0.
        statistics: whether to compute them. They are for a norm that follows and have no gradient: the gradient flows
            through that norm (`Norm.training`).
        impl: "auto" or the name of an implementation of the convolution.

    Returns:
        y (N, C_out, *space) of x's dtype, channels-last where x or weight is; mean and var (C_out,) float32, or None
        and None.

    Raises:
        ValueError: sizes that do not fit, an unknown activation, a negative slope, a norm that does not fit x.
        TypeError: dtypes that are not floating-point or differ.
    """
    epilogue = Epilogue(activation, negative_slope, statistics)
    y, mean, var, _, _ = _run(x, weight, bias, geometry, norm, epilogue, None, impl)
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
    """Compute fused_conv with statistics, and update the batch norm that follows in training from them.

    Args:
        x: as fused_conv's, (N, C_in, *space).
        weight: as fused_conv's.
        bias: (C_out,) or None.
        geometry: of the convolution.
        norm: of x, or None.
        following: the norm of the output. Its running statistics are updated in place, unless the output has fewer
            than two values per channel.
        impl: "auto" or the name of an implementation of the convolution.

    Returns:
        y, mean and var as fused_conv returns them, and the following norm's `scale` and `shift`, (C_out,) float32, for
        the `Norm` of the next convolution.

    Raises:
        ValueError, TypeError: as fused_conv.
    """
    return _run(x, weight, bias, geometry, norm, _STATISTICS, following, impl)


_STATISTICS = Epilogue("none", 0.0, True)
_NO_NORM = (None,) * 6, (False, 0.0, "none", 0.0)
_NONE_FOLLOWS = Following(None, None, 0.0)


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    norm: Norm | None,
    epilogue: Epilogue,
    following: Following | None,
    impl: str,
) -> _Convolved:
    """Check the arguments and call the operation."""
    lists = check_arguments(x, weight, bias, geometry, impl)
    vectors, settings = _NO_NORM if norm is None else ((*norm[:4], norm.scale, norm.shift), norm[4:8])
    for which, name in (("activation", epilogue.activation), ("the norm's activation", settings[2])):
        if name not in CONV_ACTIVATIONS:
            raise ValueError(f"{which} must be one of {', '.join(CONV_ACTIVATIONS)}, not {name!r}")
    if epilogue.activation == "leaky_relu" and epilogue.slope < 0:
        raise ValueError(f"negative_slope must be at least 0 for backward from the output, not {epilogue.slope}")
    if any(v is not None and v.shape != (x.shape[1],) for v in vectors):
        raise ValueError(f"the norm's vectors must be of shape ({x.shape[1]},)")
    f = following or _NONE_FOLLOWS
    return _fused_conv(
        *(x, *vectors, weight, bias),
        *(f.weight, f.bias, f.running_mean, f.running_var, f.batches),
        *(*settings, *epilogue, following is not None, f.eps, f.momentum),
        *(*lists, impl),
    )


def pays(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, impl: str) -> bool:
    """Whether fusing is worth while: whether an implementation that fuses serves this convolution.

    Args:
        x: (N, C_in, *space).
        weight: as fused_conv's.
        geometry: of the convolution.
        impl: "auto" or an implementation's name.
    """
    if impl != "auto" or type(x) is not torch.Tensor or choice.has_preference() or torch.jit.is_tracing():
        return _convolution(x, weight, geometry, impl).CAPABILITIES.fusion
    tensors = x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.stride()
    key = "pays", *tensors, geometry, are_launches_captured()
    known = choice.decisions.get(key)
    if known is None:
        known = choice.remember(key, _convolution(x, weight, geometry, impl).CAPABILITIES.fusion)
    return known


def _convolution(x: Tensor, weight: Tensor, geometry: Geometry, impl: str) -> Any:
    """Pick the module of the convolution: at least conv.protocol.Convolutions, and what its CAPABILITIES declare."""
    if geometry.transposed:
        return choice.pick("conv_up", impl, x, weight, *geometry[1:])
    _, stride, padding, _, dilation, groups = geometry
    return choice.pick("conv_down", impl, x, weight, stride, padding, dilation, groups)


def _kernel(*args: Any) -> _Convolved:
    a = Arguments(*args)
    x, weight, geometry, norm, epilogue = a.x, a.weight, a.geometry, a.norm, a.epilogue
    convolution = _convolution(x, weight, geometry, a.impl)
    scale_and_shift = None, None
    can = convolution.CAPABILITIES
    if not can.fusion:
        y, mean, var = reference.convolve(x, weight, a.bias, geometry, norm, epilogue, a.impl)
    elif a.followed and can.statistics_in_parts:
        y, parts = one_pass.convolve_with_parts(convolution, x, weight, a.bias, geometry, norm, epilogue)
        mean, var, *scale_and_shift = convolution.merge_before_norm(y, parts, a.following)
    else:
        y, mean, var = one_pass.convolve(convolution, x, weight, a.bias, geometry, norm, epilogue)
    return in_format(y, format_of(x, weight)), *_vectors(a, y, mean, var, *scale_and_shift)


def _stock(*args: Any) -> _Convolved:
    a = Arguments(*args)
    y, mean, var = reference.convolve(a.x, a.weight, a.bias, a.geometry, a.norm, a.epilogue, a.impl)
    with torch.no_grad():
        return y, *_vectors(a, y, mean, var)


def _vectors(
    a: Arguments,
    y: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Update the norm that follows, and return the outputs after y, empty if not computed."""
    following = a.following
    if following is not None and scale is None and mean is not None and var is not None:
        following.update(mean, var, y.numel() // max(y.shape[1], 1))
        scale, shift = one_pass.scale_and_shift(mean, var, following.weight, following.bias, following.eps)
    vectors = (mean, var, scale, shift) if a.statistics else (None,) * 4
    mean, var, scale, shift = (
        y.new_empty(0, dtype=statistics_dtype(y)) if vector is None else vector for vector in vectors
    )
    return mean, var, scale, shift


def _fake(*args: Any) -> _Convolved:
    a = Arguments(*args)
    shape = a.geometry.output_shape(a.x, a.weight)
    y = empty(shape, a.x, format_of(a.x, a.weight))
    count, dtype = shape[1] if a.statistics else 0, statistics_dtype(a.x)
    known = shape[1] if a.followed else 0
    mean, var, scale, shift = (a.x.new_empty(n, dtype=dtype) for n in (count, count, known, known))
    return y, mean, var, scale, shift


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


def _save(ctx: Any, args: tuple, outputs: tuple) -> None:
    a = Arguments(*args)
    ctx.mark_non_differentiable(*outputs[1:])
    mean, var = keep_statistics(a.in_mean, a.in_var, a.in_training)
    output = outputs[0] if a.activation != "none" else None
    ctx.save_for_backward(a.x, mean, var, a.in_weight, a.in_bias, a.weight, output)
    ctx.rest = args[TENSORS:]


def _backward(ctx: Any, dy: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    saved, needed = Saved(*ctx.saved_tensors, rest=ctx.rest), Arguments(*ctx.needs_input_grad)
    x, weight, norm, geometry, impl = saved.x, saved.weight, saved.norm, saved.geometry, saved.impl
    dy = _activation_backward(dy, saved.y, saved.epilogue)
    needs_data = needed.x or needed.in_weight or needed.in_bias
    grads, dx = {}, None
    if needed.weight:
        # The norm's output is computed again, which costs less than keeping it.
        loaded = x if norm is None else norm_act_with(x, norm, impl)
        if needs_data:
            dx, grads["weight"] = _both_gradients(loaded, dy, weight, geometry, impl)
        else:
            grads["weight"] = _weight_gradient(loaded, dy, weight, geometry, impl)
    if needs_data:
        dx = _data_gradient(dy, weight, x, geometry, impl) if dx is None else dx
        dw = db = None
        if norm is not None:
            vectors, settings = (norm.weight, norm.bias, norm.mean, norm.var), norm[4:8]
            dx, dw, db = norm_act_backward_op(dx, x, *vectors, *settings, impl)
        found = {"x": dx, "in_weight": dw, "in_bias": db}
        grads |= {name: grad for name, grad in found.items() if getattr(needed, name)}
    if needed.bias:
        grads["bias"] = dy.sum([0, *range(2, dy.dim())])
    return tuple(grads.get(name) for name in Arguments._fields)


def _activation_backward(dy: Tensor, y: Tensor | None, epilogue: Epilogue) -> Tensor:
    """Return the gradient of the activation's input, from the gradient dy of its output y."""
    if epilogue.activation == "relu":
        return torch.ops.aten.threshold_backward(dy, y, 0)
    if epilogue.activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(dy, y, epilogue.slope, True)
    return torch.ops.aten.tanh_backward(dy, y) if epilogue.activation == "tanh" else dy


def _both_gradients(x: Tensor, dy: Tensor, weight: Tensor, g: Geometry, impl: str) -> tuple[Tensor, Tensor]:
    if is_joinable(dy, x, weight):
        joint = g if g.transposed else g._replace(output_padding=_output_padding(x, dy, weight, g))
        both = both_gradients(dy, x, weight, joint, impl)
        if both is not None:
            return both
    return _data_gradient(dy, weight, x, g, impl), _weight_gradient(x, dy, weight, g, impl)


def _output_padding(x: Tensor, dy: Tensor, weight: Tensor, g: Geometry) -> list[int]:
    """Return the output_padding with which conv_up turns dy's size into x's."""
    return sizes.output_padding(x.shape[2:], dy.shape[2:], weight.shape[2:], g.stride, g.padding, g.dilation)


def _weight_gradient(x: Tensor, dy: Tensor, weight: Tensor, g: Geometry, impl: str) -> Tensor:
    large, small = (dy, x) if g.transposed else (x, dy)
    in_float32 = weight.dtype != x.dtype
    kernel = list(weight.shape[2:])
    return conv_weight_grad_op(large, small, kernel, g.stride, g.padding, g.dilation, g.groups, in_float32, impl)


def _data_gradient(dy: Tensor, weight: Tensor, x: Tensor, g: Geometry, impl: str) -> Tensor:
    if g.transposed:
        dx = conv_down_op(dy, weight, None, g.stride, g.padding, g.dilation, g.groups, impl)
        return sizes.trim(dx, x.shape[2:])
    extra = _output_padding(x, dy, weight, g)
    return conv_up_op(dy, weight, None, g.stride, g.padding, extra, g.dilation, g.groups, impl)


differentiable(_fused_conv, _save, _backward, stock=_stock)
autocasts(_fused_conv, (0, 7, 8), float32_stays=(7,))
