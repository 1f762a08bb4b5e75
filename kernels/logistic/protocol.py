"""The functions that every implementation of logistic has. They run below autograd, on at least one logit."""

from typing import Protocol

from torch import Tensor


class Logistic(Protocol):
    """The functions that every implementation has. Logits have any shape and floating-point dtype."""

    def logistic(self, logits: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
        """Return the loss and the probability, () float32."""

    def logistic_backward(self, dloss: Tensor, logits: Tensor, positive: bool) -> Tensor:
        """Return the gradient of the logits, of their shape and dtype, from that of the loss, ()."""
