"""What implements logistic: modules with these functions, which run below autograd on one logit at least."""

from typing import Protocol

from torch import Tensor


class Logistic(Protocol):
    """Logits are of any shape and floating-point dtype."""

    def logistic(self, logits: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
        """(loss, probability), () float32."""

    def logistic_backward(self, dloss: Tensor, logits: Tensor, positive: bool) -> Tensor:
        """The gradient of the logits, of their dtype."""
