"""Sequentials that compute together what stands in a row in them.

What is in a FusedSequential stays what it is: each module, called by anyone, computes what torch.nn's computes, and any
of them may be exchanged, hooked, moved or taken out. At each call the container looks at what is there at that moment.
"""

import copyreg
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastvgan import deferred
from fastvgan.deferred import Pending, conv_act, conv_norm, fused_conv_act, is_observed, is_silent, is_unwatched, value
from fastvgan.layers import BatchNormAct3d, Conv3d, ConvTranspose3d

# By their names in fastvgan_kernels.
ACTIVATIONS = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh"}
deferred.register(*ACTIVATIONS, nn.Identity)

_CONVOLUTIONS = (Conv3d, ConvTranspose3d)
# In evaluation each of these returns its input.
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
deferred.register(*_DROPOUTS)


class FusedSequential(nn.Sequential):
    """A Sequential whose convolutions, batch norms and activations are computed together where they stand in a row.

    It looks through Sequentials in it, and through what does nothing. Only instances of exactly fastvgan.layers'
    Conv3d, ConvTranspose3d and BatchNormAct3d and torch.nn's ReLU, LeakyReLU and Tanh are computed together, and only
    those without hooks and without a forward of their own; all others are called. Compilers, tracers, torch.func's
    transforms and dispatch modes are shown every module.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
        else:
            input = _run(self, input)
        return input

    # The class that fuse made this one for.
    _stock: type[nn.Sequential] = nn.Sequential

    def __reduce_ex__(self, protocol):
        how, arguments, *rest = super().__reduce_ex__(max(protocol, 2))
        if how is copyreg.__newobj__ and _fused_classes.get(self._stock) is type(self):
            # A class that fused_class made cannot be found by its name.
            return _new, (self._stock,), *rest
        return how, arguments, *rest


class Group(NamedTuple):
    """Modules that are computed together: a convolution, a norm and an activation, of which any may be absent.

    other: a module that is called by itself, with all else None.
    """

    conv: nn.Module | None = None
    norm: BatchNormAct3d | None = None
    activation: nn.Module | None = None
    other: nn.Module | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """Those that there are, in the order in which they are computed."""
        return [module for module in self if module is not None]


def groups(container: nn.Sequential) -> Iterator[Group]:
    """What a FusedSequential of the same modules would call, in order, as these are now."""
    left = list(container)[::-1]
    while _expand(left):
        yield _take(left)


def _run(container: FusedSequential, x: Tensor) -> Tensor:
    if is_observed():
        for module in container:
            x = module(x)
        return x
    left = list(container)[::-1]
    while _expand(left):
        x = _compute(_take(left), x)
    return value(x)


def _compute(group: Group, x: Tensor | Pending) -> Tensor | Pending:
    conv, norm, activation, other = group
    if other is not None:
        return other(value(x))
    if norm is not None and conv is not None:
        return conv_norm(conv, norm, x, None if activation is None else setting(activation))
    if norm is not None:
        return norm.normalise(value(x), *setting(activation))
    if activation is None:
        return conv_act(conv, x) if isinstance(x, Pending) else conv(x)
    y = fused_conv_act(conv, x, *setting(activation))
    return activation(conv(value(x))) if y is None else y


def _take(left: list[nn.Module]) -> Group:
    """Remove the next group from the modules that are left, of which the last is next.

    What is taken together is looked at just before it is computed: until then a hook may have changed it.
    """
    module = left.pop()
    kind = type(module)
    if kind in _CONVOLUTIONS and is_unwatched(module):
        norm = None
        if _expand(left) and type(left[-1]) is BatchNormAct3d and is_unwatched(left[-1]):
            norm = left.pop()
        activation = _take_activation(norm, left)
        if norm is None and activation is not None and not _may_save_output(activation, left):
            left.append(activation)
            activation = None
        return Group(module, norm, activation)
    if kind is BatchNormAct3d and is_unwatched(module):
        activation = _take_activation(module, left)
        if activation is not None:
            return Group(None, module, activation)
    return Group(other=module)


def _take_activation(norm: BatchNormAct3d | None, left: list[nn.Module]) -> nn.Module | None:
    if (norm is None or norm.activation == "none") and _expand(left):
        return left.pop() if type(left[-1]) in ACTIVATIONS and is_unwatched(left[-1]) else None
    return None


def _may_save_output(activation: nn.Module, left: list[nn.Module]) -> bool:
    """Whether nobody can change the activation's output, which a fused convolution needs for backward, and torch's not.

    torch's saves its input, if it is a leaky one out of place, so that what is next may be in place.
    """
    if type(activation) is not nn.LeakyReLU or activation.inplace or not torch.is_grad_enabled():
        return True
    return _expand(left) and type(left[-1]) in _CONVOLUTIONS and is_unwatched(left[-1])


def _expand(left: list[nn.Module]) -> bool:
    """Put what is in a Sequential in its place while one is next, and drop what does nothing; is something left?"""
    while left:
        module = left[-1]
        if is_sequential(type(module)) and is_silent(module):
            left.pop()
            left.extend(list(module)[::-1])
        elif _does_nothing(module):
            left.pop()
        else:
            return True
    return False


def _does_nothing(module: nn.Module) -> bool:
    kind = type(module)
    return (kind is nn.Identity or (kind in _DROPOUTS and not module.training)) and is_unwatched(module)


def setting(activation: nn.Module) -> tuple[str, float]:
    """An activation's name and its slope below 0, which is of no account unless it is leaky."""
    slope = activation.negative_slope if type(activation) is nn.LeakyReLU else 0.01
    return ACTIVATIONS[type(activation)], slope


_STOCK = nn.Sequential.forward, nn.Sequential.__iter__, nn.Module.__call__


def is_sequential(kind: type) -> bool:
    """Whether instances of a class call what is in them one after the other, as nn.Sequential does, and no more."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Sequential)):
        return False
    forward = kind.forward
    return (forward is _STOCK[0] or forward is FusedSequential.forward) and (kind.__iter__, kind.__call__) == _STOCK[1:]


def is_told_of_subclasses(kind: type) -> bool:
    """Whether code of its own runs where a class inherits from it, as registries have it."""
    return type(kind) is not type or any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])


# Class of Sequentials → the one that fuse gives its instances.
_fused_classes: dict[type[nn.Sequential], type[FusedSequential]] = {nn.Sequential: FusedSequential}


def fused_class(kind: type[nn.Sequential]) -> type[FusedSequential]:
    """The FusedSequential that is also a `kind`, of the same name; `kind` itself where it is one.

    Args:
        kind: nn.Sequential, or a subclass of it for which `is_sequential` and not `is_told_of_subclasses`.
    """
    if issubclass(kind, FusedSequential):
        return kind
    if kind not in _fused_classes:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        _fused_classes[kind] = type(kind.__name__, (FusedSequential, kind), names | {"_stock": kind})
    return _fused_classes[kind]


def _new(kind: type[nn.Sequential]) -> FusedSequential:
    fused = fused_class(kind)
    return fused.__new__(fused)
