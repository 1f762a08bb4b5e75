"""The mean binary cross entropy of logits against one target, and the mean probability, as one operation."""

import torch

from .. import choice
from ..dispatch import define, differentiable, differentiable_by
from . import reference
from .protocol import Logistic

choice.register(
    "logistic",
    # A launch where PyTorch takes four and more: there is nothing to weigh.
    triton=choice.in_triton(__name__),
    reference=choice.Implementation(reference),
)


def logistic(logits: torch.Tensor, positive: bool, impl: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross entropy of logits against the target 1 or 0, and the probability that they stand for, in the mean.

    Equivalent to `softplus(-logits.float()).mean(), logits.float().sigmoid().mean()` for the target 1, and to the same
    with softplus(logits) for 0.

    Args:
        logits: of any shape and floating-point dtype, at least one.
        positive: whether the target is 1.
        impl: "auto" or an implementation's name.

    Returns:
        The cross entropy, () float32, and the probability, () float32, which takes no gradient.

    Raises:
        TypeError: the logits are not floating-point.
        ValueError: a named implementation that cannot run.
    """
    choice.check_name(impl)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating-point dtype, not {logits.dtype}")
    return _logistic(logits, positive, impl)


def _pick(logits, impl) -> Logistic:
    return choice.pick("logistic", impl, logits) if logits.numel() else reference


def _kernel(logits, positive, impl):
    return _pick(logits, impl).logistic(logits, positive)


def _fake(logits, positive, impl):
    return logits.new_empty((), dtype=torch.float32), logits.new_empty((), dtype=torch.float32)


def _backward_kernel(dloss, logits, positive, impl):
    return _pick(logits, impl).logistic_backward(dloss, logits, positive).contiguous()


def _backward_fake(dloss, logits, positive, impl):
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


_logistic = define(
    "logistic(Tensor logits, bool positive, str impl) -> (Tensor loss, Tensor probability)", _kernel, _fake
)
_logistic_backward = define(
    "logistic_backward(Tensor dloss, Tensor logits, bool positive, str impl) -> Tensor",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx, args, outputs):
    logits, *ctx.rest = args
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(logits)


def _backward(ctx, dloss, _probability):
    return _logistic_backward(dloss, *ctx.saved_tensors, *ctx.rest), None, None


def _backward_composite(dloss, logits, positive, impl):
    return reference.differentiable_backward(dloss, logits, positive)


def _stock(logits, positive, impl):
    loss, probability = reference.logistic(logits, positive)
    return loss, probability.detach()


differentiable(_logistic, _save, _backward, stock=_stock)
differentiable_by(_logistic_backward, _backward_composite)
