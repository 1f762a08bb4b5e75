"""Convolutions whose norm and activation wait until the next one loads its input.

Where a convolution is one that is compiled for the device, its output is left as it is, with the statistics of it taken
as it was made, and the next convolution normalises and activates what it loads: the activation itself is never written.
Where that is not so, or something else looks at a module or at its operations, the modules are called one after the
other.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastvgan_kernels._torch import (
    are_only_device_modes,
    count_dispatch_modes,
    count_function_modes,
    runs_only_forward,
    tracing_state,
)
from fastvgan_kernels.activations import ACTIVATIONS, CONV_ACTIVATIONS
from fastvgan_kernels.dispatch import is_transformed
from fastvgan_kernels.fused_conv import Norm, conv_before_norm, fused_conv, pays
from fastvgan_kernels.norm_act import norm_act_with, reference

# Each class whose call may be left out because another call computes the same → its forward. A class that somebody
# has given another forward since is called.
_FORWARDS: dict[type[nn.Module], Callable] = {}
_CALL = nn.Module.__call__


def register(*kinds: type[nn.Module]) -> None:
    """Let instances of exactly these classes be computed together with their neighbours, instead of being called.

    The fastvgan.layers classes that `conv_norm`, `conv_act` and `chain` take, and torch.nn's activations.
    """
    _FORWARDS.update((kind, kind.forward) for kind in kinds)


def register_as(derived: type[nn.Module], kind: type[nn.Module]) -> None:
    """Let instances of a class that has the forward of a registered one be computed together as those of that one."""
    _FORWARDS[derived] = _FORWARDS[kind]


class Pending(NamedTuple):
    """A convolution's raw output (N, C, *space), and the norm and activation that it has still to go through."""

    raw: Tensor
    norm: Norm
    impl: str

    def value(self) -> Tensor:
        """What that gives."""
        return norm_act_with(self.raw, self.norm, self.impl)


def value(x: Tensor | Pending) -> Tensor:
    """x, computed if it is still pending."""
    return x.value() if isinstance(x, Pending) else x


def conv_norm(
    conv: nn.Module, norm: nn.Module, x: Tensor | Pending, activation: tuple[str, float] | None = None
) -> Tensor | Pending:
    """activation(norm(conv(x))), pending where that gains something.

    Not pending is an activation that no convolution computes as it loads its input. The statistics are then still taken
    as the convolution writes its output, which norm_act reads once.

    Args:
        conv: Conv3d or ConvTranspose3d of fastvgan.layers, or Conv2d or ConvTranspose2d.
        norm: its BatchNormAct3d, or BatchNormAct2d.
        activation: the name and negative_slope of one to compute instead of the norm's own, which is only asked of a
            norm that has none and is not hooked.
    """
    by_stock = _recalled(conv, x)
    y = _conv_before_norm(conv, norm, x) if by_stock is None and is_unwatched(norm) else None
    if y is None:
        y = conv(value(x)) if by_stock is None else by_stock
        return norm(y) if activation is None else norm.normalise(y, *activation)
    if not isinstance(y, Pending):
        return y
    if activation is not None:
        y = y._replace(norm=y.norm._replace(activation=activation[0], slope=activation[1]))
    return y if y.norm.activation in CONV_ACTIVATIONS else y.value()


def _conv_before_norm(conv: nn.Module, norm: nn.Module, x: Tensor | Pending) -> Tensor | Pending | None:
    """conv_norm with the norm's own activation, or None where the modules are to be called one after the other."""
    # What is computed together is computed by one implementation, by the statistics of this rank alone.
    if norm.num_features != conv.out_channels or norm.impl != conv.impl or norm.is_synced:
        return None
    given = _to_fuse(conv, x)
    if given is None:
        return None
    if not norm.training and norm.running_mean is not None:
        return Pending(fused_conv(*given, impl=conv.impl)[0], norm.pending(), norm.impl)
    y, *statistics = conv_before_norm(*given, norm.following(), conv.impl)
    if y.numel() // y.shape[1] < 2:
        return norm(y)  # which says that this is too little
    return Pending(y, norm.pending(*statistics), norm.impl)


def _recalled(conv: nn.Module, x: Tensor | Pending) -> Tensor | None:
    """What calling the convolution would give, where stock PyTorch is known to serve it and nobody would notice."""
    return conv.recalled(x) if type(x) is Tensor and is_unwatched(conv) and not is_observed() else None


def conv_act(conv: nn.Module, x: Tensor | Pending, activation: str = "none", negative_slope: float = 0.0) -> Tensor:
    """The convolution of x and an activation, by its name in norm_act."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    by_stock = _recalled(conv, x)
    if by_stock is not None:
        return activate(by_stock, activation, negative_slope)
    y = fused_conv_act(conv, x, activation, negative_slope)
    return activate(conv(value(x)), activation, negative_slope) if y is None else y


def activate(y: Tensor, activation: str, negative_slope: float) -> Tensor:
    """The activation of y by torch, by its name in norm_act."""
    return reference.activate(y, activation, negative_slope)


def fused_conv_act(conv: nn.Module, x: Tensor | Pending, activation: str, negative_slope: float) -> Tensor | None:
    """conv_act in one operation, or None where the modules are to be called one after the other."""
    given = _to_fuse(conv, x) if negative_slope >= 0 and activation in CONV_ACTIVATIONS else None
    if given is None:
        return None
    return fused_conv(*given, activation=activation, negative_slope=negative_slope, impl=conv.impl)[0]


def chain(layers: Iterable[nn.Module], x: Tensor | Pending) -> Tensor | Pending:
    """x through ConvNormAct3d and ConvTransposeNormAct3d layers; what the last one gives may be pending."""
    for layer in layers:
        x = conv_norm(layer.conv, layer.norm, x) if is_unwatched(layer) else layer(value(x))
    return x


def _to_fuse(conv: nn.Module, x: Tensor | Pending) -> tuple | None:
    """x, weight, bias, geometry and norm for fused_conv, or None where the modules are to be called one by one."""
    raw, norm = (x.raw, x.norm) if isinstance(x, Pending) else (x, None)
    if is_observed() or not (is_unwatched(conv) and _is_plain(raw) and _is_plain(conv.weight)):
        return None
    if raw.dim() != conv.weight.dim():
        return None
    geometry, raw = conv.geometry(), _cast(raw)
    if geometry is None or not pays(raw, conv.weight, geometry, conv.impl):
        return None
    return raw, conv.weight, conv.bias, geometry, norm


def _is_plain(x: Tensor) -> bool:
    """Whether it is an ordinary tensor with data, and not of a subclass, which may mean anything."""
    return type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided and not x.is_meta


def _cast(x: Tensor) -> Tensor:
    """As autocast does it for a convolution: before the choice of an implementation, which depends on the dtype."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return x
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def is_observed() -> bool:
    """Whether a compiler, tracer, transform or mode looks at each call: it is shown the modules one by one."""
    return (
        is_transformed()
        or tracing_state() is not None
        or nn.Module.__call__ is not _CALL  # torch.fx replaces it while it traces
        or count_dispatch_modes() > 0
        or (count_function_modes() > 0 and not are_only_device_modes())
    )


def is_unwatched(module: nn.Module) -> bool:
    """Whether it is of a registered class, and nobody would notice that it is not called itself."""
    kind = type(module)
    return kind in _FORWARDS and kind.forward is _FORWARDS[kind] and runs_only_forward(module)
