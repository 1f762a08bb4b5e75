"""Norms that auto leaves to stock PyTorch: its group_norm and activation, which autograd records.

As for norm_act, and for the same reason: an operation of ours costs the host more than a small norm takes.
"""

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
_SMALL = 1 << 15  # values up to which stock PyTorch is as fast or faster


def slower(x: torch.Tensor, groups: int) -> str | None:
    """Why auto leaves this norm on the CPU to stock PyTorch, or None."""
    return "stock PyTorch is faster on problems this small" if x.numel() <= _SMALL else None


def serves(x, groups, weight, bias) -> bool | None:
    """Whether `group_norm_act` below is to be called, or None where `decide` has to be asked."""
    if _is_traced() or forward_ad._current_level >= 0 or not _is_undirected():
        return False
    for is_like, stock in _decisions.get(("group", id(weight), id(bias), groups), ()):
        alike = is_like(*_given(x, weight, bias)) if weight is None or bias is None else is_like(x, weight, bias)
        if alike:
            return stock and not (x.is_cuda and are_launches_captured())
    return None


def decide(x, groups, weight, bias) -> bool:
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
    stock = _is_taken(*tensors) and choice.pick("group_norm_act", "auto", x, groups) is reference
    # The parameters are found by their addresses, which others may have later: only where they are like these.
    is_like = same_kind_as(*tensors)
    if is_like is not None:
        key = "group", id(weight), id(bias), groups
        choice.remember(key, ((is_like, stock), *_decisions.get(key, ())[: _RECALLED - 1]))
    return stock


def group_norm_act(x, groups, weight, bias, eps, activation, slope) -> torch.Tensor:
    """The operation by stock PyTorch; arguments as its public function's, where `serves` or `decide` is true."""
    y = torch.group_norm(x, groups, weight, bias, eps, torch.backends.cudnn.enabled)
    y = activate_result(y, activation, slope)
    return y if y.stride() == x.stride() else layout.in_format(y, layout.format_of(x))


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
