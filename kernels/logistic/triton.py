"""logistic in Triton: one launch forward, of one program because logits are few, and one backward."""

import torch
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.math import sigmoid
from ..triton.support import on_its_device

_BLOCK = 1024


@jit
def softplus(x):
    """log(1 + exp(x)) without overflow; torch's threshold of 20 makes no difference in float32."""
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1, exact to a few units in the last place, by the correction of Kahan 1982."""
    total = 1.0 + x
    # The quotient corrects the rounding of the sum. Near 0 the sum is 1 and log(1 + x) = x.
    return tl.where(total == 1.0, x, tl.log(total) * (x / tl.where(total == 1.0, 1.0, total - 1.0)))


@jit
def logistic_kernel(logits, loss, probability, count, POSITIVE: constexpr, BLOCK: constexpr):
    """The means of softplus(logits), or of softplus(-logits) with POSITIVE, and of sigmoid(logits). One program."""
    losses = tl.zeros((BLOCK,), tl.float32)
    probabilities = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        x = tl.load(logits + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
        each = softplus(-x) if POSITIVE else softplus(x)
        # The comparison in softplus would lose a NaN.
        losses += tl.where(i < count, tl.where(x == x, each, x), 0.0)
        probabilities += tl.where(i < count, sigmoid(x), 0.0)
    tl.store(loss, tl.sum(losses, 0) / count)
    tl.store(probability, tl.sum(probabilities, 0) / count)


@jit
def logistic_backward_kernel(dloss, logits, grad, count, POSITIVE: constexpr, BLOCK: constexpr):
    """The gradient of the logits. Programs: (block of logits)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    each = tl.load(dloss).to(tl.float32) / count
    slope = -sigmoid(-x) if POSITIVE else sigmoid(x)
    tl.store(grad + i, (each * slope).to(grad.dtype.element_ty), i < count)


@on_its_device
def logistic(logits: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Return loss and probability, () float32, of logits of any shape."""
    x = logits.contiguous()
    loss, probability = (x.new_empty((), dtype=torch.float32) for _ in range(2))
    logistic_kernel[(1,)](x, loss, probability, x.numel(), POSITIVE=positive, BLOCK=_BLOCK)
    return loss, probability


@on_its_device
def logistic_backward(dloss: Tensor, logits: Tensor, positive: bool) -> Tensor:
    """Return the gradient of the logits, of their shape and dtype."""
    x = logits.contiguous()
    grad = torch.empty_like(x)
    logistic_backward_kernel[(-(-x.numel() // _BLOCK),)](dloss, x, grad, x.numel(), POSITIVE=positive, BLOCK=_BLOCK)
    return grad
