"""Convolutions whose norm and activation wait until the next one loads its input.

Where a convolution is one that is compiled for the device, its output is left as it is, with the statistics of it taken
as it was made, and the next convolution normalises and activates what it loads: the activation itself is never written.
Where that is not so, or somebody watches a module by a hook, the modules are called one after the other as ever.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastvgan_kernels.fused_conv import Norm, fused_conv, pays
from fastvgan_kernels.norm_act import norm_act_with

ACTIVATIONS = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pending(NamedTuple):
    """A convolution's raw output (N, C, T, H, W), and the norm and activation that it has still to go through."""

    raw: Tensor
    norm: Norm

    def value(self) -> Tensor:
        """What that gives."""
        return norm_act_with(self.raw, self.norm)


def value(x: Tensor | Pending) -> Tensor:
    """x, computed if it is still pending."""
    return x.value() if isinstance(x, Pending) else x


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor | Pending) -> Tensor | Pending:
    """norm(conv(x)), pending where that gains something.

    Args:
        conv: Conv3d or ConvTranspose3d of fastvgan.layers. norm: its BatchNormAct3d.
    """
    raw = _raw(x)
    if not (_unwatched(norm) and norm.num_features == conv.out_channels and _fuses(conv, raw)):
        return norm(conv(value(x)))
    from_batch = norm.training or norm.running_mean is None
    y, mean, var = _fused(conv, x, statistics=from_batch)
    if from_batch and y.numel() // y.shape[1] < 2:
        return norm(y)  # which says that this is too little
    return Pending(y, norm.pending(mean, var, y.numel() // y.shape[1]))


def conv_act(conv: nn.Module, x: Tensor | Pending, activation: str = "none", negative_slope: float = 0.0) -> Tensor:
    """The convolution of x and an activation, "none", "relu", "leaky_relu" or "tanh"."""
    if activation not in ("none", *ACTIVATIONS.values()):
        raise ValueError(f"there is no activation {activation!r}")
    if negative_slope >= 0 and _fuses(conv, _raw(x)):
        return _fused(conv, x, activation=activation, negative_slope=negative_slope)[0]
    y = conv(value(x))
    if activation == "leaky_relu":
        return nn.functional.leaky_relu(y, negative_slope)
    return y if activation == "none" else getattr(torch, activation)(y)


def chain(layers: Iterable[nn.Module], x: Tensor | Pending) -> Tensor | Pending:
    """x through ConvNormAct3d and ConvTransposeNormAct3d layers; what the last one gives may be pending."""
    for layer in layers:
        x = conv_norm(layer.conv, layer.norm, x) if _unwatched(layer) else layer(value(x))
    return x


def sequential(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """x through modules one after the other, of which convolutions, norms and activations are computed together.

    Those are fastvgan.layers' Conv3d and ConvTranspose3d, its BatchNormAct3d, and torch.nn's activations.
    """
    left = list(modules)
    while left:
        module = left.pop(0)
        following = left[0] if left else None
        if not _is_convolution(module):
            if not (isinstance(x, Pending) and _is_nothing(module)):
                x = module(value(x))
        elif _named(following, "BatchNormAct3d"):
            x = conv_norm(module, left.pop(0), x)
        elif type(following) in ACTIVATIONS and _is_silent(following):
            slope = getattr(left.pop(0), "negative_slope", 0.0)
            x = conv_act(module, x, ACTIVATIONS[type(following)], slope)
        else:
            x = conv_act(module, x)
    return value(x)


class FusedSequential(nn.Sequential):
    """A Sequential whose convolutions, batch norms and activations are computed together."""

    def forward(self, input: Tensor) -> Tensor:
        # A compiler or tracer is shown the modules as they are.
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return super().forward(input)
        return sequential(self, input)


def _is_convolution(module: nn.Module) -> bool:
    return _named(module, "Conv3d") or _named(module, "ConvTranspose3d")


def _named(module: nn.Module | None, name: str) -> bool:
    return type(module).__module__ == "fastvgan.layers" and type(module).__name__ == name


def _is_nothing(module: nn.Module) -> bool:
    """Whether it is what fuse leaves of an activation that the norm before it computes."""
    return type(module).__name__ == "FusedActivation" and _is_silent(module)


def _raw(x: Tensor | Pending) -> Tensor:
    return x.raw if isinstance(x, Pending) else x


def _fused(conv, x, **options):
    norm = x.norm if isinstance(x, Pending) else None
    return fused_conv(_cast(_raw(x)), conv.weight, conv.bias, conv.geometry(), norm, impl=conv.impl, **options)


def _fuses(conv: nn.Module, x: Tensor) -> bool:
    # A compiler is shown the plain modules, which it follows without a break.
    if torch.compiler.is_compiling() or x.dim() != 5 or not _unwatched(conv) or conv.geometry() is None:
        return False
    return pays(_cast(x), conv.weight, conv.geometry(), conv.impl)


def _cast(x: Tensor) -> Tensor:
    """As autocast does it for a convolution: before the choice of an implementation, which depends on the dtype."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _unwatched(module: nn.Module) -> bool:
    """Whether nobody would notice that the module itself is not called."""
    return type(module).__module__ == "fastvgan.layers" and _is_silent(module)


def _is_silent(module: nn.Module) -> bool:
    """Whether calling it runs nothing but the forward of its class."""
    return (
        "forward" not in vars(module)
        and not any(getattr(module, hooks) for hooks in _HOOKS)
        and not torch_module._has_any_global_hook()
    )
