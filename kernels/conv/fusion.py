"""What a convolution can compute along with it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fusion:
    """What is computed along with a convolution: activation(conv(in_activation(x · scale + shift)) + bias).

    Args:
        scale, shift: (C_in,), both or neither; what reaches over the border is 0, as the padding of what they give.
        in_activation, activation: one of activations.CONV_ACTIVATIONS.
        in_slope, slope: leaky_relu's below 0.
        statistics: whether the mean and biased variance of each output channel, before the activation, are wanted.
    """

    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    in_activation: str = "none"
    in_slope: float = 0.0
    activation: str = "none"
    slope: float = 0.0
    statistics: bool = False
