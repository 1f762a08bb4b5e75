"""Convolutions whose norm and activation wait until the next one loads its input.

Where a convolution is one that is compiled for the device, its output is left as it is, with the statistics of it taken
as it was made, and the next convolution normalises and activates what it loads: the activation itself is never written.
Where that is not so, or somebody watches a module by a hook, the modules are called one after the other as ever.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastvgan.tracing import wants_stock
from fastvgan_kernels.fused_conv import Norm, conv_before_norm, fused_conv, pays
from fastvgan_kernels.norm_act import norm_act_with
from fastvgan_kernels.norm_act.reference import ACTIVATIONS

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pending(NamedTuple):
    """A convolution's raw output (N, C, T, H, W), and the norm and activation that it has still to go through."""

    raw: Tensor
    norm: Norm
    impl: str

    def value(self) -> Tensor:
        """What that gives."""
        return norm_act_with(self.raw, self.norm, self.impl)


def value(x: Tensor | Pending) -> Tensor:
    """x, computed if it is still pending."""
    return x.value() if isinstance(x, Pending) else x


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor | Pending) -> Tensor | Pending:
    """norm(conv(x)), pending where that gains something.

    Args:
        conv: Conv3d or ConvTranspose3d of fastvgan.layers. norm: its BatchNormAct3d.
    """
    casts = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")  # before that is asked
    if isinstance(x, Tensor) and not casts and not gains(conv, x):
        return norm(conv(x))
    # What is computed together is computed by one implementation, by the statistics of this rank alone.
    fits = norm.num_features == conv.out_channels and norm.impl == conv.impl and not norm.is_synced
    from_batch = norm.training or norm.running_mean is None
    if not (fits and is_unwatched(norm)):
        return norm(conv(value(x)))
    if not from_batch:
        fused = _fused(fused_conv, conv, x)
        return norm(conv(value(x))) if fused is None else Pending(fused[0], norm.pending(), norm.impl)
    fused = _fused(conv_before_norm, conv, x, following=norm.following())
    if fused is None:
        return norm(conv(value(x)))
    y, *statistics = fused
    if y.numel() // y.shape[1] < 2:
        return norm(y)  # which says that this is too little
    return Pending(y, norm.pending(*statistics), norm.impl)


def conv_act(conv: nn.Module, x: Tensor | Pending, activation: str = "none", negative_slope: float = 0.0) -> Tensor:
    """The convolution of x and an activation, "none", "relu", "leaky_relu" or "tanh"."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    options = {"activation": activation, "negative_slope": negative_slope}
    fused = _fused(fused_conv, conv, x, **options) if negative_slope >= 0 else None
    if fused is not None:
        return fused[0]
    return activate(conv(value(x)), activation, negative_slope)


def activate(y: Tensor, activation: str, negative_slope: float) -> Tensor:
    """The activation of y by torch: "none", "relu", "leaky_relu" or "tanh"."""
    if activation == "leaky_relu":
        return nn.functional.leaky_relu(y, negative_slope)
    return y if activation == "none" else getattr(torch, activation)(y)


def chain(layers: Iterable[nn.Module], x: Tensor | Pending) -> Tensor | Pending:
    """x through ConvNormAct3d and ConvTransposeNormAct3d layers; what the last one gives may be pending."""
    for layer in layers:
        x = conv_norm(layer.conv, layer.norm, x) if is_unwatched(layer) else layer(value(x))
    return x


def _fused(operation: Callable, conv: nn.Module, x: Tensor | Pending, **options) -> tuple[Tensor | None, ...] | None:
    """What fused_conv or conv_before_norm gives, or None where the modules are to be called one after the other."""
    raw, norm = (x.raw, x.norm) if isinstance(x, Pending) else (x, None)
    if torch.compiler.is_compiling() or wants_stock(raw) or not is_unwatched(conv):
        return None
    raw = _cast(raw)
    if not gains(conv, raw):
        return None
    return operation(raw, conv.weight, conv.bias, conv.geometry(), norm, impl=conv.impl, **options)


def gains(conv: nn.Module, x: Tensor) -> bool:
    """Whether the convolution of x, of the dtype it is computed in, can be fused and is faster so."""
    # A compiler is shown the plain modules, which it follows without a break, and so is a tracer.
    if torch.compiler.is_compiling() or wants_stock(x) or x.dim() != 5 or not _is_layer(conv):
        return False
    geometry = conv.geometry()
    return geometry is not None and pays(x, conv.weight, geometry, conv.impl)


def _cast(x: Tensor) -> Tensor:
    """As autocast does it for a convolution: before the choice of an implementation, which depends on the dtype."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return x
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def is_unwatched(module: nn.Module) -> bool:
    """Whether it is a layer of fastvgan.layers, and nobody would notice that it is not called itself."""
    return _is_layer(module) and is_silent(module)


def _is_layer(module: nn.Module) -> bool:
    return type(module).__module__ == "fastvgan.layers"


def is_silent(module: nn.Module) -> bool:
    """Whether calling it runs nothing but the forward of its class."""
    return (
        "forward" not in vars(module)
        and not any(getattr(module, hooks) for hooks in HOOKS)
        and not torch_module._has_any_global_hook()
    )
