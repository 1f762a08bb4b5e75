"""The batch norm that follows a convolution, described before the convolution's output exists."""

from typing import NamedTuple

import torch
from torch import Tensor


class Following(NamedTuple):
    """A batch norm in training whose input's statistics are computed elsewhere, for example by a convolution.

    Args:
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        eps: added to the variance.
        running_mean: (C,), updated in place, or None.
        running_var: (C,), updated in place, or None.
        batches: () int64, incremented, or None.
        momentum: the batch's share in the running statistics.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    batches: Tensor | None = None
    momentum: float = 0.0

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics, unless there are fewer than two values per channel.

        Args:
            mean: (C,), the batch's.
            var: (C,), the batch's biased variance.
            count: values per channel.
        """
        if count < 2:
            return
        if self.batches is not None:
            self.batches.add_(1)
        if self.running_mean is not None and self.running_var is not None:
            update_running(self.running_mean, self.running_var, mean, var, self.momentum, count)


@torch.no_grad()
def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float | Tensor,
    count: int | Tensor,
) -> None:
    """Move the running statistics towards a batch's, in place.

    Args:
        running_mean: (C,).
        running_var: (C,).
        mean: (C,), the batch's.
        var: (C,), the batch's biased variance.
        momentum: the batch's share; a tensor of one element where only the device knows it.
        count: values per channel, at least 2; a tensor of one element where only the device knows it.
    """
    _move(running_mean, mean, momentum)
    _move(running_var, var * (count / (count - 1)), momentum)


def _move(running: Tensor, batch: Tensor, momentum: float | Tensor) -> None:
    """Move a running statistic (C,) towards a batch's, in the wider of the two dtypes.

    float16 holds numbers up to 65504: a batch's variance may exceed that where the running one never does.
    """
    dtype = torch.promote_types(running.dtype, batch.dtype)
    if isinstance(momentum, Tensor):
        momentum = momentum.to(dtype)  # lerp takes no other
    if running.dtype is dtype:
        running.lerp_(batch.to(dtype), momentum)
    else:
        running.copy_(running.to(dtype).lerp_(batch, momentum))
