"""Batch normalisation and an activation as one operation."""

from typing import Any

import torch
from torch import Tensor

from .. import choice, extension, layout
from ..activations import ACTIVATIONS, check_activation
from ..arguments import DtypeError, MisfitError
from ..dispatch import define, differentiable, differentiable_by, is_functionalized, is_transformed, wants_stock
from ..dtypes import statistics_dtype
from ..measured import on_gpu, rules
from . import compiled, cuda, direct, reference
from .following import update_running
from .parameters import as_parameters, empty_gradients, keep_statistics
from .protocol import Norm, NormAct
from .with_residual import check_residual, norm_act_residual_backward_op


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.01,
    impl: str = "auto",
    residual: Tensor | None = None,
) -> Tensor:
    """Batch normalisation followed by an activation: activation((x - mean) / √(var + eps) · weight + bias + residual).

    Equivalent to `activation(torch.nn.functional.batch_norm(...) + residual)`, in one pass where an implementation can.

    Args:
        x: (N, C, *space), 0 to 3 spatial dimensions, any floating-point dtype.
        weight: (C,), or None for 1; may be float32 beside a half-precision x.
        bias: (C,), or None for 0; may be float32 beside a half-precision x.
        running_mean: (C,). Training updates it in place with the batch's mean, unless it is None. Evaluation
            normalises by it.
        running_var: (C,), None where running_mean is. Training updates it with the batch's unbiased variance.
        training: normalise by the batch's own statistics.
        momentum: the batch's share in the updated running statistics.
        eps: added to the variance.
        activation: "none", "relu", "leaky_relu", "tanh", "silu" or "gelu" (the exact one, by the error function).
        negative_slope: of leaky_relu.
        impl: "auto" or an implementation's name.
        residual: of x's shape and dtype, in any layout, added before the activation; or None.

    Returns:
        y of x's shape, dtype and memory format. Statistics are computed in float32 or float64.

    Raises:
        ValueError: shapes that do not fit, an unknown activation, a single value per channel in training, no running
            statistics in evaluation, or a named implementation that cannot run.
        TypeError: x is not floating-point, or residual has another dtype.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    inputs = x, weight, bias, running_mean, running_var, training
    options = momentum, eps, activation, negative_slope
    stock = direct.serves(*inputs) if impl == "auto" and activation in ACTIVATIONS else False
    if stock and residual is None:
        return direct.norm_act(*inputs, *options)
    check_arguments(x, activation, impl, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        check_residual(residual, x)
    if stock or (stock is None and direct.decide(*inputs)):
        return direct.norm_act(*inputs, *options, residual)
    count = _count(x)
    if training and count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
    if not training and running_mean is None:
        raise ValueError("norm_act needs running_mean and running_var when it is not training")
    how = eps, activation, negative_slope, impl, residual
    if not training:
        return norm_act_op(x, weight, bias, running_mean, running_var, False, *how)[0]
    if running_mean is None or running_var is None or count == 0:
        return norm_act_op(x, weight, bias, None, None, True, *how)[0]
    if not (is_transformed() or wants_stock()):
        return _norm_act_tracked(x, weight, bias, running_mean, running_var, momentum, *how)[0]
    if is_functionalized():
        return direct.norm_act(*inputs, *options, residual)
    y, mean, var = norm_act_op(x, weight, bias, None, None, True, *how)
    update_running(running_mean, running_var, mean, var, momentum, count)
    return y


def _count(x: Tensor) -> int:
    """Values per channel."""
    return x.numel() // max(x.shape[1], 1)


def norm_act_with(x: Tensor, norm: Norm, impl: str = "auto") -> Tensor:
    """Run norm_act on x (N, C, *space) by a `Norm` with statistics, which may be the batch's own.

    Returns:
        y of x's shape, dtype and memory format.
    """
    mean, var, weight, bias, training, eps, activation, slope = norm[:8]
    return norm_act_op(x, weight, bias, mean, var, training, eps, activation, slope, impl, None)[0]


def check_arguments(x: Tensor, activation: str, impl: str, **vectors: Tensor | None) -> None:
    """Check a norm's arguments.

    Args:
        x: (N, C, *space).
        activation: an activation's name.
        impl: "auto" or an implementation's name.
        vectors: parameters and running statistics by name, each (C,) on x's device, or None.

    Raises:
        MisfitError: a shape or device does not fit.
        ValueError: a name is unknown, or one of the running statistics is missing.
        TypeError: x is no tensor, or, as a DtypeError, not of a floating-point dtype.
    """
    choice.check_name(impl)
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise DtypeError(f"x must be of a floating-point dtype, not {x.dtype}")
    if not 2 <= x.dim() <= 5:
        raise MisfitError(f"x must be (N, C) and up to 3 sizes, not {tuple(x.shape)}")
    check_activation(activation)
    if (vectors.get("running_mean") is None) != (vectors.get("running_var") is None):
        raise ValueError("running_mean and running_var must both be given or both be None")
    for name, vector in vectors.items():
        if vector is None:
            continue
        if vector.dim() != 1:
            raise MisfitError(f"{name} must be of shape ({x.shape[1]},), not {tuple(vector.shape)}")
        if vector.shape[0] != x.shape[1]:
            raise MisfitError(
                f"expected input {list(x.shape)} to have {vector.shape[0]} channels, as many as {name} has elements, "
                f"but got {x.shape[1]} channels instead"
            )
        if vector.device != x.device:
            raise MisfitError(f"{name} is on {vector.device} but x is on {x.device}")


def compute(x: Tensor, norm: Norm, impl: str, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chosen implementation of norm_act, below autograd.

    Args:
        x: (N, C, *space).
        norm: without statistics to compute the batch's own.
        impl: "auto" or an implementation's name.
        residual: of x's shape, or None.

    Returns:
        y in x's memory format; the batch's mean and variance, (C,), or (0,) where norm has statistics.
    """
    memory_format = layout.format_of(x)
    x = x.contiguous(memory_format=memory_format)
    functions: NormAct = choice.pick("norm_act", impl, x)
    if residual is None:
        y, mean, var = functions.norm_act(x, norm)
    else:
        y, mean, var = functions.norm_act_residual(x, residual.contiguous(memory_format=memory_format), norm)
    return layout.in_format(y, memory_format), mean, var


