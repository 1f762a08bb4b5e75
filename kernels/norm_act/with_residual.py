"""norm_act of what has a residual added before the activation, as residual networks have it."""

import torch

from .. import choice, layout
from ..dispatch import define, differentiable, differentiable_by, is_transformed, wants_stock
from . import reference
from .following import update_running
from .parameters import as_parameters
from .reference import statistics_dtype


def norm_act_with_residual(x, residual, weight, bias, mean, var, training, momentum, eps, activation, slope, impl):
    """activation(norm(x) + residual) by checked arguments; mean and var are the running ones, or both None."""
    how = eps, activation, slope, impl
    if not training:
        return _norm_act_residual(x, residual, weight, bias, mean, var, False, *how)[0]
    count = x.numel() // max(x.shape[1], 1)
    if mean is None or count == 0:
        return _norm_act_residual(x, residual, weight, bias, None, None, True, *how)[0]
    if not (is_transformed() or wants_stock()):
        return _norm_act_residual_tracked(x, residual, weight, bias, mean, var, momentum, *how)[0]
    y, *statistics = _norm_act_residual(x, residual, weight, bias, None, None, True, *how)
    update_running(mean, var, *statistics, momentum, count)
    return y


def check_residual(residual: torch.Tensor, x: torch.Tensor) -> None:
    """Check that a residual is as x is.

    Raises:
        TypeError: it is no tensor, or of another dtype. ValueError: it is of another shape, or on another device.
    """
    if not isinstance(residual, torch.Tensor):
        raise TypeError(f"residual must be a Tensor, not {type(residual).__name__}")
    if residual.dtype != x.dtype:
        raise TypeError(f"residual must be of x's dtype {x.dtype}, not {residual.dtype}")
    if residual.shape != x.shape:
        raise ValueError(f"residual must be of x's shape {tuple(x.shape)}, not {tuple(residual.shape)}")
    if residual.device != x.device:
        raise ValueError(f"residual is on {residual.device} but x on {x.device}")


def _kernel(x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    memory_format = layout.format_of(x)
    x, residual = (t.contiguous(memory_format=memory_format) for t in (x, residual))
    functions = choice.pick("norm_act", impl, x)
    y, *statistics = functions.norm_act_residual(x, residual, weight, bias, mean, var, eps, activation, slope)
    return layout.in_format(y, memory_format), *statistics


def _fake(x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    size, dtype = x.shape[1] if mean is None else 0, statistics_dtype(x)
    y = layout.empty(x.shape, x, layout.format_of(x))
    return y, x.new_empty(size, dtype=dtype), x.new_empty(size, dtype=dtype)


def _backward_kernel(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    memory_format = layout.format_of(x)
    dy, x, residual = (t.contiguous(memory_format=memory_format) for t in (dy, x, residual))
    functions = choice.pick("norm_act", impl, x)
    dx, d_residual, *rest = functions.norm_act_residual_backward(
        dy, x, residual, weight, bias, mean, var, training, eps, activation, slope
    )
    made = (layout.in_format(t, memory_format) for t in (dx, d_residual))
    return *made, *as_parameters(*rest, weight, bias)


def _backward_fake(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    dx, d_residual = (layout.empty(x.shape, x, layout.format_of(x)) for _ in range(2))
    gradient = x.new_empty(x.shape[1], dtype=statistics_dtype(x))
    return dx, d_residual, *as_parameters(gradient, gradient.clone(), weight, bias)


def _backward_composite(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    dx, d_residual, *rest = reference.differentiable_residual_backward(
        dy, x, residual, weight, bias, mean, var, training, eps, activation, slope
    )
    return dx, d_residual, *as_parameters(*rest, weight, bias)


_norm_act_residual = define(
    "norm_act_residual(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, "
    "bool training, float eps, str activation, float slope, str impl) -> (Tensor y, Tensor mean, Tensor var)",
    _kernel,
    _fake,
)
_norm_act_residual_backward = define(
    "norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor var, bool training, float eps, str activation, float slope, str impl) "
    "-> (Tensor dx, Tensor d_residual, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx, args, outputs):
    x, residual, weight, bias, mean, var, ctx.training, *ctx.rest = args
    ctx.mark_non_differentiable(outputs[1], outputs[2])
    ctx.save_for_backward(x, residual, weight, bias, *(outputs[1:] if mean is None else (mean, var)))


def _backward(ctx, dy, _mean, _var):
    grads = _norm_act_residual_backward(dy, *ctx.saved_tensors, ctx.training, *ctx.rest)
    wanted = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False))
    return *wanted, *[None] * 7


def _stock(x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    y, *statistics = reference.stock(x, weight, bias, mean, var, training, eps, "none", slope)
    return reference.activate(y + residual, activation, slope), *statistics


differentiable(_norm_act_residual, _save, _backward, stock=_stock)
differentiable_by(_norm_act_residual_backward, _backward_composite)


# As norm_act_tracked, and for the same reason.
def _tracked_kernel(x, residual, weight, bias, running_mean, running_var, momentum, eps, activation, slope, impl):
    y, mean, var = _kernel(x, residual, weight, bias, None, None, True, eps, activation, slope, impl)
    update_running(running_mean, running_var, mean, var, momentum, x.numel() // x.shape[1])
    return y, mean, var


def _tracked_fake(x, residual, weight, bias, running_mean, running_var, momentum, eps, activation, slope, impl):
    return _fake(x, residual, weight, bias, None, None, True, eps, activation, slope, impl)


_norm_act_residual_tracked = define(
    "norm_act_residual_tracked(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, "
    "Tensor(b!) running_var, float momentum, float eps, str activation, float slope, str impl) "
    "-> (Tensor y, Tensor mean, Tensor var)",
    _tracked_kernel,
    _tracked_fake,
)


def _tracked_save(ctx, args, outputs):
    x, residual, weight, bias, _, _, _, *rest = args
    _save(ctx, (x, residual, weight, bias, None, None, True, *rest), outputs)


differentiable(_norm_act_residual_tracked, _tracked_save, _backward)
