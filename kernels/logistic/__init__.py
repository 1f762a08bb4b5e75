"""The mean binary cross entropy of logits against one target, and the mean probability, as one operation."""

from typing import Any

import torch
from torch import Tensor

from .. import choice
from ..dispatch import define, differentiable, differentiable_by
from . import reference
from .protocol import Logistic

choice.register(
    "logistic",
    # One launch, where PyTorch needs four or more: Triton is always faster.
    triton=choice.in_triton(__name__),
    reference=choice.Implementation(reference),
)


def logistic(logits: Tensor, positive: bool, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Compute the mean binary cross entropy of logits against the target 1 or 0, and their mean probability.

    Equivalent to `softplus(-logits.float()).mean(), logits.float().sigmoid().mean()` for the target 1, and to the same
    with softplus(logits) for 0. The reference computes float64 logits in float64, and rounds the results.

    Args:
        logits: any shape with at least one value, any floating-point dtype.
        positive: whether the target is 1.
        impl: "auto" or an implementation's name.

    Returns:
        The cross entropy, () float32, and the probability, () float32, which is not differentiable.

    Raises:
        TypeError: the logits are not floating-point.
        ValueError: a named implementation that cannot run.
    """
    choice.check_name(impl)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating-point dtype, not {logits.dtype}")
    return _logistic(logits, positive, impl)


def _pick(logits: Tensor, impl: str) -> Logistic:
    return choice.pick("logistic", impl, logits) if logits.numel() else reference


def _kernel(logits: Tensor, positive: bool, impl: str) -> tuple[Tensor, Tensor]:
    return _pick(logits, impl).logistic(logits, positive)


def _fake(logits: Tensor, positive: bool, impl: str) -> tuple[Tensor, Tensor]:
    return logits.new_empty((), dtype=torch.float32), logits.new_empty((), dtype=torch.float32)


def _backward_kernel(dloss: Tensor, logits: Tensor, positive: bool, impl: str) -> Tensor:
    return _pick(logits, impl).logistic_backward(dloss, logits, positive).contiguous()


def _backward_fake(dloss: Tensor, logits: Tensor, positive: bool, impl: str) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


_logistic = define(
    "logistic(Tensor logits, bool positive, str impl) -> (Tensor loss, Tensor probability)", _kernel, _fake
)
_logistic_backward = define(
    "logistic_backward(Tensor dloss, Tensor logits, bool positive, str impl) -> Tensor",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    logits, *ctx.rest = args
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(logits)


def _backward(ctx: Any, dloss: Tensor, _probability: object) -> tuple[Tensor | None, ...]:
    return _logistic_backward(dloss, *ctx.saved_tensors, *ctx.rest), None, None


def _backward_composite(dloss: Tensor, logits: Tensor, positive: bool, impl: str) -> Tensor:
    return reference.differentiable_backward(dloss, logits, positive)


def _composite(logits: Tensor, positive: bool, impl: str) -> tuple[Tensor, Tensor]:
    loss, probability = reference.logistic(logits, positive)
    return loss, probability.detach()


differentiable(_logistic, _save, _backward, stock=_composite)
differentiable_by(_logistic_backward, _backward_composite)
