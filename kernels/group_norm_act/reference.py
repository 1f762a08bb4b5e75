"""group_norm_act in plain PyTorch: the definition of correct results, on every device and dtype."""

import torch
from torch import Tensor

from .. import layout
from ..activations import activate, activate_, activation_backward, slope_at
from ..dtypes import statistics_dtype
from .protocol import GroupNorm


def group_norm_act(x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (N, C, *space), the groups' mean and 1 / √(variance + eps), both (N, groups)."""
    if x.numel() == 0:
        empty = x.new_zeros((x.shape[0], norm.groups), dtype=statistics_dtype(x))
        return torch.empty_like(x), empty, empty.clone()
    y, mean, inverse = _normalise(x, norm)
    return activate_(y, norm.activation, norm.slope).to(x.dtype), mean, inverse


def stock(x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs of the operation with PyTorch's own differentiable operations.

    Returns:
        y (N, C, *space), the groups' mean and 1 / √(variance + eps), both (N, groups).
    """
    dtype = statistics_dtype(x)
    shape = x.shape[0], norm.groups, values_per_group(x, norm.groups)
    if x.numel() == 0:
        empty = x.new_zeros(shape[:2], dtype=dtype)
        return x.clone(), empty, empty.clone()
    dense, weight, bias = _as_torch_takes(x, norm)
    # group_norm's forward-mode rule fails where x or its tangent is not contiguous.
    dense = dense.clone(memory_format=torch.contiguous_format)
    y = torch.group_norm(dense, norm.groups, weight, bias, norm.eps, False)
    y = activate(y, norm.activation, norm.slope).to(x.dtype).contiguous(memory_format=layout.format_of(x))
    var, mean = torch.var_mean(x.detach().to(dtype).reshape(shape), -1, correction=0)
    return y, mean, torch.rsqrt(var + norm.eps)


def group_norm_act_backward(
    dy: Tensor, x: Tensor, norm: GroupNorm, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx (N, C, *space), dweight (C,) and dbias (C,); mean and inverse are as forward returned them."""
    dtype, channels = statistics_dtype(x), x.shape[1]
    if x.numel() == 0:
        return torch.empty_like(x), x.new_zeros(channels, dtype=dtype), x.new_zeros(channels, dtype=dtype)
    if norm.activation != "none":
        z = _normalise(x, norm)[0]
        dy = activation_backward(dy.to(z.dtype).contiguous(), z, norm.activation, norm.slope)
    dense, weight, _ = _as_torch_takes(x, norm)
    dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
        dy.to(dense.dtype).contiguous(),
        dense,
        mean.to(weight.dtype),
        inverse.to(weight.dtype),
        weight,
        x.shape[0],
        channels,
        x.shape[2:].numel(),
        norm.groups,
        [True, True, True],
    )
    return dx.to(x.dtype), dweight, dbias


def differentiable_backward(dy: Tensor, x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute group_norm_act_backward with differentiable operations and statistics that are functions of x.

    Returns:
        dx (N, C, *space), dweight (C,) and dbias (C,).
    """
    dtype, channels, space = statistics_dtype(x), x.shape[1], [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    grouped = x.shape[0], norm.groups, values_per_group(x, norm.groups)
    xs = x.to(dtype).reshape(grouped)
    mean, inverse = xs.mean(-1, keepdim=True), torch.rsqrt(xs.var(-1, correction=0, keepdim=True) + norm.eps)
    normalised = ((xs - mean) * inverse).reshape(x.shape)
    scale = xs.new_ones(channels) if norm.weight is None else norm.weight.to(dtype)
    z = normalised * scale.view(shape)
    if norm.bias is not None:
        z = z + norm.bias.to(dtype).view(shape)
    dz = dy.to(dtype) * slope_at(z, norm.activation, norm.slope)
    dweight, dbias = (dz * normalised).sum(space), dz.sum(space)
    scaled, along = (dz * scale.view(shape)).reshape(grouped), normalised.reshape(grouped)
    centred = scaled - scaled.mean(-1, keepdim=True) - along * (scaled * along).mean(-1, keepdim=True)
    return (centred * inverse).reshape(x.shape).to(x.dtype), dweight, dbias


def values_per_group(x: Tensor, groups: int) -> int:
    """Return the number of values in one group of one sample of x (N, C, *space)."""
    return x.shape[1] // groups * x.shape[2:].numel()


def _normalise(x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """y before the activation, in the dtype of `_as_torch_takes`, and the statistics."""
    dense, weight, bias = _as_torch_takes(x, norm)
    n, channels, space = x.shape[0], x.shape[1], x.shape[2:].numel()
    return torch.native_group_norm(dense, weight, bias, n, channels, space, norm.groups, norm.eps)


def _as_torch_takes(x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, weight and bias as torch.group_norm takes them to compute statistics in float32 or float64.

    On the CPU torch allows float32 parameters beside an x in half precision, elsewhere only parameters of x's dtype. x
    is made contiguous: for a channels-last x torch computes the variance as E[x²] - E[x]², which cancels.
    """
    dtype, channels = statistics_dtype(x), x.shape[1]
    x = (x if x.is_cpu else x.to(dtype)).contiguous()
    weight = x.new_ones(channels, dtype=dtype) if norm.weight is None else norm.weight.to(dtype)
    bias = x.new_zeros(channels, dtype=dtype) if norm.bias is None else norm.bias.to(dtype)
    return x, weight, bias
