"""logistic in plain PyTorch: the definition of right, on every device and dtype."""

import torch
from torch.nn import functional


def logistic(logits, positive):
    """(loss, probability), () float32."""
    x = logits.float()
    return functional.softplus(-x if positive else x).mean(), x.sigmoid().mean()


def logistic_backward(dloss, logits, positive):
    """The gradient of the logits, of their dtype."""
    x = logits.float()
    each = (dloss / x.numel()).expand(x.shape)
    grad = torch.ops.aten.softplus_backward(each, -x if positive else x, 1.0, 20.0)
    return (-grad if positive else grad).to(logits.dtype)


def differentiable_backward(dloss, logits, positive):
    """logistic_backward out of plain differentiable operations."""
    x = logits.float()
    slope = -torch.sigmoid(-x) if positive else torch.sigmoid(x)
    return (dloss / x.numel() * slope).to(logits.dtype)
