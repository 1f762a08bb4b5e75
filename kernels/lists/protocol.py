"""The functions that every implementation of operations on lists of tensors has."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Lists(Protocol):
    """The functions that every implementation has; arguments are those of the public functions of the same names."""

    def norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return Euclidean norms of parts (P,) float32 whose norm is that of all values of tensors of any shape."""

    def restore_where(self, bad: Tensor, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """Restore tensors, uint8 (number of bytes,), where `bad` () is not 0."""

    def average_into(self, means: Sequence[Tensor], new: Sequence[Tensor], share: Tensor) -> None:
        """Update running means in place: mean + (new - mean) · share ()."""

    def copy_into(self, copies: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Copy tensors to others of their shapes, casting them."""

    def mean_sigmoids(self, groups: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the mean over a group's tensors, of any shape, of their mean sigmoid, (number of groups,) float32."""
