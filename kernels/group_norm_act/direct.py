"""Norms that auto leaves to stock PyTorch: its group_norm and activation, which autograd records.

As for norm_act, and for the same reason: an operation of ours costs the host more than a small norm takes.
"""

import math

import torch

from .. import _torch, choice, guards, layout
from ..measured.capture import are_launches_captured
from ..norm_act.direct import activate_result
from . import reference

# Values up to which stock PyTorch is as fast or faster, with a gradient and without one: one thread with AVX-512.
_CONTIGUOUS = {"float32": (1 << 18, 1 << 18), "half": (1 << 17, 1 << 16)}
_CHANNELS_LAST = {"float32": (1 << 16, 1 << 18), "half": (1 << 14, 1 << 16)}
# The same for a norm without an activation, for which stock PyTorch too reads and writes once.
_CONTIGUOUS_ALONE = {"float32": (math.inf, math.inf), "half": (1 << 19, 1 << 18)}
_CHANNELS_LAST_ALONE = {"float32": (1 << 16, math.inf), "half": (1 << 14, 1 << 18)}
_COPIED = 1 << 14  # values up to which copies from channels-last and back to it pay


def slower(x: torch.Tensor, groups: int, activation: str) -> str | None:
    """Why auto leaves this norm on the CPU to stock PyTorch, or None."""
    if x.numel() > _limit(x, groups, activation):
        return None
    return "stock PyTorch is as fast on problems of this size, layout and activation"


def _limit(x, groups: int, activation: str) -> float:
    """Values up to which auto takes stock PyTorch."""
    dtype, space = "float32" if x.dtype is torch.float32 else "half", x.shape[2:].numel()
    if not _is_channels_last(x):
        # What is done once for a channel has to be little beside the work on its values.
        least = 1 << 10 if dtype == "half" else 1 << 11 if groups < x.shape[1] else 1 << 13
        limits = _CONTIGUOUS_ALONE if activation == "none" else _CONTIGUOUS
        return limits[dtype][not x.requires_grad] if space >= least else math.inf
    if groups == x.shape[1]:
        # Its variance is the mean square less the mean's square, where that of its instance_norm is not.
        return _COPIED
    # Stock PyTorch's loop for these is over the few channels of a group.
    if x.shape[1] < 8 * groups and (space < 1 << 10 or x.requires_grad):
        return 1 << 16 if dtype == "float32" else _COPIED
    least = 1 << 10 if x.requires_grad else 1 << 8 if dtype == "half" else 1 << 11
    limits = _CHANNELS_LAST_ALONE if activation == "none" else _CHANNELS_LAST
    return limits[dtype][not x.requires_grad] if space >= least else math.inf


def serves(x, groups, weight, bias, activation: str) -> bool | None:
    """Whether `group_norm_act` below is to be called, or None where `decide` has to be asked."""
    if not guards.may_recall():
        return False
    stock = guards.recall(_key(groups, weight, bias, activation), x, *_given(weight, bias))
    return stock and not (x.is_cuda and are_launches_captured())


def _key(groups: int, weight, bias, activation: str) -> tuple:
    return "group", id(weight), id(bias), groups, activation


def decide(x, groups, weight, bias, activation: str) -> bool:
    """What `serves` shall say of arguments that are checked; remembered where nothing traces or transforms."""
    tensors = _given(x, weight, bias)
    if (
        any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
        or _torch.count_dispatch_modes()
        or _torch.are_transforms_active()
        or _torch.tracing_state() is not None
        or (x.is_cuda and are_launches_captured())
    ):
        return False
    stock = _is_taken(*tensors) and choice.pick("group_norm_act", "auto", x, groups, activation) is reference
    guards.remember(_key(groups, weight, bias, activation), stock, *tensors)
    return stock


def group_norm_act(x, groups, weight, bias, eps, activation, slope) -> torch.Tensor:
    """The operation by stock PyTorch; arguments as its public function's, where `serves` or `decide` is true."""
    if weight is None and bias is None and x.is_cpu and x.dtype in (torch.bfloat16, torch.float16):
        # Without them it would round the statistics that backward needs to x's dtype.
        weight, bias = (x.new_full((x.shape[1],), value, dtype=torch.float32) for value in (1, 0))
    given = _contiguous(x) if _is_copied(x, groups) else x
    y = torch.group_norm(given, groups, weight, bias, eps, torch.backends.cudnn.enabled)
    y = activate_result(y, activation, slope)
    return y if y.stride() == x.stride() else layout.in_format(y, layout.format_of(x))


def _is_copied(x, groups: int) -> bool:
    if not x.is_cpu or not _is_channels_last(x):
        return False
    if groups == x.shape[1]:
        return True  # for its variance, see _limit
    return x.numel() <= _COPIED and not (x.requires_grad and x.dtype is torch.float32)


def _contiguous(x: torch.Tensor) -> torch.Tensor:
    """A channels-last x, copied, whose gradient will be channels-last too."""
    given = x.contiguous()
    if given.requires_grad:
        memory_format = layout.format_of(x)
        given.register_hook(lambda gradient: gradient.contiguous(memory_format=memory_format))
    return given


def _is_channels_last(x: torch.Tensor) -> bool:
    return layout.format_of(x) is not torch.contiguous_format


def _given(*tensors: torch.Tensor | None) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _is_taken(x: torch.Tensor, *vectors: torch.Tensor) -> bool:
    """Whether stock PyTorch computes this as the operation does: x dense, vectors all of its dtype or all float32."""
    if not (x.is_cpu or x.is_cuda) or x.numel() == 0:
        return False
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        return False  # there it casts x to float32
    if x.stride() != layout.in_format(x, layout.format_of(x)).stride():
        return False
    # Parameters of another dtype than x's are taken on the CPU alone.
    return {vector.dtype for vector in vectors} in (set(), {x.dtype}, {torch.float32} if x.is_cpu else set())
