"""The functions that every implementation of the checks for infinite and NaN values has."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Finite(Protocol):
    """The functions that every implementation has; arguments are those of the public functions of the same names."""

    def check_norms(
        self, norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None, steps: Tensor | None
    ) -> Tensor:
        """Return the norm () of norms (n,) and set `found` () to 1 where it or the loss () is not finite, else to 0."""

    def add_finite(self, values: Sequence[Tensor], out: Tensor, totals: Tensor) -> None:
        """Set out (n,) to the scalars (), add the finite ones to totals[0] and 1 for each to totals[1], (2, n)."""
