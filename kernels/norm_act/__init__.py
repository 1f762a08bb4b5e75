"""Batch normalisation and an activation as one operation."""

import torch

from .. import choice, extension, layout
from ..activations import ACTIVATIONS
from ..dispatch import define, differentiable, differentiable_by, is_transformed, wants_stock
from ..dtypes import statistics_dtype
from ..measured import on_gpu, rules
from . import compiled, cuda, direct, reference
from .following import update_running
from .parameters import as_parameters
from .protocol import NormAct
from .with_residual import check_residual, norm_act_residual_backward_op


def norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.01,
    impl: str = "auto",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Batch normalisation followed by an activation: activation((x - mean) / √(var + eps) · weight + bias + residual).

    Equivalent to `activation(torch.nn.functional.batch_norm(...) + residual)`, in one pass where an implementation can.

    Args:
        x: (N, C, *space), 0 to 3 spatial dimensions, any floating-point dtype.
        weight, bias: (C,) or None for 1 and 0; float32 beside a half-precision x is fine.
        running_mean, running_var: (C,). In training both may be None; given, they are updated in place with the
            batch's mean and its unbiased variance. In evaluation they are the statistics.
        training: normalise by the batch's own statistics.
        momentum: the batch's share in the updated running statistics.
        eps: added to the variance.
        activation: "none", "relu", "leaky_relu", "tanh", "silu" or "gelu" (the exact one, by the error function).
        negative_slope: of leaky_relu.
        impl: "auto" or an implementation's name.
        residual: of x's shape and dtype, in any layout, added before the activation; or None.

    Returns:
        y of x's shape, dtype and memory format. Statistics are computed in float32 at least.

    Raises:
        ValueError: shapes that do not fit, an unknown activation, one value a channel in training, no running
            statistics in evaluation, or a named implementation that cannot run.
        TypeError: x is not floating-point, or residual of another dtype.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    given = x, weight, bias, running_mean, running_var, training
    rest = momentum, eps, activation, negative_slope
    stock = direct.serves(*given) if impl == "auto" and activation in ACTIVATIONS else False
    if stock and residual is None:
        return direct.norm_act(*given, *rest)
    check_arguments(x, activation, impl, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        check_residual(residual, x)
    if stock or (stock is None and direct.decide(*given)):
        return direct.norm_act(*given, *rest, residual)
    count = _count(x)
    if training and count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
    if not training and running_mean is None:
        raise ValueError("norm_act needs running_mean and running_var when it is not training")
    how = eps, activation, negative_slope, impl, residual
    if not training:
        return norm_act_op(x, weight, bias, running_mean, running_var, False, *how)[0]
    if running_mean is None or count == 0:
        return norm_act_op(x, weight, bias, None, None, True, *how)[0]
    if not (is_transformed() or wants_stock()):
        return _norm_act_tracked(x, weight, bias, running_mean, running_var, momentum, *how)[0]
    y, mean, var = norm_act_op(x, weight, bias, None, None, True, *how)
    update_running(running_mean, running_var, mean, var, momentum, count)
    return y


def _count(x: torch.Tensor) -> int:
    """Values per channel."""
    return x.numel() // max(x.shape[1], 1)


def norm_act_with(x: torch.Tensor, norm, impl: str = "auto") -> torch.Tensor:
    """norm_act by a fused_conv.Norm, whose statistics are known already, the batch's own ones included."""
    mean, var, weight, bias, training, eps, activation, slope = norm[:8]
    return norm_act_op(x, weight, bias, mean, var, training, eps, activation, slope, impl, None)[0]


def check_arguments(x, activation, impl, **vectors):
    """Raise unless x, activation and impl are a norm's, and the vectors (C,) or None, on x's device."""
    choice.check_name(impl)
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype, not {x.dtype}")
    if not 2 <= x.dim() <= 5:
        raise ValueError(f"x must be (N, C) and up to 3 sizes, not {tuple(x.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if (vectors.get("running_mean") is None) != (vectors.get("running_var") is None):
        raise ValueError("running_mean and running_var must both be given or both be None")
    for name, vector in vectors.items():
        if vector is None:
            continue
        if vector.dim() != 1:
            raise ValueError(f"{name} must be of shape ({x.shape[1]},), not {tuple(vector.shape)}")
        if vector.shape[0] != x.shape[1]:
            raise ValueError(
                f"expected input {list(x.shape)} to have {vector.shape[0]} channels, as many as {name} has elements, "
                f"but got {x.shape[1]} channels instead"
            )
        if vector.device != x.device:
            raise ValueError(f"{name} is on {vector.device} but x on {x.device}")


def compute(x, weight, bias, mean, var, training, eps, activation, slope, impl, residual):
    """(y, mean, var) by the implementation that is chosen: what norm_act_op runs below autograd."""
    memory_format = layout.format_of(x)
    x = x.contiguous(memory_format=memory_format)
    functions: NormAct = choice.pick("norm_act", impl, x)
    how = weight, bias, mean, var, eps, activation, slope
    if residual is None:
        y, batch_mean, batch_var = functions.norm_act(x, *how)
    else:
        y, batch_mean, batch_var = functions.norm_act_residual(
            x, residual.contiguous(memory_format=memory_format), *how
        )
    return layout.in_format(y, memory_format), batch_mean, batch_var


def _fake(x, weight, bias, mean, var, training, eps, activation, slope, impl, residual):
    size, dtype = x.shape[1] if mean is None else 0, statistics_dtype(x)
    y = layout.empty(x.shape, x, layout.format_of(x))
    return y, x.new_empty(size, dtype=dtype), x.new_empty(size, dtype=dtype)


def compute_backward(dy, x, weight, bias, mean, var, training, eps, activation, slope, impl):
    """(dx, dweight, dbias) by the implementation that is chosen: what norm_act_backward_op runs below autograd."""
    memory_format = layout.format_of(x)
    x, dy = x.contiguous(memory_format=memory_format), dy.contiguous(memory_format=memory_format)
    functions: NormAct = choice.pick("norm_act", impl, x)
    dx, dweight, dbias = functions.norm_act_backward(dy, x, weight, bias, mean, var, training, eps, activation, slope)
    return layout.in_format(dx, memory_format), *as_parameters(dweight, dbias, weight, bias)


def _backward_fake(dy, x, weight, bias, mean, var, training, eps, activation, slope, impl):
    dx = layout.empty(x.shape, x, layout.format_of(x))
    gradient = x.new_empty(x.shape[1], dtype=statistics_dtype(x))
    return dx, *as_parameters(gradient, gradient.clone(), weight, bias)


def _backward_composite(dy, x, weight, bias, mean, var, training, eps, activation, slope, impl):
    dx, dweight, dbias = reference.differentiable_backward(
        dy, x, weight, bias, mean, var, training, eps, activation, slope
    )
    return dx, *as_parameters(dweight, dbias, weight, bias)


norm_act_op = define(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, bool training, float eps, "
    "str activation, float slope, str impl, Tensor? residual) -> (Tensor y, Tensor mean, Tensor var)",
    compute,
    _fake,
)
norm_act_backward_op = define(
    "norm_act_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, bool training, "
    "float eps, str activation, float slope, str impl) -> (Tensor dx, Tensor dweight, Tensor dbias)",
    compute_backward,
    _backward_fake,
)


def _save(ctx, args, outputs):
    x, weight, bias, mean, var, ctx.training, *ctx.rest, residual = args
    ctx.mark_non_differentiable(outputs[1], outputs[2])
    ctx.save_for_backward(x, residual, weight, bias, *(outputs[1:] if mean is None else (mean, var)))


def _backward(ctx, dy, _mean, _var):
    x, residual, *vectors = ctx.saved_tensors
    how, d_residual = (ctx.training, *ctx.rest), None
    if residual is None:
        dx, dweight, dbias = norm_act_backward_op(dy, x, *vectors, *how)
    else:
        dx, d_residual, dweight, dbias = norm_act_residual_backward_op(dy, x, residual, *vectors, *how)
    grads = dx, dweight, dbias, *[None] * 7, d_residual
    return tuple(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=True))


def _stock(x, weight, bias, mean, var, training, eps, activation, slope, impl, residual):
    return reference.stock(x, weight, bias, mean, var, training, eps, activation, slope, residual)


differentiable(norm_act_op, _save, _backward, stock=_stock)


# Running statistics are updated within the operation, before autograd saves anything: torch.utils.checkpoint without
# reentry stops recomputing at the last tensor saved, and torch's batch norm has updated its own by then.
def _tracked_kernel(x, weight, bias, running_mean, running_var, momentum, *how):
    y, mean, var = compute(x, weight, bias, None, None, True, *how)
    update_running(running_mean, running_var, mean, var, momentum, x.numel() // x.shape[1])
    return y, mean, var


def _tracked_fake(x, weight, bias, running_mean, running_var, momentum, *how):
    return _fake(x, weight, bias, None, None, True, *how)


_norm_act_tracked = define(
    "norm_act_tracked(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) running_var, "
    "float momentum, float eps, str activation, float slope, str impl, Tensor? residual) "
    "-> (Tensor y, Tensor mean, Tensor var)",
    _tracked_kernel,
    _tracked_fake,
)


def _tracked_save(ctx, args, outputs):
    x, weight, bias, _, _, _, *rest = args
    _save(ctx, (x, weight, bias, None, None, True, *rest), outputs)


differentiable(_norm_act_tracked, _tracked_save, _backward)
differentiable_by(norm_act_backward_op, _backward_composite)


def _no_cuda_part():
    module = extension.load()
    if module is None or module.with_cuda:
        return extension.reason()
    return f"the extension has no CUDA part: {extension.facts()['no_cuda'] or 'it was built without'}"


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
        missing=_no_cuda_part,
    ),
    triton=choice.in_triton(__name__, on_gpu.norm_act_slower, rules.has("norm_act")),
    reference=choice.Implementation(reference),
)
