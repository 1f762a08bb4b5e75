"""What implements the guards against numbers that are not finite: modules with these functions."""

from typing import Protocol

from torch import Tensor


class Finite(Protocol):
    """Arguments as those of the public functions of the same names."""

    def check_norms(self, norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None) -> Tensor:
        """The norm (); `found` becomes 1 where it or the loss is not finite."""

    def add_finite(self, values: Tensor, totals: Tensor) -> None:
        """Add the finite values to totals[0], and their number to totals[1]."""
