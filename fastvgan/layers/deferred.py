"""Convolutions whose norm and activation are computed when the next convolution loads its input.

Where the device has a compiled convolution, the first one writes its raw output and that output's statistics, and the
next one normalises and activates the values that it loads. The activated tensor is never written to memory. Elsewhere,
or when a hook, tracer or mode observes the modules, they are called one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastvgan.layers.tracing import has_plain_parameters
from fastvgan_kernels._torch import (
    are_only_device_modes,
    count_dispatch_modes,
    count_function_modes,
    runs_only_forward,
    tracing_state,
)
from fastvgan_kernels.activations import CONV_ACTIVATIONS, check_activation
from fastvgan_kernels.dispatch import is_transformed
from fastvgan_kernels.fused_conv import Geometry, Norm, conv_before_norm, fused_conv, pays
from fastvgan_kernels.norm_act import norm_act_with, reference

if TYPE_CHECKING:
    from fastvgan.layers.convolutions import Convolution, TransposedConvolution
    from fastvgan.layers.modules import BatchNormAct, ConvNormAct3d, ConvTransposeNormAct3d

    ConvLayer = Convolution | TransposedConvolution

# Each class whose instances may be computed without being called → its forward at registration. Instances are called
# if a user has assigned another forward to the class since.
_FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {}
# The same for classes made at run time, which must not stay longer than their instances: those that `fuse` derives, and
# those that torch's parametrisations make, one per module; such a class refers to its module.
_FORWARDS_OF_MADE: WeakKeyDictionary[type[nn.Module], Callable[..., Tensor]] = WeakKeyDictionary()
_CALL = nn.Module.__call__


def register(*kinds: type[nn.Module]) -> None:
    """Let instances of exactly these classes be computed together with their neighbours instead of being called.

    Args:
        kinds: fastvgan.layers classes that `conv_norm`, `conv_act` and `chain` accept, and torch.nn's activations.
    """
    _FORWARDS.update((kind, kind.forward) for kind in kinds)


def register_as(derived: type[nn.Module], kind: type[nn.Module]) -> None:
    """Register a class that inherits its forward from the registered class `kind`."""
    _FORWARDS_OF_MADE[derived] = _FORWARDS[kind]


def register_parametrised(module: nn.Module, kind: type[nn.Module]) -> None:
    """Register the class that torch.nn.utils.parametrize gave a module, if the former class `kind` is registered."""
    forward = _FORWARDS.get(kind) or _FORWARDS_OF_MADE.get(kind)
    if forward is not None and type(module) is not kind:
        _FORWARDS_OF_MADE[type(module)] = forward


class Pending(NamedTuple):
    """A convolution's raw output (N, C, *space) with the norm and activation that are not yet applied to it."""

    raw: Tensor
    norm: Norm
    impl: str

    def resolve(self) -> Tensor:
        """Apply the norm and activation; return a tensor of the same shape (N, C, *space) and dtype."""
        return norm_act_with(self.raw, self.norm, self.impl)


def resolve(x: Tensor | Pending) -> Tensor:
    """Return x as a tensor (N, C, *space), applying its pending norm and activation if it has them."""
    return x.resolve() if isinstance(x, Pending) else x


def conv_norm(
    conv: ConvLayer,
    norm: BatchNormAct,
    x: Tensor | Pending,
    activation: tuple[str, float] | None = None,
    *,
    in_place: bool = False,
) -> Tensor | Pending:
    """Compute activation(norm(conv(x))), or leave the norm and activation pending where that is faster.

    An activation that convolutions cannot compute on load is never left pending. The convolution still takes the
    statistics as it writes its output, which norm_act then reads once.

    Args:
        conv: a convolution of fastvgan.layers.
        norm: the batch norm of the same number of dimensions that follows it.
        x: (N, C_in, *space), or the pending output of the layer before.
        activation: name and negative_slope that replace the norm's own; only for a norm without an activation and
            without hooks.
        in_place: as in `NormActLayer.normalise`, of that activation.

    Returns:
        (N, C_out, *space), computed or pending.
    """
    convolved = _try_stock(conv, x)
    if convolved is None:
        weight = _read_weight(conv, x)
        y = _try_conv_norm(conv, norm, x, weight) if is_unwatched(norm) else None
        if y is not None:
            return _with_activation(y, activation)
        convolved = _convolve(conv, x, weight)
    return norm(convolved) if activation is None else norm.normalise(convolved, *activation, in_place=in_place)


def _with_activation(y: Tensor | Pending, activation: tuple[str, float] | None) -> Tensor | Pending:
    """The result of `_try_conv_norm` with another activation, pending if convolutions can compute that."""
    if not isinstance(y, Pending):
        return y
    if activation is not None:
        y = y._replace(norm=y.norm._replace(activation=activation[0], slope=activation[1]))
    return y if y.norm.activation in CONV_ACTIVATIONS else y.resolve()


def _try_conv_norm(
    conv: ConvLayer, norm: BatchNormAct, x: Tensor | Pending, weight: Tensor | None
) -> Tensor | Pending | None:
    """conv_norm with the norm's own activation, or None if the two modules must be called one after the other."""
    # One implementation computes both, from the statistics of this rank alone.
    if norm.num_features != conv.out_channels or norm.impl != conv.impl or norm.is_synced:
        return None
    arguments = _fusable_arguments(conv, x, weight) if has_plain_parameters(norm) else None
    if arguments is None:
        return None
    if not norm.training and norm.running_mean is not None:
        return Pending(fused_conv(*arguments, impl=conv.impl)[0], norm.as_norm(), norm.impl)
    y, *statistics = conv_before_norm(*arguments, norm.as_following(), conv.impl)
    if y.numel() // y.shape[1] < 2:
        return norm(y)  # raises: one value per channel has no variance
    return Pending(y, norm.as_norm(*statistics), norm.impl)


