"""logistic in plain PyTorch: the definition of correct results, on every device and dtype."""

import torch
from torch import Tensor
from torch.nn import functional


def logistic(logits: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Return the loss and the probability, () float32, of logits of any shape."""
    x = _precise(logits)
    return functional.softplus(-x if positive else x).mean().float(), x.sigmoid().mean().float()


def logistic_backward(dloss: Tensor, logits: Tensor, positive: bool) -> Tensor:
    """Return the gradient of the logits, of their shape and dtype, from that of the loss, ()."""
    x = _precise(logits)
    each = (dloss.to(x.dtype) / x.numel()).expand(x.shape)
    grad = torch.ops.aten.softplus_backward(each, -x if positive else x, 1.0, 20.0)
    return (-grad if positive else grad).to(logits.dtype)


def differentiable_backward(dloss: Tensor, logits: Tensor, positive: bool) -> Tensor:
    """Compute logistic_backward with differentiable operations; shapes as there."""
    x = _precise(logits)
    slope = -torch.sigmoid(-x) if positive else torch.sigmoid(x)
    return (dloss.to(x.dtype) / x.numel() * slope).to(logits.dtype)


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
