"""The functions that every implementation of group_norm_act has. They run below autograd, on dense tensors."""

from typing import NamedTuple, Protocol

from torch import Tensor


class GroupNorm(NamedTuple):
    """Group normalisation and an activation: activation((x - mean) / √(var + eps) · weight + bias).

    Args:
        groups: a divisor of C.
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        eps: added to the variance.
        activation: one of activations.ACTIVATIONS.
        slope: leaky_relu's slope below 0.
    """

    groups: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    activation: str
    slope: float


class GroupNormAct(Protocol):
    """The functions that every implementation has. x is (N, C, *space), contiguous or channels-last."""

    def group_norm_act(self, x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise and activate x.

        Returns:
            y: (N, C, *space), in x's dtype and layout.
            mean: (N, groups).
            inverse: (N, groups), 1 / √(variance + eps).
        """

    def group_norm_act_backward(
        self, dy: Tensor, x: Tensor, norm: GroupNorm, mean: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return dx (N, C, *space), dweight (C,) and dbias (C,); mean and inverse are as forward returned them."""