def _try_stock(conv: ConvLayer, x: Tensor | Pending) -> Tensor | None:
    """conv.try_stock(x), or None if something would notice that the convolution is not called."""
    return conv.try_stock(x) if type(x) is Tensor and is_unwatched(conv) and not is_observed() else None


def conv_act(conv: ConvLayer, x: Tensor | Pending, activation: str = "none", negative_slope: float = 0.0) -> Tensor:
    """Compute activation(conv(x)).

    Args:
        conv: a convolution of fastvgan.layers.
        x: (N, C_in, *space), or the pending output of the layer before.
        activation: a name that norm_act accepts.
        negative_slope: of leaky_relu.

    Returns:
        (N, C_out, *space) of x's dtype.

    Raises:
        ValueError: the activation is unknown.
    """
    check_activation(activation)
    by_stock = _try_stock(conv, x)
    if by_stock is not None:
        return activate(by_stock, activation, negative_slope)
    y, is_activated = convolve_and_try(conv, x, activation, negative_slope)
    return y if is_activated else activate(y, activation, negative_slope)


def activate(y: Tensor, activation: str, negative_slope: float) -> Tensor:
    """Apply an activation by stock PyTorch to a tensor of any shape; `activation` is a name that norm_act accepts."""
    return reference.activate(y, activation, negative_slope)


def convolve_and_try(
    conv: ConvLayer, x: Tensor | Pending, activation: str, negative_slope: float
) -> tuple[Tensor, bool]:
    """Compute conv_act in one operation, or the convolution alone where the activation must be computed after it.

    Args:
        conv: as in `conv_act`.
        x: as in `conv_act`.
        activation: as in `conv_act`.
        negative_slope: as in `conv_act`.

    Returns:
        (N, C_out, *space), and whether it is activated.
    """
    weight = _read_weight(conv, x)
    is_fused = negative_slope >= 0 and activation in CONV_ACTIVATIONS
    arguments = _fusable_arguments(conv, x, weight) if is_fused else None
    if arguments is None:
        return _convolve(conv, x, weight), False
    return fused_conv(*arguments, activation=activation, negative_slope=negative_slope, impl=conv.impl)[0], True


def chain(layers: Iterable[ConvNormAct3d | ConvTransposeNormAct3d], x: Tensor | Pending) -> Tensor | Pending:
    """Apply layers one after the other; x and the result are (N, C, T, H, W), and the result may be pending."""
    for layer in layers:
        fusable = is_unwatched(layer) and layer.is_fusable
        x = conv_norm(layer.conv, layer.norm, x) if fusable else layer(resolve(x))
    return x


def _read_weight(conv: ConvLayer, x: Tensor | Pending) -> Tensor | None:
    """The convolution's weight, or None if the convolution must be called.

    What a parametrisation computes may differ each time, so each call reads it once, as torch.nn's does.
    """
    raw = x.raw if isinstance(x, Pending) else x
    if is_observed() or not (is_unwatched(conv) and _is_plain(raw) and has_plain_parameters(conv)):
        return None
    weight = conv.weight
    return weight if type(weight) in (Tensor, nn.Parameter) else None


def _convolve(conv: ConvLayer, x: Tensor | Pending, weight: Tensor | None) -> Tensor:
    """conv(x) with the weight that `_read_weight` returned."""
    return conv(resolve(x)) if weight is None else conv.convolve(resolve(x), weight)


def _fusable_arguments(
    conv: ConvLayer, x: Tensor | Pending, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Geometry, Norm | None] | None:
    """x, weight, bias, geometry and norm for fused_conv, or None if the modules must be computed one by one."""
    raw, norm = (x.raw, x.norm) if isinstance(x, Pending) else (x, None)
    if weight is None or not _is_plain(weight) or raw.dim() != weight.dim():
        return None
    geometry, raw = conv.geometry(), _cast(raw)
    if geometry is None or not pays(raw, weight, geometry, conv.impl):
        return None
    return raw, weight, conv.bias, geometry, norm


def _is_plain(x: Tensor) -> bool:
    """Whether x is an ordinary tensor of real numbers; a subclass may override any operation."""
    is_known = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided and not x.is_meta
    return is_known and not x.is_complex()


def _cast(x: Tensor) -> Tensor:
    """Cast as autocast does for a convolution, before an implementation is chosen by dtype."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return x
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def is_observed() -> bool:
    """Whether a compiler, tracer, transform or mode observes each call, so that every module must be called."""
    return (
        is_transformed()
        or tracing_state() is not None
        or nn.Module.__call__ is not _CALL  # torch.fx replaces it while it traces
        or count_dispatch_modes() > 0
        or (count_function_modes() > 0 and not are_only_device_modes())
    )


def is_unwatched(module: nn.Module) -> bool:
    """Whether the module is of a registered class and nothing, such as a hook, depends on its being called."""
    kind = type(module)
    forward = _FORWARDS.get(kind) or _FORWARDS_OF_MADE.get(kind)
    return forward is not None and kind.forward is forward and runs_only_forward(module)
