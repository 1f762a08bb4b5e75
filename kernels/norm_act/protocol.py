"""What implements norm_act: modules with these functions. They get dense tensors and run below autograd.

x is (N, C, *space), contiguous or channels-last; weight, bias, mean and var are (C,); activation is one of
activations.ACTIVATIONS, slope is leaky_relu's below 0.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Capabilities:
    """What an implementation has beyond `NormAct`.

    Args:
        statistics: the function of `NormStatistics`.
        backward_in_halves: the functions of `NormBackwardInHalves`.
    """

    statistics: bool = False
    backward_in_halves: bool = False


class NormAct(Protocol):
    """What every implementation has."""

    CAPABILITIES: Capabilities

    def norm_act(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(y, mean, var); with mean and var None by the batch's own, which are then returned, else (0,) tensors."""

    def norm_act_backward(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        training: bool,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(dx, dweight, dbias); mean and var are those that forward used."""

    def norm_act_residual(
        self,
        x: Tensor,
        residual: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """norm_act with a residual of x's shape and layout added before the activation."""

    def norm_act_residual_backward(
        self,
        dy: Tensor,
        x: Tensor,
        residual: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        training: bool,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(dx, d_residual, dweight, dbias)."""


class NormStatistics(Protocol):
    """Of an implementation that computes statistics in a pass that writes nothing else."""

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x's mean and biased variance, (C,) float32, or float64 for float64 input; x has a value at least."""


class NormBackwardInHalves(Protocol):
    """Of an implementation whose backward is two passes, between which sums over several processes can be formed."""

    def backward_sums(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor]:
        """dweight and dbias, (C,) float32."""

    def backward_by_sums(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        dweight: Tensor,
        dbias: Tensor,
        training: bool,
        eps: float,
        activation: str,
        slope: float,
    ) -> Tensor:
        """dx; in training also through the statistics, by dweight and dbias over as many values as x has."""
