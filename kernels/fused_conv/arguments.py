"""The arguments of fused_conv, in groups for Python callers and flat for the operation's schema."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..conv.geometry import Geometry
from ..norm_act.following import Following
from ..norm_act.protocol import Norm


class Epilogue(NamedTuple):
    """Work on a convolution's output.

    Args:
        activation: one of CONV_ACTIVATIONS.
        slope: of "leaky_relu" below 0.
        statistics: whether to compute each output channel's mean and biased variance before the activation.
    """

    activation: str
    slope: float
    statistics: bool


class Arguments(NamedTuple):
    """The operation's arguments, in the order of its schema; in_… is the norm of x, out_… the norm that follows."""

    x: torch.Tensor
    in_mean: torch.Tensor | None
    in_var: torch.Tensor | None
    in_weight: torch.Tensor | None
    in_bias: torch.Tensor | None
    in_scale: torch.Tensor | None
    in_shift: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor | None
    out_weight: torch.Tensor | None
    out_bias: torch.Tensor | None
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    batches: torch.Tensor | None
    in_training: bool
    in_eps: float
    in_activation: str
    in_slope: float
    activation: str
    slope: float
    statistics: bool
    followed: bool
    out_eps: float
    momentum: float
    transposed: bool
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    impl: str

    @property
    def geometry(self) -> Geometry:
        """The convolution's geometry."""
        return Geometry(*self[-7:-1])

    @property
    def norm(self) -> Norm | None:
        """The norm of x, or None."""
        if self.in_mean is None or self.in_var is None:
            return None
        return Norm(self.in_mean, self.in_var, *self[3:5], *self[14:18], self.in_scale, self.in_shift)

    @property
    def epilogue(self) -> Epilogue:
        """The work on the output."""
        return Epilogue(*self[18:21])

    @property
    def following(self) -> Following | None:
        """The norm that follows, or None."""
        if not self.followed:
            return None
        running = self.running_mean, self.running_var, self.batches
        return Following(self.out_weight, self.out_bias, self.out_eps, *running, self.momentum)


class Saved(NamedTuple):
    """The tensors that backward needs, and the other arguments.

    Args:
        x: (N, C_in, *space).
        in_mean: of the norm of x, (C_in,) float32, or None.
        in_var: as in_mean.
        in_weight: (C_in,) or None.
        in_bias: (C_in,) or None.
        weight: of the convolution.
        y: (N, C_out, *space), or None without an activation.
        rest: the arguments after the tensors, in the order of `Arguments`.
    """

    x: torch.Tensor
    in_mean: torch.Tensor | None
    in_var: torch.Tensor | None
    in_weight: torch.Tensor | None
    in_bias: torch.Tensor | None
    weight: torch.Tensor
    y: torch.Tensor | None
    rest: tuple

    @property
    def norm(self) -> Norm | None:
        """The norm of x, or None."""
        if self.in_mean is None or self.in_var is None:
            return None
        return Norm(self.in_mean, self.in_var, self.in_weight, self.in_bias, *self.rest[:4])

    @property
    def epilogue(self) -> Epilogue:
        """The work on the output."""
        return Epilogue(*self.rest[4:7])

    @property
    def geometry(self) -> Geometry:
        """The convolution's geometry."""
        return Geometry(*self.rest[-7:-1])

    @property
    def impl(self) -> str:
        """The implementation's name, or "auto"."""
        return self.rest[-1]


TENSORS = 14  # of Arguments, which come first
