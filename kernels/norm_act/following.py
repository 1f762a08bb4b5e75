"""The batch norm that follows a convolution, as far as it is known before the convolution's output is."""

from typing import NamedTuple

import torch


class Following(NamedTuple):
    """What a batch norm in training does with the statistics of its input, whoever computes these.

    weight, bias: (C,) or None. eps: added to the variance. running_mean, running_var: (C,), updated in place, or None;
    batches: () int64, counted up, or None; momentum: the batch's share in the running statistics.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    running_mean: torch.Tensor | None = None
    running_var: torch.Tensor | None = None
    batches: torch.Tensor | None = None
    momentum: float = 0.0

    @torch.no_grad()
    def update(self, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
        """Update the running statistics, unless there are fewer than two values per channel to learn from.

        Args:
            mean, var: (C,), of the batch, the variance biased. count: values per channel.
        """
        if count < 2:
            return
        if self.batches is not None:
            self.batches.add_(1)
        if self.running_mean is not None:
            update_running(self.running_mean, self.running_var, mean, var, self.momentum, count)


@torch.no_grad()
def update_running(running_mean, running_var, mean, var, momentum, count):
    """Bring the running statistics nearer to a batch's mean and biased variance over `count` values.

    momentum and count are numbers, or tensors of one element where only the device knows them.
    """
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
