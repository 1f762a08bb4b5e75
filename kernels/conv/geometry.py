"""The geometry of a convolution: its kind, stride, padding, output padding, dilation and groups."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from . import sizes

Sizes = int | Sequence[int]  # one integer, or one per spatial dimension


class Geometry(NamedTuple):
    """The geometry of a convolution or of a transposed one, with one integer per spatial dimension.

    Attributes:
        transposed: True for conv_up, False for conv_down.
        stride: of the convolution.
        padding: of the large side, on both ends of each dimension.
        output_padding: of a transposed convolution; zeros for a convolution.
        dilation: of the kernel.
        groups: the number of blocked connections from input to output channels.
    """

    transposed: bool
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """Return the shape (N, C_out, *space) of the convolution of x.

        Args:
            x: (N, C_in, *space).
            weight: (C_in, C_out / groups, *kernel) of a transposed convolution, else (C_out, C_in / groups, *kernel).
        """
        space, kernel = x.shape[2:], weight.shape[2:]
        if self.transposed:
            size = sizes.large(space, kernel, self.stride, self.padding, self.output_padding, self.dilation)
            return (x.shape[0], weight.shape[1] * self.groups, *size)
        return (x.shape[0], weight.shape[0], *sizes.small(space, kernel, self.stride, self.padding, self.dilation))
