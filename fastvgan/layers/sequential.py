"""Sequentials that compute neighbouring convolutions, norms and activations together.

The modules in a FusedSequential do not change: each one, when called, computes what torch.nn's module does, and may be
replaced, hooked, moved or removed at any time. The container inspects its modules at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.convolutions import Conv3d, ConvTranspose3d
from fastvgan.layers.deferred import (
    Pending,
    conv_act,
    conv_norm,
    convolve_and_try,
    is_observed,
    is_unwatched,
    resolve,
)
from fastvgan.layers.derived import derive_class, fastvgan_class
from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import BatchNormAct3d
from fastvgan_kernels._torch import runs_only_forward

if TYPE_CHECKING:
    from fastvgan.layers.deferred import ConvLayer


class Activation(NamedTuple):
    """Properties of a class of activations.

    name: the activation's name in fastvgan_kernels. follows_convolutions: whether a convolution can compute it, and not
    only a norm; its gradient must follow from its output. is_supported: whether an instance's options are supported.
    """

    name: str
    follows_convolutions: bool = True
    is_supported: Callable[[Any], bool] = lambda module: True


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation("relu"),
    nn.LeakyReLU: Activation("leaky_relu"),
    nn.Tanh: Activation("tanh"),
    nn.SiLU: Activation("silu", follows_convolutions=False),
    nn.GELU: Activation("gelu", follows_convolutions=False, is_supported=lambda module: module.approximate == "none"),
}
deferred.register(*ACTIVATIONS, nn.Identity)

# Each convolution → whether it may compute the activation after it. Conv2d may not: stock PyTorch computes it, mostly.
CONVOLUTIONS: dict[type[nn.Module], bool] = {
    Conv2d: False,
    Conv3d: True,
    ConvTranspose2d: True,
    ConvTranspose3d: True,
}
# Each norm → the convolutions that take its statistics as they write their output, and leave the norm pending. No 2D
# convolution does, since "auto" leaves most of them to stock PyTorch; group and instance norms have per-sample
# statistics, which no convolution takes.
NORMS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    BatchNormAct2d: (),
    BatchNormAct3d: (Conv3d, ConvTranspose3d),
    GroupNormAct: (),
    InstanceNormAct2d: (),
    InstanceNormAct3d: (),
}
deferred.register(*NORMS)
_COMPUTED = frozenset((*ACTIVATIONS, *CONVOLUTIONS, *NORMS))
# Identities in evaluation.
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
deferred.register(*_DROPOUTS)


class FusedSequential(nn.Sequential):
    """A Sequential that computes neighbouring convolutions, norms and activations together.

    Neighbours may lie in nested Sequentials, with identities between them. Modules are computed together if they have
    no hooks and no replaced forward, and their class is exactly one in CONVOLUTIONS, NORMS and ACTIVATIONS or was
    derived from one by `fuse`. All others are called. Under compilers, tracers, torch.func's transforms and dispatch
    modes every module is called.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the modules in order to input, of the shape that the first one accepts."""
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
        else:
            input = _run(self, input)
        return input


class Group(NamedTuple):
    """Modules that are computed together: a convolution with an optional norm and activation, or a norm with one.

    A group with `other`, a module that is called alone, has no other members.
    """

    conv: ConvLayer | None = None
    norm: Any = None  # an instance of a class in NORMS
    activation: Any = None  # an instance of a class in ACTIVATIONS
    other: Any = None

    @property
    def modules(self) -> list[nn.Module]:
        """The members in the order in which they are computed."""
        return [module for module in self if module is not None]


def groups(container: nn.Sequential) -> Iterator[Group]:
    """Yield the groups that a FusedSequential of the same modules would compute now, in order."""
    left = [_read(container)]
    while _expand(left):
        yield _take(left)


def _run(container: FusedSequential, x: Tensor) -> Tensor:
    if is_observed() or type(x) not in (Tensor, nn.Parameter):
        for module in container:
            x = module(x)
        return x
    left: list[Any] = [_read(container)]
    y: Tensor | Pending = x
    while _expand(left):
        y = _compute(_take(left), y)
    return resolve(y)


def _compute(group: Group, x: Tensor | Pending) -> Tensor | Pending:
    conv, norm, activation, other = group
    if conv is None:
        # A None among the modules raises TypeError here, as in nn.Sequential.
        return other(resolve(x)) if norm is None else _normalise(norm, resolve(x), activation)
    if type(x) is Tensor and (by_stock := conv.try_stock(x)) is not None:
        if norm is None:
            return by_stock if activation is None else activation(by_stock)
        if activation is None:
            return norm.normalise(by_stock, norm.activation, norm.negative_slope)
        return _normalise(norm, by_stock, activation)
    if norm is not None:
        if activation is None:
            return conv_norm(conv, norm, x)
        return conv_norm(conv, norm, x, name_and_slope(activation), in_place=_keeps_result(activation))
    if activation is None:
        return conv_act(conv, x) if isinstance(x, Pending) else conv(x)
    y, is_activated = convolve_and_try(conv, x, *name_and_slope(activation))
    return y if is_activated else activation(y)


def _normalise(norm: Any, x: Tensor, activation: nn.Module) -> Tensor:
    return norm.normalise(x, *name_and_slope(activation), in_place=_keeps_result(activation))


def _keeps_result(activation: Any) -> bool:
    """Whether torch.nn's activation keeps its result for backward, in a stock network too, and can be in place."""
    kind = type(activation)
    return kind is nn.ReLU or (kind is nn.LeakyReLU and activation.inplace and activation.negative_slope >= 0)


