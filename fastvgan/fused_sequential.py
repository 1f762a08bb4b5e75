"""What fuse makes of activations and of Sequentials."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastvgan.deferred import Pending, conv_act, conv_norm, is_silent, value
from fastvgan.layers import BatchNormAct3d, Conv3d, ConvTranspose3d
from fastvgan.tracing import TraceableLayer

# By their names in fastvgan_kernels.
ACTIVATIONS = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh"}


class FusedActivation(TraceableLayer, nn.Identity):
    """What an activation becomes once the batch norm before it computes it: the identity, under the same name.

    Attributes:
        activation: what it was.
        fused_into: the name of that batch norm in the module given to `fuse`.
    """

    def extra_repr(self) -> str:
        return f"{self.activation}, computed by {self.fused_into}"


class FusedSequential(nn.Sequential):
    """A Sequential whose convolutions, batch norms and activations are computed together."""

    def forward(self, input: Tensor) -> Tensor:
        # A compiler or tracer is shown the modules as they are.
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return super().forward(input)
        return _run(self, input)


def _run(modules: Iterable[nn.Module], x: Tensor | Pending) -> Tensor:
    left = list(modules)
    while left:
        module = left.pop(0)
        following = left[0] if left else None
        if type(module) in (Conv3d, ConvTranspose3d):
            if type(following) is BatchNormAct3d:
                x = conv_norm(module, left.pop(0), x)
            elif type(following) in ACTIVATIONS and is_silent(following):
                x = conv_act(module, x, *setting(left.pop(0)))
            else:
                x = conv_act(module, x)
        elif not (isinstance(x, Pending) and type(module) is FusedActivation and is_silent(module)):
            x = module(value(x))
    return value(x)


def setting(activation: nn.Module) -> tuple[str, float]:
    """An activation's name and its slope below 0, which is of no account unless it is leaky."""
    return ACTIVATIONS[type(activation)], getattr(activation, "negative_slope", 0.01)
