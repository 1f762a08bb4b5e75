"""Decisions that are remembered by the tensors that they were made for, and found again at little cost.

Whether tensors are like earlier ones in everything that a decision may depend on is asked of torch in one call: asked
from Python, attribute by attribute, that takes 3 µs of a call's time; torch.compile's guards take 0.5.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from . import _torch, choice

# Looked up once: these checks are most of what a call costs.
_decisions, _is_undirected, _is_traced = choice.decisions, choice.is_undirected, torch.compiler.is_dynamo_compiling
_forward_level, _tracing_state = _torch.forward_level, _torch.tracing_state
_KINDS = 4  # of tensors, for each key


def may_recall() -> bool:
    """Whether a remembered decision holds: nothing traces or differentiates forward, and no implementation is named.

    That a transform, a dispatch mode or autocast is at work is seen on the tensors.
    """
    return not (_is_traced() or _forward_level() >= 0 or _tracing_state() is not None) and _is_undirected()


def recall(key: Hashable, *tensors: torch.Tensor) -> Any:
    """What was remembered by this key for tensors like these, or None."""
    for is_like, decision in _decisions.get(key, ()):
        if is_like(*tensors):
            return decision
    return None


def remember(key: Hashable, decision: Any, *tensors: torch.Tensor) -> None:
    """Have `recall` find a decision, which is not None, in place of the key's oldest one if there are many.

    Keys may hold the addresses of parameters, which others may have later: what is found is for tensors like these.
    """
    is_like = same_kind_as(*tensors)
    if is_like is not None:
        choice.remember(key, ((is_like, decision), *_decisions.get(key, ())[: _KINDS - 1]))


def same_kind_as(*tensors: torch.Tensor) -> Callable[..., bool] | None:
    """A function of as many values: whether they are tensors like these, in a context like this one.

    Equal are: class, dtype, device, sizes, strides, requires_grad and the dispatch keys, so that a tensor in a
    transform, under a dispatch mode, under autocast or in inference mode is not like one that is not. Grad mode,
    forward-mode differentiation and autocast's dtype are not asked about.

    Returns:
        The function, or None where this torch has none.
    """
    if _torch.TensorGuards is None:
        return None
    return _torch.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
