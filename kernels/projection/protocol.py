"""The function that every implementation of the projection of weights has."""

from collections.abc import Collection
from typing import Protocol

from torch import Tensor


class Projection(Protocol):
    """The function that every implementation has; arguments are those of the public function of the same name."""

    def project(self, weight: Tensor, dims: Collection[int], unless: Tensor | None) -> None:
        """Replace weight (C_in, C_out, *kernel), in place, by the nearest whose alternating sums along `dims` are 0."""
