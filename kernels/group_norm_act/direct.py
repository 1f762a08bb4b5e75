"""Group norms that auto runs by stock PyTorch, as group_norm and an activation that autograd records.

As in norm_act's direct.py, an operation of this package costs the host more time than a small norm takes.
"""

import math

import torch
from torch import Tensor

from .. import _torch, choice, guards, layout
from ..measured.capture import are_launches_captured
from ..norm_act.direct import activate_result
from . import reference

# Number of values up to which stock PyTorch is as fast or faster, with a gradient and without one, measured with one
# thread and AVX-512.
_CONTIGUOUS = {"float32": (1 << 18, 1 << 18), "half": (1 << 17, 1 << 16)}
_CHANNELS_LAST = {"float32": (1 << 16, 1 << 18), "half": (1 << 14, 1 << 16)}
# The same for a norm without an activation, where stock PyTorch also reads and writes just once.
_CONTIGUOUS_ALONE = {"float32": (math.inf, math.inf), "half": (1 << 19, 1 << 18)}
_CHANNELS_LAST_ALONE = {"float32": (1 << 16, math.inf), "half": (1 << 14, 1 << 18)}
_COPIED = 1 << 14  # number of values up to which copying to contiguous and back to channels-last is faster


def slower(x: Tensor, groups: int, activation: str) -> str | None:
    """Return why auto leaves the norm of x (N, C, *space) on the CPU to stock PyTorch, or None."""
    if x.numel() > _limit(x, groups, activation):
        return None
    return "stock PyTorch is as fast on problems of this size, layout and activation"


def _limit(x: Tensor, groups: int, activation: str) -> float:
    """Number of values up to which auto takes stock PyTorch."""
    dtype, space = "float32" if x.dtype is torch.float32 else "half", x.shape[2:].numel()
    if not _is_channels_last(x):
        # The work per channel must be small compared to that on the channel's values.
        least = 1 << 10 if dtype == "half" else 1 << 11 if groups < x.shape[1] else 1 << 13
        limits = _CONTIGUOUS_ALONE if activation == "none" else _CONTIGUOUS
        return limits[dtype][not x.requires_grad] if space >= least else math.inf
    if groups == x.shape[1]:
        # Stock group_norm computes the variance as E[x²] - E[x]², which its instance_norm does not.
        return _COPIED
    # Here stock PyTorch loops over the few channels of a group.
    if x.shape[1] < 8 * groups and (space < 1 << 10 or x.requires_grad):
        return 1 << 16 if dtype == "float32" else _COPIED
    least = 1 << 10 if x.requires_grad else 1 << 8 if dtype == "half" else 1 << 11
    limits = _CHANNELS_LAST_ALONE if activation == "none" else _CHANNELS_LAST
    return limits[dtype][not x.requires_grad] if space >= least else math.inf


def serves(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, activation: str) -> bool | None:
    """Return whether to call `group_norm_act` below for x (N, C, *space), or None when `decide` must be asked.

    The arguments are those of the public group_norm_act; vectors are (C,).
    """
    if not guards.may_recall():
        return False
    stock = guards.recall(_key(groups, weight, bias, activation), x, *guards.without_none(weight, bias))
    return stock and not (x.is_cuda and are_launches_captured())


def _key(groups: int, weight: Tensor | None, bias: Tensor | None, activation: str) -> tuple:
    return "group", id(weight), id(bias), groups, activation


def decide(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, activation: str) -> bool:
    """Choose what `serves` returns for these checked arguments, and remember it unless torch traces or transforms.

    The arguments are those of the public group_norm_act: x is (N, C, *space), vectors are (C,).
    """
    tensors = guards.without_none(x, weight, bias)
    if not guards.may_decide(*tensors):
        return False
    stock = _is_supported(*tensors) and choice.pick("group_norm_act", "auto", x, groups, activation) is reference
    guards.remember(_key(groups, weight, bias, activation), stock, *tensors)
    return stock


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    in_place: bool = False,
) -> Tensor:
    """Run the public group_norm_act by stock PyTorch, with its arguments, where `serves` or `decide` returns True.

    `in_place` is activate_result's.

    Returns:
        y of the shape (N, C, *space), dtype and memory format of x.
    """
    if weight is None and bias is None and x.is_cpu and x.dtype in (torch.bfloat16, torch.float16):
        # Without parameters torch would round the statistics for backward to x's dtype.
        weight, bias = (x.new_full((x.shape[1],), value, dtype=torch.float32) for value in (1, 0))
    if _fails(x, weight, bias):
        dense = x.clone(memory_format=torch.contiguous_format)
    else:
        dense = _make_contiguous(x) if _is_copied(x, groups) else x
    y = torch.group_norm(dense, groups, weight, bias, eps, torch.backends.cudnn.enabled)
    y = activate_result(y, activation, slope, in_place)
    return y if y.stride() == x.stride() else layout.in_format(y, layout.format_of(x))


def _fails(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether stock PyTorch may end the process, as torch 2.13 does.

    For a channels-last x on the CPU its backward writes x's gradient, for which there is no memory if only the
    parameters' gradients are wanted. An x of one position counts as channels-last by its strides alone.
    """
    if x.requires_grad or not x.is_cpu or x.dim() not in (4, 5) or x.stride(1) != 1:
        return False
    return torch.is_grad_enabled() and any(vector is not None and vector.requires_grad for vector in vectors)


def _is_copied(x: Tensor, groups: int) -> bool:
    if not x.is_cpu or not _is_channels_last(x):
        return False
    if groups == x.shape[1]:
        return True  # because of the variance, see _limit
    return x.numel() <= _COPIED and not (x.requires_grad and x.dtype is torch.float32)


def _make_contiguous(x: Tensor) -> Tensor:
    """Copy a channels-last x, whose gradient will be channels-last too."""
    dense = x.contiguous()
    if dense.requires_grad:
        memory_format = layout.format_of(x)
        dense.register_hook(
            # torch's older vmap knows no memory formats.
            lambda grad: grad if _torch.is_legacy_vmap_active() else grad.contiguous(memory_format=memory_format)
        )
    return dense


def _is_channels_last(x: Tensor) -> bool:
    return layout.format_of(x) is not torch.contiguous_format


def _is_supported(x: Tensor, *vectors: Tensor) -> bool:
    """Whether stock PyTorch computes the same: x dense, vectors all of its dtype or all float32."""
    if not (x.is_cpu or x.is_cuda) or x.numel() == 0:
        return False
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        return False  # stock group_norm would cast x to float32
    if x.stride() != layout.in_format(x, layout.format_of(x)).stride():
        return False
    # Only on the CPU does stock group_norm allow parameters of another dtype than x's.
    return {vector.dtype for vector in vectors} in (set(), {x.dtype}, {torch.float32} if x.is_cpu else set())
