"""norm_act in plain PyTorch: the definition of correct results, on every device and dtype."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..activations import activate, activate_, activation_backward, slope_at
from ..dtypes import statistics_dtype
from .protocol import Capabilities, Norm

CAPABILITIES = Capabilities(statistics=True)

Forward = Callable[[Tensor, Norm], tuple[Tensor, Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Norm], tuple[Tensor, Tensor, Tensor]]


def norm_act(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (N, C, *space) and the batch's mean and variance, (C,), or (0,) where norm has statistics."""
    mean, var = norm.mean, norm.var
    dtype, channels = statistics_dtype(x), x.shape[1]
    is_batch = norm.mean is None
    if mean is None or var is None:
        mean, var = x.new_zeros(channels, dtype=dtype), x.new_zeros(channels, dtype=dtype)
    else:
        mean, var = mean.to(dtype), var.to(dtype)  # a module in half precision has its running statistics in it, too
    count = x.numel() // max(channels, 1)
    if count == 0:
        y = torch.empty_like(x)
    else:
        # With momentum 1 the running statistics become the batch's, the variance unbiased.
        affine = _to(norm.weight, dtype), _to(norm.bias, dtype)
        y = torch.native_batch_norm(x, *affine, mean, var, is_batch, 1.0, norm.eps)[0]
        if is_batch:
            var = var * ((count - 1) / count) if count > 1 else torch.zeros_like(var)
    y = activate_(y, norm.activation, norm.slope)
    return (y, mean, var) if is_batch else (y, mean.new_empty(0, dtype=dtype), mean.new_empty(0, dtype=dtype))


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and biased variance of x, (C,), of statistics_dtype."""
    mean, var = x.new_zeros((2, x.shape[1]), dtype=statistics_dtype(x)).unbind()
    return torch.batch_norm_update_stats(x, mean, var, 0.0)


def norm_act_residual(
    x: Tensor, residual: Tensor, norm: Norm, forward: Forward = norm_act
) -> tuple[Tensor, Tensor, Tensor]:
    """Run norm_act with a residual (N, C, *space); `forward` computes the norm, PyTorch's operations the rest."""
    y, mean, var = forward(x, norm._replace(activation="none"))
    return activate_(y.add_(residual), norm.activation, norm.slope), mean, var


def stock(x: Tensor, norm: Norm, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs of the operation with PyTorch's own differentiable operations.

    In training y is a function of x's own statistics, even where norm has them already.

    Returns:
        y (N, C, *space); mean and var of x, (C,), or (0,) where norm has statistics.
    """
    dtype = statistics_dtype(x)
    mean, var = (None, None) if norm.training else (t.to(dtype) for t in norm.statistics)
    if x.numel() == 0:  # batch_norm refuses it
        y = x.clone()
    else:
        affine = _to(norm.weight, dtype), _to(norm.bias, dtype)
        y = torch.batch_norm(x, *affine, mean, var, norm.training, 0.0, norm.eps, False)
    y = activate(y if residual is None else y + residual, norm.activation, norm.slope)
    if norm.mean is not None:
        return y, norm.mean.new_empty(0, dtype=dtype), norm.mean.new_empty(0, dtype=dtype)
    values = x.detach().to(dtype)
    batch_var, batch_mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
    return y, batch_mean, batch_var


def norm_act_backward(dy: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx (N, C, *space), dweight (C,) and dbias (C,); norm has the statistics that forward used."""
    dtype = statistics_dtype(x)
    mean, var = (t.to(dtype) for t in norm.statistics)
    weight = mean.new_ones(x.shape[1]) if norm.weight is None else norm.weight.to(dtype)
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
    if norm.activation != "none":
        z = torch.native_batch_norm(x, weight, _to(norm.bias, dtype), mean, var, False, 0.0, norm.eps)[0]
        dy = activation_backward(dy, z, norm.activation, norm.slope)
    inverse = torch.rsqrt(var + norm.eps)
    return torch.ops.aten.native_batch_norm_backward(
        dy, x, weight, mean, var, mean, inverse, norm.training, norm.eps, [True, True, True]
    )


def norm_act_residual_backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor,
    norm: Norm,
    forward: Forward = norm_act,
    backward: Backward = norm_act_backward,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dx and d_residual (N, C, *space), dweight (C,) and dbias (C,).

    `forward` and `backward` compute the norm and its gradient.
    """
    alone = norm._replace(activation="none")
    if norm.activation == "none":
        d_residual = dy.clone()
    else:
        z = forward(x, alone)[0].add_(residual)
        d_residual = activation_backward(dy, z, norm.activation, norm.slope)
    dx, dweight, dbias = backward(d_residual, x, alone)
    return dx, d_residual, dweight, dbias


def differentiable_backward(dy: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute norm_act_backward with differentiable operations; in training the statistics are functions of x.

    Returns:
        dx (N, C, *space), dweight (C,) and dbias (C,).
    """
    dx, _, dweight, dbias = differentiable_residual_backward(dy, x, None, norm)
    return dx, dweight, dbias


def differentiable_residual_backward(
    dy: Tensor, x: Tensor, residual: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute norm_act_residual_backward with differentiable operations; the residual may be None.

    Returns:
        dx and d_residual (N, C, *space), dweight (C,) and dbias (C,).
    """
    if not norm.training:
        return _differentiable_by(dy, x, residual, norm, None)
    xs, space = x.to(statistics_dtype(x)), [0, *range(2, x.dim())]
    count = max(x.numel() // max(x.shape[1], 1), 1)
    norm = norm._replace(mean=xs.mean(space), var=xs.var(space, correction=0))
    return _differentiable_by(dy, x, residual, norm, lambda sums: sums / count)


def differentiable_backward_by(
    dy: Tensor, x: Tensor, norm: Norm, average: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute norm_act_backward with differentiable operations and differentiable statistics.

    Args:
        dy: (N, C, *space).
        x: (N, C, *space).
        norm: with mean and var as functions of x.
        average: turns x's sums (2, C) into averages over all values that the statistics cover; None where the
            statistics are constant.

    Returns:
        dx (N, C, *space), dweight (C,) and dbias (C,).
    """
    dx, _, dweight, dbias = _differentiable_by(dy, x, None, norm, average)
    return dx, dweight, dbias


def _differentiable_by(
    dy: Tensor, x: Tensor, residual: Tensor | None, norm: Norm, average: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, (mean, var) = statistics_dtype(x), norm.statistics
    shape, space = [1, -1] + [1] * (x.dim() - 2), [0, *range(2, x.dim())]
    inverse = torch.rsqrt(var.to(dtype) + norm.eps)
    normalised = (x.to(dtype) - mean.to(dtype).view(shape)) * inverse.view(shape)
    scale = torch.ones_like(inverse) if norm.weight is None else norm.weight.to(dtype)
    z = normalised * scale.view(shape)
    if norm.bias is not None:
        z = z + norm.bias.to(dtype).view(shape)
    if residual is not None:
        z = z + residual.to(dtype)
    d_residual = dz = dy.to(dtype) * slope_at(z, norm.activation, norm.slope)
    dweight, dbias = (dz * normalised).sum(space), dz.sum(space)
    if average is not None:
        along, constant = average(torch.stack([dweight, dbias])).unbind()
        dz = dz - (constant.view(shape) + normalised * along.view(shape))
    dx = dz * (scale * inverse).view(shape)
    return dx.to(x.dtype), d_residual.to(x.dtype), dweight, dbias


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
