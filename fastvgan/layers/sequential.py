"""Sequentials that compute together what stands in a row in them.

What is in a FusedSequential stays what it is: each module, called by anyone, computes what torch.nn's computes, and any
of them may be exchanged, hooked, moved or taken out. At each call the container looks at what is there at that moment.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.deferred import Pending, conv_act, conv_norm, fused_conv_act, is_observed, is_unwatched, value
from fastvgan.layers.derived import derived_class, ours_of
from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import BatchNormAct3d, Conv3d, ConvTranspose3d
from fastvgan_kernels._torch import runs_only_forward


class Activation(NamedTuple):
    """What is known of a class of activations.

    Args:
        name: in fastvgan_kernels.
        follows_convolutions: whether a convolution computes it too, and not a norm alone: from its output its gradient
            has to be known.
        is_meant: whether an instance computes what the name says.
    """

    name: str
    follows_convolutions: bool = True
    is_meant: Callable[[nn.Module], bool] = lambda module: True


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation("relu"),
    nn.LeakyReLU: Activation("leaky_relu"),
    nn.Tanh: Activation("tanh"),
    nn.SiLU: Activation("silu", follows_convolutions=False),
    nn.GELU: Activation("gelu", follows_convolutions=False, is_meant=lambda module: module.approximate == "none"),
}
deferred.register(*ACTIVATIONS, nn.Identity)

# Each convolution → whether it may compute the activation behind it. Conv2d would gain nothing: stock computes it.
CONVOLUTIONS: dict[type[nn.Module], bool] = {
    Conv2d: False,
    Conv3d: True,
    ConvTranspose2d: True,
    ConvTranspose3d: True,
}
# Each norm, with an attribute `activation` and a method `normalise(input, activation, negative_slope)` → those
# convolutions that take its statistics while they write their output, and leave the norm to what is next. In two
# dimensions none does, since auto leaves nearly all of those to stock PyTorch; a group norm's are each sample's own.
NORMS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    BatchNormAct2d: (),
    BatchNormAct3d: (Conv3d, ConvTranspose3d),
    GroupNormAct: (),
    InstanceNormAct2d: (),
    InstanceNormAct3d: (),
}
deferred.register(*NORMS)
_COMPUTED = frozenset((*ACTIVATIONS, *CONVOLUTIONS, *NORMS))  # neither Sequentials nor without effect
# In evaluation each of these returns its input.
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
deferred.register(*_DROPOUTS)


class FusedSequential(nn.Sequential):
    """A Sequential whose convolutions, batch norms and activations are computed together where they stand in a row.

    It looks through Sequentials in it, and through what does nothing. Only instances of exactly the classes in
    CONVOLUTIONS, NORMS and ACTIVATIONS, or of one that fuse derived from these, are computed together, and only those
    without hooks and without a forward of their own; all others are called. Compilers, tracers, torch.func's transforms
    and dispatch modes are shown every module.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
        else:
            input = _run(self, input)
        return input


class Group(NamedTuple):
    """Modules that are computed together: a convolution, a norm and an activation, of which any may be absent.

    other: a module that is called by itself, with all else None.
    """

    conv: nn.Module | None = None
    norm: nn.Module | None = None
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
    if conv is not None and type(x) is Tensor and (by_stock := conv.recalled(x)) is not None:
        if norm is None:
            return by_stock if activation is None else activation(by_stock)
        how = (norm.activation, norm.negative_slope) if activation is None else setting(activation)
        return norm.normalise(by_stock, *how)
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
    """Its class; where fuse derived that from one of ours, the one of ours."""
    return ours_of(type(module))


def is_activation(module: nn.Module) -> bool:
    """Whether it is one of ACTIVATIONS in what it computes too."""
    activation = ACTIVATIONS.get(type(module))
    return activation is not None and activation.is_meant(module)


def _take_activation(norm: nn.Module | None, left: list[nn.Module]) -> nn.Module | None:
    if (norm is None or norm.activation == "none") and _expand(left):
        return left.pop() if is_activation(left[-1]) and is_unwatched(left[-1]) else None
    return None


def _may_follow(activation: nn.Module, left: list[nn.Module]) -> bool:
    """Whether a convolution may compute it, without a norm between them."""
    return ACTIVATIONS[type(activation)].follows_convolutions and _may_save_output(activation, left)


def _may_save_output(activation: nn.Module, left: list[nn.Module]) -> bool:
    """Whether nobody can change the activation's output, which a fused convolution needs for backward, and torch's not.

    torch's saves its input, if it is a leaky one out of place, so that what is next may be in place.
    """
    if type(activation) is not nn.LeakyReLU or activation.inplace or not torch.is_grad_enabled():
        return True
    return _expand(left) and kind_of(left[-1]) in CONVOLUTIONS and is_unwatched(left[-1])


def _expand(left: list[nn.Module]) -> bool:
    """Put what is in a Sequential in its place while one is next, and drop what does nothing; is something left?"""
    while left:
        module = left[-1]
        if kind_of(module) in _COMPUTED:
            return True
        if is_sequential(type(module)) and runs_only_forward(module):
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
    return ACTIVATIONS[type(activation)].name, slope


_STOCK = nn.Sequential.forward, nn.Sequential.__iter__, nn.Module.__call__


def is_sequential(kind: type) -> bool:
    """Whether instances of a class call what is in them one after the other, as nn.Sequential does, and no more."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Sequential)):
        return False
    forward = kind.forward
    return (forward is _STOCK[0] or forward is FusedSequential.forward) and (kind.__iter__, kind.__call__) == _STOCK[1:]


def fused_class(kind: type[nn.Sequential]) -> type[nn.Module]:
    """The FusedSequential that is also a `kind`, of the same name; `kind` itself where it is one.

    Args:
        kind: nn.Sequential, or a subclass of it for which `is_sequential` and not `is_told_of_subclasses`.
    """
    if issubclass(kind, FusedSequential):
        return kind
    return FusedSequential if kind is nn.Sequential else derived_class(kind, FusedSequential, ours_first=True)


def fused_layer_class(kind: type[nn.Module], ours: type[nn.Module]) -> type[nn.Module]:
    """The layer of ours that is also a `kind`, of the same name, and is computed together with others as ours is.

    Args:
        kind: a subclass, without code that takes part in a call, of the class of torch.nn's that `ours` stands for.
        ours: of fastvgan.layers.
    """
    made = derived_class(kind, ours)
    deferred.register_as(made, ours)
    return made
