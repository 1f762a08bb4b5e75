"""What implements the convolutions: modules with these functions, which run below autograd.

Tensors are (N, C, 1 to 3 sizes), sizes as conv/__init__.py has them, one integer for each spatial dimension. Weights
are of x's dtype or float32. Results may be in any memory format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..norm_act.following import Following
from .fusion import Fusion

Parts = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Capabilities:
    """What an implementation has beyond `Convolutions`.

    Args:
        fusion: the functions of `FusedConvolutions`.
        statistics_in_parts: those of `ConvolutionsWithParts`.
    """

    fusion: bool = False
    statistics_in_parts: bool = False


class Convolutions(Protocol):
    """What every implementation has; arguments as those of the public functions of the same names."""

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
        """Transposed convolution."""

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
        """Convolution."""

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
        """Weight gradient, of large's dtype or in float32."""


class FusedConvolutions(Convolutions, Protocol):
    """Of an implementation that computes along with a convolution what a `Fusion` says."""

    def conv_up_fused(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        fusion: Fusion,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """y; the mean and the biased variance, (C_out,) float32 (NaN of an empty batch), or None and None."""

    def conv_down_fused(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        fusion: Fusion,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As conv_up_fused."""


class ConvolutionsWithParts(FusedConvolutions, Protocol):
    """Of an implementation that leaves statistics in parts, which it joins for the batch norm that follows.

    Parts are counts (P,), means (P, C_out) and sums of squared deviations (P, C_out), float32; None of an empty output
    or where no statistics are wanted.
    """

    def conv_up_with_parts(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        fusion: Fusion,
    ) -> tuple[Tensor, Parts | None]:
        """y and the parts of its statistics."""

    def conv_down_with_parts(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        fusion: Fusion,
    ) -> tuple[Tensor, Parts | None]:
        """As conv_up_with_parts."""

    def joined_before_norm(
        self, y: Tensor, parts: Parts | None, following: Following
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, biased variance, scale and shift, (C_out,) float32; running statistics are updated."""
