"""The function that every implementation of the diversity of clips has."""

from typing import Protocol

from torch import Tensor


class Diversity(Protocol):
    """The function that every implementation has; arguments are those of the public function of the same name."""

    def diversity(self, clips: Tensor, noise: Tensor, target: float) -> Tensor:
        """Return the mean difference of pairs of clips (N, ...) per difference of noise (N, ...), () float32."""
