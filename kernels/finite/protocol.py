"""The functions that every implementation of the checks for infinite and NaN values has."""

from typing import Protocol

from torch import Tensor


class Finite(Protocol):
    """The functions that every implementation has; arguments are those of the public functions of the same names."""

    def check_norms(self, norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None) -> Tensor:
        """Return the norm () of norms (n,) and set `found` () to 1 where it or the loss () is not finite, else to 0."""

    def add_finite(self, values: Tensor, totals: Tensor) -> None:
        """Add the finite values (n,) to totals[0] and 1 for each to totals[1]; totals is (2, n)."""
