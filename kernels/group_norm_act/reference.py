"""group_norm_act in plain PyTorch: the definition of right, on every device and dtype."""

import torch

from .. import layout
from ..activations import activate, activate_, activation_backward, slope_at
from ..dtypes import statistics_dtype


def group_norm_act(x, groups, weight, bias, eps, activation, slope):
    """(y, mean, inverse); the statistics are (N, groups), inverse is 1 / √(variance + eps)."""
    if x.numel() == 0:
        empty = x.new_zeros((x.shape[0], groups), dtype=statistics_dtype(x))
        return torch.empty_like(x), empty, empty.clone()
    y, mean, inverse = _normalised(x, groups, weight, bias, eps)
    return activate_(y, activation, slope).to(x.dtype), mean, inverse


def stock(x, groups, weight, bias, eps, activation, slope):
    """(y, mean, inverse) as the operation gives them, out of PyTorch's own differentiable operations."""
    dtype = statistics_dtype(x)
    shape = x.shape[0], groups, values_per_group(x, groups)
    if x.numel() == 0:
        empty = x.new_zeros(shape[:2], dtype=dtype)
        return x.clone(), empty, empty.clone()
    given, *rest = _accepted(x, groups, weight, bias)
    # Its rule for forward mode fails where x or a tangent of it is not contiguous.
    y = torch.group_norm(given.clone(memory_format=torch.contiguous_format), *rest, eps, False)
    y = activate(y, activation, slope).to(x.dtype).contiguous(memory_format=layout.format_of(x))
    var, mean = torch.var_mean(x.detach().to(dtype).reshape(shape), -1, correction=0)
    return y, mean, torch.rsqrt(var + eps)


def group_norm_act_backward(dy, x, groups, weight, bias, mean, inverse, eps, activation, slope):
    """(dx, dweight, dbias); mean and inverse are those that forward gave."""
    dtype, channels = statistics_dtype(x), x.shape[1]
    if x.numel() == 0:
        return torch.empty_like(x), *(x.new_zeros(channels, dtype=dtype) for _ in range(2))
    if activation != "none":
        z = _normalised(x, groups, weight, bias, eps)[0]
        dy = activation_backward(dy.to(z.dtype).contiguous(), z, activation, slope)
    given, _, weight, _ = _accepted(x, groups, weight, bias)
    dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
        dy.to(given.dtype).contiguous(),
        given,
        mean.to(weight.dtype),
        inverse.to(weight.dtype),
        weight,
        x.shape[0],
        channels,
        x.shape[2:].numel(),
        groups,
        [True, True, True],
    )
    return dx.to(x.dtype), dweight, dbias


def differentiable_backward(dy, x, groups, weight, bias, eps, activation, slope):
    """group_norm_act_backward out of plain differentiable operations; the statistics are functions of x here."""
    dtype, channels, space = statistics_dtype(x), x.shape[1], [0, *range(2, x.dim())]
    shape, grouped = [1, -1] + [1] * (x.dim() - 2), (x.shape[0], groups, values_per_group(x, groups))
    xs = x.to(dtype).reshape(grouped)
    mean, inverse = xs.mean(-1, keepdim=True), torch.rsqrt(xs.var(-1, correction=0, keepdim=True) + eps)
    normalised = ((xs - mean) * inverse).reshape(x.shape)
    scale = xs.new_ones(channels) if weight is None else weight.to(dtype)
    z = normalised * scale.view(shape)
    if bias is not None:
        z = z + bias.to(dtype).view(shape)
    dz = dy.to(dtype) * slope_at(z, activation, slope)
    dweight, dbias = (dz * normalised).sum(space), dz.sum(space)
    scaled, along = (dz * scale.view(shape)).reshape(grouped), normalised.reshape(grouped)
    centred = scaled - scaled.mean(-1, keepdim=True) - along * (scaled * along).mean(-1, keepdim=True)
    return (centred * inverse).reshape(x.shape).to(x.dtype), dweight, dbias


def values_per_group(x: torch.Tensor, groups: int) -> int:
    """Values that a group of one sample has."""
    return x.shape[1] // groups * x.shape[2:].numel()


def _normalised(x, groups, weight, bias, eps):
    x, _, weight, bias = _accepted(x, groups, weight, bias)
    return torch.native_group_norm(x, weight, bias, *x.shape[:2], x.shape[2:].numel(), groups, eps)


def _accepted(x, groups, weight, bias):
    """x, groups, weight and bias as torch.group_norm takes them, with its statistics in float32 at least.

    On the CPU it takes float32 parameters beside an x in half precision, elsewhere parameters of x's dtype alone. Of a
    channels-last x its variance is the mean square less the mean's square, which cancel.
    """
    dtype = statistics_dtype(x)
    x = (x if x.is_cpu else x.to(dtype)).contiguous()
    weight = x.new_ones(x.shape[1], dtype=dtype) if weight is None else weight.to(dtype)
    bias = x.new_zeros(x.shape[1], dtype=dtype) if bias is None else bias.to(dtype)
    return x, groups, weight, bias
