"""The functions of a module that implements the convolutions. They run below autograd.

Tensors are (N, C, *L) or (N, C, *S) with 1 to 3 spatial dimensions: `*L` are the sizes of the large side (a
convolution's input, a transposed convolution's output), `*S` those of the small side. Weights have x's dtype or are
float32. Results may have any memory format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..norm_act.following import Following
from .fusion import Fusion
from .geometry import Geometry

Partials = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Capabilities:
    """The optional Protocols that an implementation satisfies.

    Args:
        fusion: whether it has the functions of `FusedConvolutions`.
        statistics_in_parts: whether it has the functions of `ConvolutionsWithParts`.
    """

    fusion: bool = False
    statistics_in_parts: bool = False


class Convolutions(Protocol):
    """The functions of every implementation; arguments as for the public functions of the same names."""

    CAPABILITIES: Capabilities

    def conv_up(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        """Return the transposed convolution (N, C_out, *L) of x (N, C_in, *S)."""
        ...

    def conv_down(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        """Return the convolution (N, C_out, *S) of x (N, C_in, *L)."""
        ...

    def conv_weight_grad(
        self,
        large: Tensor,
        small: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        in_float32: bool = False,
    ) -> Tensor:
        """Return the weight gradient (C_small, C_large / groups, *kernel_size), in large's dtype or in float32."""
        ...


class FusedConvolutions(Convolutions, Protocol):
    """An implementation that computes a `Fusion` in the same pass as the convolution."""

    def conv_fused(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, fusion: Fusion
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return y (N, C_out, *space), and its mean and biased variance, (C_out,) float32, or None and None.

        The statistics of an empty batch are NaN.
        """
        ...


class ConvolutionsWithParts(FusedConvolutions, Protocol):
    """An implementation that returns partial statistics and merges them for the batch norm that follows.

    Partial statistics are counts (P,), means (P, C_out) and sums of squared deviations (P, C_out), float32; None for an
    empty output or where no statistics are wanted.
    """

    def conv_with_parts(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, fusion: Fusion
    ) -> tuple[Tensor, Partials | None]:
        """Return y (N, C_out, *space) and its partial statistics."""
        ...

    def merge_before_norm(
        self, y: Tensor, parts: Partials | None, following: Following
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean, biased variance, scale and shift, (C_out,) float32, and update the running statistics."""
        ...
