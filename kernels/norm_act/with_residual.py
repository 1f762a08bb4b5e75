"""A residual that norm_act adds before the activation: its check, and the operation for its gradient."""

import torch
from torch import Tensor

from .. import choice, layout
from ..dispatch import define, differentiable_by
from . import reference
from .parameters import as_parameters, empty_gradients
from .protocol import Norm, NormAct


def check_residual(residual: Tensor, x: Tensor) -> None:
    """Check that a residual has the shape, dtype and device of x (N, C, *space).

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another shape or device.
    """
    if not isinstance(residual, torch.Tensor):
        raise TypeError(f"residual must be a Tensor, not {type(residual).__name__}")
    if residual.dtype != x.dtype:
        raise TypeError(f"residual must be of x's dtype {x.dtype}, not {residual.dtype}")
    if residual.shape != x.shape:
        raise ValueError(f"residual must be of x's shape {tuple(x.shape)}, not {tuple(residual.shape)}")
    if residual.device != x.device:
        raise ValueError(f"residual is on {residual.device} but x is on {x.device}")


def _backward_kernel(
    dy: Tensor,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    memory_format = layout.format_of(x)
    dy, x, residual = (t.contiguous(memory_format=memory_format) for t in (dy, x, residual))
    functions: NormAct = choice.pick("norm_act", impl, x)
    norm = Norm(mean, var, weight, bias, training, eps, activation, slope)
    dx, d_residual, dweight, dbias = functions.norm_act_residual_backward(dy, x, residual, norm)
    dx, d_residual = (layout.in_format(t, memory_format) for t in (dx, d_residual))
    return dx, d_residual, *as_parameters(dweight, dbias, weight, bias)


def _backward_fake(
    dy: Tensor, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, d_residual = (layout.empty(x.shape, x, layout.format_of(x)) for _ in range(2))
    return dx, d_residual, *empty_gradients(x, weight, bias)


def _backward_composite(
    dy: Tensor,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(mean, var, weight, bias, training, eps, activation, slope)
    dx, d_residual, dweight, dbias = reference.differentiable_residual_backward(dy, x, residual, norm)
    return dx, d_residual, *as_parameters(dweight, dbias, weight, bias)


norm_act_residual_backward_op = define(
    "norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor var, bool training, float eps, str activation, float slope, str impl) "
    "-> (Tensor dx, Tensor d_residual, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)

differentiable_by(norm_act_residual_backward_op, _backward_composite)