def compute_backward(dy: Tensor, x: Tensor, norm: Norm, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chosen implementation's gradient of norm_act, below autograd.

    Args:
        dy: (N, C, *space).
        x: (N, C, *space), the input.
        norm: with the statistics that forward used.
        impl: "auto" or an implementation's name.

    Returns:
        dx in x's memory format, dweight and dbias (C,) in their parameters' dtypes.
    """
    memory_format = layout.format_of(x)
    x, dy = x.contiguous(memory_format=memory_format), dy.contiguous(memory_format=memory_format)
    functions: NormAct = choice.pick("norm_act", impl, x)
    dx, dweight, dbias = functions.norm_act_backward(dy, x, norm)
    return layout.in_format(dx, memory_format), *as_parameters(dweight, dbias, norm.weight, norm.bias)


def _kernel(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return compute(x, Norm(mean, var, weight, bias, training, eps, activation, slope), impl, residual)


def _fake(
    x: Tensor, _weight: Tensor | None, _bias: Tensor | None, mean: Tensor | None, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    size, dtype = x.shape[1] if mean is None else 0, statistics_dtype(x)
    y = layout.empty(x.shape, x, layout.format_of(x))
    return y, x.new_empty(size, dtype=dtype), x.new_empty(size, dtype=dtype)


def _composite(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.stock(x, Norm(mean, var, weight, bias, training, eps, activation, slope), residual)


def _backward_kernel(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return compute_backward(dy, x, Norm(mean, var, weight, bias, training, eps, activation, slope), impl)


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return layout.empty(x.shape, x, layout.format_of(x)), *empty_gradients(x, weight, bias)


def _backward_composite(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    norm = Norm(mean, var, weight, bias, training, eps, activation, slope)
    dx, dweight, dbias = reference.differentiable_backward(dy, x, norm)
    return dx, *as_parameters(dweight, dbias, weight, bias)


norm_act_op = define(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, bool training, float eps, "
    "str activation, float slope, str impl, Tensor? residual) -> (Tensor y, Tensor mean, Tensor var)",
    _kernel,
    _fake,
)
norm_act_backward_op = define(
    "norm_act_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, bool training, "
    "float eps, str activation, float slope, str impl) -> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    x, weight, bias, mean, var, ctx.training, *ctx.rest, residual = args
    ctx.mark_non_differentiable(outputs[1], outputs[2])
    statistics = outputs[1:] if mean is None else keep_statistics(mean, var, ctx.training)
    ctx.save_for_backward(x, residual, weight, bias, *statistics)


def _backward(ctx: Any, dy: Tensor, _mean: object, _var: object) -> tuple[Tensor | None, ...]:
    x, residual, *vectors = ctx.saved_tensors
    how, d_residual = (ctx.training, *ctx.rest), None
    if residual is None:
        dx, dweight, dbias = norm_act_backward_op(dy, x, *vectors, *how)
    else:
        dx, d_residual, dweight, dbias = norm_act_residual_backward_op(dy, x, residual, *vectors, *how)
    grads = dx, dweight, dbias, *[None] * 7, d_residual
    return tuple(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=True))


differentiable(norm_act_op, _save, _backward, stock=_composite)


# The operation updates the running statistics itself, before autograd saves anything. Non-reentrant
# torch.utils.checkpoint stops recomputing at the last saved tensor, by when torch's batch norm has updated its own.
def _tracking_kernel(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, var = compute(x, Norm(None, None, weight, bias, True, eps, activation, slope), impl, residual)
    update_running(running_mean, running_var, mean, var, momentum, x.numel() // x.shape[1])
    return y, mean, var


def _tracking_fake(x: Tensor, weight: Tensor | None, bias: Tensor | None, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(x, weight, bias, None)


_norm_act_tracked = define(
    "norm_act_tracked(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) running_var, "
    "float momentum, float eps, str activation, float slope, str impl, Tensor? residual) "
    "-> (Tensor y, Tensor mean, Tensor var)",
    _tracking_kernel,
    _tracking_fake,
)


def _tracking_save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, _, _, *rest = args
    _save(ctx, (x, weight, bias, None, None, True, *rest), outputs)


differentiable(_norm_act_tracked, _tracking_save, _backward)
differentiable_by(norm_act_backward_op, _backward_composite)


choice.register(
    "norm_act",
    cpp=choice.Implementation(
        compiled,
        refusal=lambda x: compiled.refusal(x) if x.is_cpu else f"it is for the CPU, not for {x.device.type}",
        missing=extension.reason,
        slower=direct.slower,
    ),
    cuda=choice.Implementation(
        cuda,
        refusal=cuda.refusal,
        held_back={"cuda": f"has not been measured on a GPU yet; {choice.ENVIRONMENT}=cuda selects it"},
        missing=compiled.no_cuda_reason,
    ),
    triton=choice.in_triton(__name__, on_gpu.norm_act_slower, rules.has("norm_act")),
    reference=choice.Implementation(reference),
)
