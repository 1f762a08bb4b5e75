"""What implements group_norm_act: modules with these functions. They get dense tensors and run below autograd."""

from typing import Protocol

from torch import Tensor


class GroupNormAct(Protocol):
    """x is (N, C, *space), contiguous or channels-last; weight and bias are (C,), statistics (N, groups)."""

    def group_norm_act(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(y, mean, inverse); inverse is 1 / √(variance + eps)."""

    def group_norm_act_backward(
        self,
        dy: Tensor,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        eps: float,
        activation: str,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(dx, dweight, dbias); mean and inverse are those that forward gave."""
