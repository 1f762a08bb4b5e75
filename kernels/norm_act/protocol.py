"""The functions that every implementation of norm_act has. They run below autograd, on dense tensors.

x is (N, C, *space), contiguous or channels-last.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from torch import Tensor


class Norm(NamedTuple):
    """Batch normalisation and an activation: activation((x - mean) / √(var + eps) · weight + bias).

    Attributes:
        mean: (C,), or None to compute the mean of x itself.
        var: (C,) biased variance, None where mean is.
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        training: whether mean and var are those of x itself, so that gradients pass through them.
        eps: added to the variance.
        activation: one of activations.ACTIVATIONS. fused_conv takes those of CONV_ACTIVATIONS.
        slope: leaky_relu's slope below 0.
        scale: (C,) float32, weight / √(var + eps) where the caller has it. Only fused_conv reads it.
        shift: (C,) float32, bias - mean · scale, None where scale is.
    """

    mean: Tensor | None
    var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    eps: float
    activation: str
    slope: float
    scale: Tensor | None = None
    shift: Tensor | None = None

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each (C,), of a norm that has them."""
        return cast("tuple[Tensor, Tensor]", self[:2])  # not asserted: operations read it on every call


@dataclass(frozen=True)
class Capabilities:
    """The optional functions that an implementation has beyond `NormAct`.

    Args:
        statistics: the function of `NormStatistics`.
        backward_in_halves: the functions of `NormBackwardInHalves`.
    """

    statistics: bool = False
    backward_in_halves: bool = False


class NormAct(Protocol):
    """The functions that every implementation has."""

    CAPABILITIES: Capabilities

    def norm_act(self, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise and activate x (N, C, *space).

        Returns:
            y: of x's shape, dtype and layout.
            mean: (C,) of x where norm.mean is None, else (0,).
            var: (C,) biased variance of x where norm.mean is None, else (0,).
        """

    def norm_act_backward(self, dy: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        """Return dx (N, C, *space), dweight (C,) and dbias (C,); norm has the statistics that forward used."""

    def norm_act_residual(self, x: Tensor, residual: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        """Run norm_act with a residual of x's shape (N, C, *space) and layout, added before the activation."""

    def norm_act_residual_backward(
        self, dy: Tensor, x: Tensor, residual: Tensor, norm: Norm
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return dx and d_residual (N, C, *space), dweight (C,) and dbias (C,)."""


class NormStatistics(Protocol):
    """An implementation that computes statistics in a pass that writes nothing else."""

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and biased variance of a non-empty x, (C,) float32, or float64 for float64 input."""


class NormBackwardInHalves(Protocol):
    """An implementation whose backward is two passes, so that sums over processes can be formed in between."""

    def backward_sums(self, dy: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """Return dweight and dbias, (C,) float32."""

    def backward_by_sums(self, dy: Tensor, x: Tensor, norm: Norm, dweight: Tensor, dbias: Tensor) -> Tensor:
        """Return dx (N, C, *space).

        In training it includes the gradient through the statistics, for which dweight and dbias (C,) are divided by
        the number of x's values per channel.
        """
