"""norm_act in plain PyTorch: the definition of right, on every device and dtype."""

import torch

from ..activations import activate, activate_, activation_backward, slope_at
from ..dtypes import statistics_dtype
from .protocol import Capabilities

CAPABILITIES = Capabilities(statistics=True)


def norm_act(x, weight, bias, mean, var, eps, activation, slope):
    """(y, mean, var); with mean and var None by the batch's own, which are then returned, else (0,) tensors."""
    dtype, channels = statistics_dtype(x), x.shape[1]
    training = mean is None
    if training:
        mean, var = x.new_zeros(channels, dtype=dtype), x.new_zeros(channels, dtype=dtype)
    count = x.numel() // max(channels, 1)
    if count == 0:
        y = torch.empty_like(x)
    else:
        # With momentum 1 the running statistics become the batch's, the variance unbiased.
        y = torch.native_batch_norm(x, _to(weight, dtype), _to(bias, dtype), mean, var, training, 1.0, eps)[0]
        if training:
            var = var * ((count - 1) / count) if count > 1 else torch.zeros_like(var)
    y = activate_(y, activation, slope)
    return (y, mean, var) if training else (y, mean.new_empty(0, dtype=dtype), mean.new_empty(0, dtype=dtype))


def statistics(x):
    """x's mean and biased variance, (C,), of statistics_dtype."""
    zeros = x.new_zeros((2, x.shape[1]), dtype=statistics_dtype(x))
    return torch.batch_norm_update_stats(x, *zeros.unbind(), 0.0)


def norm_act_residual(x, residual, weight, bias, mean, var, eps, activation, slope, forward=norm_act):
    """norm_act with `residual` added before the activation: the norm by `forward`, and then the rest."""
    y, *statistics = forward(x, weight, bias, mean, var, eps, "none", slope)
    return activate_(y.add_(residual), activation, slope), *statistics


def stock(x, weight, bias, mean, var, training, eps, activation, slope, residual=None):
    """(y, mean, var) as the operation gives them, out of PyTorch's own differentiable operations.

    In training y is a function of x's own statistics, also where they are given.
    """
    dtype = statistics_dtype(x)
    by = (None, None) if training else (mean.to(dtype), var.to(dtype))
    if x.numel() == 0:  # batch_norm refuses it
        y = x.clone()
    else:
        y = torch.batch_norm(x, _to(weight, dtype), _to(bias, dtype), *by, training, 0.0, eps, False)
    y = activate(y if residual is None else y + residual, activation, slope)
    if mean is not None:
        return y, *(mean.new_empty(0, dtype=dtype) for _ in range(2))
    values = x.detach().to(dtype)
    batch_var, batch_mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
    return y, batch_mean, batch_var


def norm_act_backward(dy, x, weight, bias, mean, var, training, eps, activation, slope):
    """(dx, dweight, dbias); mean and var are those that forward used."""
    dtype = statistics_dtype(x)
    mean, var = mean.to(dtype), var.to(dtype)
    weight = mean.new_ones(x.shape[1]) if weight is None else weight.to(dtype)
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
    if activation != "none":
        z = torch.native_batch_norm(x, weight, _to(bias, dtype), mean, var, False, 0.0, eps)[0]
        dy = activation_backward(dy, z, activation, slope)
    inverse = torch.rsqrt(var + eps)
    return torch.ops.aten.native_batch_norm_backward(
        dy, x, weight, mean, var, mean, inverse, training, eps, [True, True, True]
    )


def norm_act_residual_backward(
    dy,
    x,
    residual,
    weight,
    bias,
    mean,
    var,
    training,
    eps,
    activation,
    slope,
    forward=norm_act,
    backward=norm_act_backward,
):
    """(dx, d_residual, dweight, dbias), the norm's by `forward` and `backward`."""
    if activation == "none":
        d_residual = dy.clone()
    else:
        z = forward(x, weight, bias, mean, var, eps, "none", slope)[0].add_(residual)
        d_residual = activation_backward(dy, z, activation, slope)
    dx, *rest = backward(d_residual, x, weight, bias, mean, var, training, eps, "none", slope)
    return dx, d_residual, *rest


def differentiable_backward(dy, x, weight, bias, mean, var, training, eps, activation, slope):
    """norm_act_backward out of plain differentiable operations; batch statistics are functions of x here."""
    dx, _, *rest = differentiable_residual_backward(
        dy, x, None, weight, bias, mean, var, training, eps, activation, slope
    )
    return dx, *rest


def differentiable_residual_backward(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope):
    """norm_act_residual_backward likewise; the residual may be None for none."""
    if not training:
        return _differentiable_by(dy, x, residual, weight, bias, mean, var, None, eps, activation, slope)
    xs, space = x.to(statistics_dtype(x)), [0, *range(2, x.dim())]
    mean, var = xs.mean(space), xs.var(space, correction=0)
    count = max(x.numel() // max(x.shape[1], 1), 1)
    return _differentiable_by(dy, x, residual, weight, bias, mean, var, lambda s: s / count, eps, activation, slope)


def differentiable_backward_by(dy, x, weight, bias, mean, var, average, eps, activation, slope):
    """differentiable_backward by statistics that are differentiable themselves.

    `average` makes of x's sums (2, C) the averages over all values that the statistics are of; None where they are
    constant.
    """
    dx, _, *rest = _differentiable_by(dy, x, None, weight, bias, mean, var, average, eps, activation, slope)
    return dx, *rest


def _differentiable_by(dy, x, residual, weight, bias, mean, var, average, eps, activation, slope):
    """(dx, d_residual, dweight, dbias)"""
    dtype = statistics_dtype(x)
    shape, space = [1, -1] + [1] * (x.dim() - 2), [0, *range(2, x.dim())]
    inverse = torch.rsqrt(var.to(dtype) + eps)
    normalised = (x.to(dtype) - mean.to(dtype).view(shape)) * inverse.view(shape)
    scale = torch.ones_like(inverse) if weight is None else weight.to(dtype)
    z = normalised * scale.view(shape)
    if bias is not None:
        z = z + bias.to(dtype).view(shape)
    if residual is not None:
        z = z + residual.to(dtype)
    d_residual = dz = dy.to(dtype) * slope_at(z, activation, slope)
    dweight, dbias = (dz * normalised).sum(space), dz.sum(space)
    if average is not None:
        along, constant = average(torch.stack([dweight, dbias])).unbind()
        dz = dz - (constant.view(shape) + normalised * along.view(shape))
    dx = dz * (scale * inverse).view(shape)
    return dx.to(x.dtype), d_residual.to(x.dtype), dweight, dbias


def _to(tensor, dtype):
    return None if tensor is None else tensor.to(dtype)
