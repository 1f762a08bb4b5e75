"""logistic in Triton: one program, since logits are few; one launch forward and one backward."""

import torch
import triton
import triton.language as tl

from ..triton.math import sigmoid
from ..triton.support import on_its_device

_BLOCK = 1024


@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow; as torch's, whose threshold of 20 changes nothing in float32."""
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1, exact to a few units in the last place, by the correction of Kahan 1982."""
    total = 1.0 + x
    # What rounding took from the sum is in the quotient; near 0 the sum is 1, and x is its own logarithm.
    return tl.where(total == 1.0, x, tl.log(total) * (x / tl.where(total == 1.0, 1.0, total - 1.0)))


@triton.jit
def logistic_kernel(logits, loss, probability, count, POSITIVE: tl.constexpr, BLOCK: tl.constexpr):
    """The means of softplus(logits), or of softplus(-logits) with POSITIVE, and of sigmoid(logits). One program."""
    losses = tl.zeros((BLOCK,), tl.float32)
    probabilities = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        x = tl.load(logits + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
        each = softplus(-x) if POSITIVE else softplus(x)
        # A NaN is not to be lost in the comparison of softplus.
        losses += tl.where(i < count, tl.where(x == x, each, x), 0.0)
        probabilities += tl.where(i < count, sigmoid(x), 0.0)
    tl.store(loss, tl.sum(losses, 0) / count)
    tl.store(probability, tl.sum(probabilities, 0) / count)


@triton.jit
def logistic_backward_kernel(dloss, logits, grad, count, POSITIVE: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of the logits. Programs: a block each."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    each = tl.load(dloss).to(tl.float32) / count
    slope = -sigmoid(-x) if POSITIVE else sigmoid(x)
    tl.store(grad + i, (each * slope).to(grad.dtype.element_ty), i < count)


@on_its_device
def logistic(logits, positive):
    """(loss, probability), () float32."""
    x = logits.contiguous()
    loss, probability = (x.new_empty((), dtype=torch.float32) for _ in range(2))
    logistic_kernel[(1,)](x, loss, probability, x.numel(), POSITIVE=positive, BLOCK=_BLOCK)
    return loss, probability


@on_its_device
def logistic_backward(dloss, logits, positive):
    """The gradient of the logits, of their dtype."""
    x = logits.contiguous()
    grad = torch.empty_like(x)
    logistic_backward_kernel[(-(-x.numel() // _BLOCK),)](dloss, x, grad, x.numel(), POSITIVE=positive, BLOCK=_BLOCK)
    return grad
