"""Decisions remembered by the tensors that they were made for, with a cheap look-up.

torch.compile's guards compare tensors with earlier ones in one call, in everything that a decision may depend on: they
take 0.5 µs, where comparing attribute by attribute in Python takes 3.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from . import _torch, choice
from .measured.capture import are_launches_captured

# Looked up once: these checks are most of a call's cost.
_decisions, _has_preference = choice.decisions, choice.has_preference
_is_compiling = torch.compiler.is_dynamo_compiling
_forward_level, _tracing_state = _torch.forward_level, _torch.tracing_state
_count_function_modes = _torch.count_function_modes
_DECISIONS_PER_KEY = 4


def may_recall() -> bool:
    """Whether remembered decisions hold: no tracing, function modes, forward-mode differentiation or FASTVGAN_IMPL.

    Transforms, dispatch modes and autocast need no check here: the guards see them on the tensors.
    """
    return not (
        _is_compiling()
        or _forward_level() >= 0
        or _tracing_state() is not None
        or (_count_function_modes() and not _torch.are_only_device_modes())
        or _has_preference()
    )


def may_decide(*tensors: torch.Tensor) -> bool:
    """Whether a decision for these tensors, of any shapes, may be made and remembered.

    It may not for subclasses of torch.Tensor, under transforms or tracing, or while a CUDA graph is captured. Dispatch
    modes then see stock PyTorch's operations where those are chosen, as modes for checkpoints need.
    """
    return not (
        any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
        or _torch.are_transforms_active()
        or _tracing_state() is not None
        or (tensors[0].is_cuda and are_launches_captured())
    )


def without_none(*tensors: torch.Tensor | None) -> list[torch.Tensor]:
    """Return the tensors, of any shapes, that are not None."""
    return [tensor for tensor in tensors if tensor is not None]


def recall(key: Hashable, *tensors: torch.Tensor) -> Any:
    """Return the decision remembered by this key for tensors like these, of any shapes, or None."""
    for is_like, decision in _decisions.get(key, ()):
        if is_like(*tensors):
            return decision
    return None


def remember(key: Hashable, decision: Any, *tensors: torch.Tensor) -> None:
    """Remember a decision, which is not None, for `recall`; it replaces the key's oldest one if there are many.

    Keys may hold addresses of parameters, which later parameters may reuse: a decision is only found for tensors like
    these.

    Args:
        key: for the look-up.
        decision: to return from `recall`.
        tensors: of any shapes.
    """
    is_like = same_kind_as(*tensors)
    if is_like is not None:
        choice.remember(key, ((is_like, decision), *_decisions.get(key, ())[: _DECISIONS_PER_KEY - 1]))


def same_kind_as(*tensors: torch.Tensor) -> Callable[..., bool] | None:
    """Return a function that tells whether as many tensors are like these.

    It compares class, dtype, device, shape, strides, requires_grad and dispatch keys, and so whether the tensor is
    in a transform, under a dispatch mode, under autocast or in inference mode. It ignores grad mode, forward-mode
    differentiation and autocast's dtype.

    Returns:
        The function, or None where this torch has no guards.
    """
    if _torch.TensorGuards is None:
        return None
    return _torch.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
