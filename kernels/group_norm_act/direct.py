"""Norms that auto leaves to stock PyTorch: its group_norm and activation, which autograd records.

As for norm_act, and for the same reason: an operation of ours costs the host more than a small norm takes.
"""

import math

import torch
from torch import _C
from torch.autograd import forward_ad

from .. import choice, layout
from ..guards import same_kind_as
from ..measured.capture import are_launches_captured
from ..norm_act.direct import activate_result
from . import reference

# Looked up once: these checks are most of what a call costs.
_decisions, _is_undirected, _is_traced = choice.decisions, choice.is_undirected, torch.compiler.is_dynamo_compiling
_RECALLED = 4  # kinds of input for each norm
# Values up to which stock PyTorch is as fast or faster, with a gradient and without one: one thread with AVX-512,
# groups of one channel and of several. Its channels-last backward takes several times as long as its contiguous one.
_CONTIGUOUS = {"float32": (1 << 18, 1 << 18), "half": (1 << 17, 1 << 16)}
_CHANNELS_LAST = {"float32": (1 << 15, 1 << 18), "half": (1 << 12, 1 << 16)}
# The same for a norm without an activation, for which stock PyTorch too reads and writes once.
_CONTIGUOUS_ALONE = {"float32": (math.inf, math.inf), "half": (1 << 19, 1 << 18)}
_CHANNELS_LAST_ALONE = {"float32": (1 << 15, math.inf), "half": (1 << 12, 1 << 18)}
_COPIED = 1 << 14  # values up to which copies to the contiguous layout and back pay where there is no gradient


def slower(x: torch.Tensor, groups: int, activation: str) -> str | None:
    """Why auto leaves this norm on the CPU to stock PyTorch, or None."""
    if _is_channels_last(x):
        limits = _CHANNELS_LAST_ALONE if activation == "none" else _CHANNELS_LAST
    else:
        limits = _CONTIGUOUS_ALONE if activation == "none" else _CONTIGUOUS
    limit = limits["float32" if x.dtype is torch.float32 else "half"][not x.requires_grad]
    if x.numel() <= limit:
        return "stock PyTorch is as fast on problems of this size, layout and activation"
    return None


def serves(x, groups, weight, bias, activation: str) -> bool | None:
    """Whether `group_norm_act` below is to be called, or None where `decide` has to be asked."""
    if _is_traced() or forward_ad._current_level >= 0 or not _is_undirected():
        return False
    for is_like, stock in _decisions.get(("group", id(weight), id(bias), groups, activation), ()):
        if is_like(x, *_given(weight, bias)):
            return stock and not (x.is_cuda and are_launches_captured())
    return None


def decide(x, groups, weight, bias, activation: str) -> bool:
    """What `serves` shall say of arguments that are checked; remembered where nothing traces or transforms."""
    tensors = _given(x, weight, bias)
    if (
        any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
        or _C._len_torch_dispatch_stack()
        or _C._are_functorch_transforms_active()
        or _C._get_tracing_state() is not None
        or (x.is_cuda and are_launches_captured())
    ):
        return False
    stock = _is_taken(*tensors) and choice.pick("group_norm_act", "auto", x, groups, activation) is reference
    # The parameters are found by their addresses, which others may have later: only where they are like these.
    is_like = same_kind_as(*tensors)
    if is_like is not None:
        key = "group", id(weight), id(bias), groups, activation
        choice.remember(key, ((is_like, stock), *_decisions.get(key, ())[: _RECALLED - 1]))
    return stock


def group_norm_act(x, groups, weight, bias, eps, activation, slope) -> torch.Tensor:
    """The operation by stock PyTorch; arguments as its public function's, where `serves` or `decide` is true."""
    if weight is None and bias is None and x.is_cpu and x.dtype in (torch.bfloat16, torch.float16):
        # Without them it would round the statistics that backward needs to x's dtype.
        weight, bias = (x.new_full((x.shape[1],), value, dtype=torch.float32) for value in (1, 0))
    is_copied = x.is_cpu and x.numel() <= _COPIED and not x.requires_grad and _is_channels_last(x)
    given = x.contiguous() if is_copied else x
    y = torch.group_norm(given, groups, weight, bias, eps, torch.backends.cudnn.enabled)
    y = activate_result(y, activation, slope)
    return y if y.stride() == x.stride() else layout.in_format(y, layout.format_of(x))


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
