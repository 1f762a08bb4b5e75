"""What norm_act does with a residual that is added before the activation: its check, and the gradients."""

import torch

from .. import choice, layout
from ..dispatch import define, differentiable_by
from ..dtypes import statistics_dtype
from . import reference
from .parameters import as_parameters
from .protocol import NormAct


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


def _backward_kernel(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope, impl):
    memory_format = layout.format_of(x)
    dy, x, residual = (t.contiguous(memory_format=memory_format) for t in (dy, x, residual))
    functions: NormAct = choice.pick("norm_act", impl, x)
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


norm_act_residual_backward_op = define(
    "norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor var, bool training, float eps, str activation, float slope, str impl) "
    "-> (Tensor dx, Tensor d_residual, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)

differentiable_by(norm_act_residual_backward_op, _backward_composite)
