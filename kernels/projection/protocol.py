"""The function that every implementation of the projection of weights has."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class UpsamplingKernel(NamedTuple):
    """A weight of a transposed convolution.

    Attributes:
        weight: (C_in, C_out, *kernel), three dimensions of the kernel.
        signs: alternating 1 and -1 along each dimension in which the stride is 2, by that dimension from 2 to 4, to be
            broadcast.
    """

    weight: Tensor
    signs: dict[int, Tensor]


class Projection(Protocol):
    """The function that every implementation has; arguments are those of the public function of the same name."""

    def project(self, kernels: Sequence[UpsamplingKernel], unless: Tensor | None) -> None:
        """Replace each weight, in place, by the nearest whose alternating sums are 0, unless `unless` () is above 0."""