def _take(left: list[Any]) -> Group:
    """Remove the next group from the end of `left`, which `_expand` prepared.

    Each group is formed just before it is computed, because an earlier module may change the later ones.
    """
    module: Any = left.pop()  # of the class that the table names below
    kind = kind_of(module)
    if CONVOLUTIONS.get(kind) and is_unwatched(module):
        norm = None
        if _expand(left) and kind in NORMS.get(kind_of(left[-1]), ()) and is_unwatched(left[-1]):
            norm = left.pop()
        activation = _take_activation(norm, left)
        if norm is None and activation is not None and not _may_follow(activation, left):
            left.append(activation)
            activation = None
        return Group(module, norm, activation)
    if kind in NORMS and is_unwatched(module):
        activation = _take_activation(module, left)
        if activation is not None:
            return Group(None, module, activation)
    return Group(other=module)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return the module's class, or the fastvgan class that `fuse` derived it from."""
    return fastvgan_class(type(module))


def is_activation(module: nn.Module) -> bool:
    """Whether the module is of a class in ACTIVATIONS, with options that fastvgan_kernels supports."""
    activation = ACTIVATIONS.get(type(module))
    return activation is not None and activation.is_supported(module)


def _take_activation(norm: Any, left: list[Any]) -> nn.Module | None:
    if (norm is None or norm.activation == "none") and _expand(left):
        return left.pop() if is_activation(left[-1]) and is_unwatched(left[-1]) else None
    return None


def _may_follow(activation: nn.Module, left: list[Any]) -> bool:
    """Whether a convolution directly before the activation may compute it."""
    return ACTIVATIONS[type(activation)].follows_convolutions and _may_save_output(activation, left)


def _may_save_output(activation: nn.Module, left: list[Any]) -> bool:
    """Whether no later module can change the activation's output in place.

    A fused convolution saves that output for backward. torch's out-of-place leaky ReLU saves its input instead, so
    after it an in-place module is legal, and it must stay legal here.
    """
    if type(activation) is not nn.LeakyReLU or activation.inplace or not torch.is_grad_enabled():
        return True
    return _expand(left) and kind_of(left[-1]) in CONVOLUTIONS and is_unwatched(left[-1])


def _read(container: nn.Sequential) -> Generator[nn.Module]:
    """Yield the modules as nn.Sequential's forward does: each is read when it is its turn, and may be new by then."""
    yield from container


def _expand(left: list[Any]) -> bool:
    """Read modules, unpack Sequentials and drop identities until a module to compute is at the end of `left`.

    Args:
        left: the modules that are left, in reverse order: some that are read already, before those that the generators
            of `_read` will yield.

    Returns:
        Whether there is one.
    """
    while left:
        module = left[-1]
        if type(module) is GeneratorType:
            for one in module:
                left.append(one)
                break
            else:
                left.pop()
            continue
        if kind_of(module) in _COMPUTED:
            return True
        if is_sequential(type(module)) and runs_only_forward(module):
            left[-1] = _read(module)
        elif _is_identity(module):
            left.pop()
        else:
            return True
    return False


def _is_identity(module: nn.Module) -> bool:
    kind = type(module)
    return (kind is nn.Identity or (kind in _DROPOUTS and not module.training)) and is_unwatched(module)


def name_and_slope(activation: nn.Module) -> tuple[str, float]:
    """Return an activation's name in fastvgan_kernels and its negative_slope, which only leaky_relu uses."""
    slope = activation.negative_slope if type(activation) is nn.LeakyReLU else 0.01
    return ACTIVATIONS[type(activation)].name, slope


_STOCK = nn.Sequential.forward, nn.Sequential.__iter__, nn.Module.__call__


def is_sequential(kind: type) -> bool:
    """Whether instances of a class only call their modules in order, as nn.Sequential does."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Sequential)):
        return False
    forward = kind.forward
    return (forward is _STOCK[0] or forward is FusedSequential.forward) and (kind.__iter__, kind.__call__) == _STOCK[1:]


def derive_sequential_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class that is both a FusedSequential and a `kind`, or `kind` if it is a FusedSequential already.

    Args:
        kind: nn.Sequential or a subclass for which `is_sequential` is true and `has_subclass_hook` is false.
    """
    if issubclass(kind, FusedSequential):
        return kind
    return FusedSequential if kind is nn.Sequential else derive_class(kind, FusedSequential, ours_first=True)


def derive_layer_class(kind: type[nn.Module], ours: type[nn.Module]) -> type[nn.Module]:
    """Return a class that is both a `kind` and `ours`, and whose instances are computed together with neighbours.

    Args:
        kind: a subclass of the torch.nn class that `ours` replaces, with no code that runs in a call.
        ours: a class of fastvgan.layers.
    """
    derived = derive_class(kind, ours)
    deferred.register_as(derived, ours)
    return derived
