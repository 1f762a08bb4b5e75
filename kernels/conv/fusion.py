"""Work that an implementation can fuse into a convolution."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fusion:
    """Work fused into a convolution: activation(conv(in_activation(x · scale + shift)) + bias).

    Args:
        scale: (C_in,), or None together with `shift`.
        shift: (C_in,), or None. The convolution pads with zeros after scale, shift and in_activation.
        in_activation: one of activations.CONV_ACTIVATIONS.
        in_slope: the slope of in_activation "leaky_relu" below 0.
        activation: one of activations.CONV_ACTIVATIONS.
        slope: the slope of activation "leaky_relu" below 0.
        statistics: whether to compute each output channel's mean and biased variance before `activation`.
    """

    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    in_activation: str = "none"
    in_slope: float = 0.0
    activation: str = "none"
    slope: float = 0.0
    statistics: bool = False


NO_FUSION = Fusion()
