"""Which module is called with whose result, read off a module's forward by torch.fx.

Forward runs with stand-ins for tensors, on a copy of the module tree without any data: buffers, attributes that forward
sets, hooks and random states stay as they are. It runs in training and in evaluation, and for either choice of each
optional argument, since what it does may depend on them.
"""

import contextlib
import inspect
import itertools
import random
import types
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy
import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from fastvgan.tracing import TraceableLayer

_MAX_VARIANTS = 32


class Untraceable(Exception):
    """Forward cannot be followed; the message says why."""


@dataclass(frozen=True)
class Call:
    """One call of a module that is not looked into.

    Args:
        module: the module called.
        inside: the calls that it happened in, outermost first, each a number of its own and the module called. The
            traced module itself is not among them.
    """

    module: nn.Module
    inside: tuple[tuple[int, nn.Module], ...]


@dataclass(frozen=True)
class Trace:
    """What one run of forward called.

    Args:
        calls: node of the graph → the call it stands for.
        called: the ids of all modules that were called, looked into or not.
    """

    calls: dict[fx.Node, Call]
    called: set[int]


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is called as a whole: what torch.nn computes itself, subclasses of its layers, our layers."""
    if isinstance(module, nn.Sequential):
        return False
    layers = nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, torch.jit.ScriptModule, TraceableLayer
    if isinstance(module, layers):
        return True
    return (getattr(type(module).forward, "__module__", None) or "").startswith(("torch.nn.", "torch.ao.nn."))


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called at all, which ModuleList, ModuleDict and mere holders of others cannot."""
    return isinstance(module, torch.jit.ScriptModule) or type(module).forward is not nn.Module.forward


def traces(module: nn.Module, opaque: set[int]) -> list[Trace]:
    """Every run of `module`'s forward that may differ in what it calls.

    Args:
        module: no leaf itself.
        opaque: the ids of modules within not to look into.

    Returns:
        The traces, in training and in evaluation, for either choice of each optional argument.

    Raises:
        Untraceable: one of them fails, or would not be the same each time.
    """
    if "forward" in vars(module):
        raise Untraceable("its forward was replaced on the instance")
    choices = _choices(type(module).forward)
    return [_trace(module, opaque, training, chosen) for training in (True, False) for chosen in choices]


def _choices(forward) -> list[dict]:
    """For each optional argument None or a value, True or False; others are taken as given."""
    try:
        parameters = inspect.signature(forward).parameters
    except (TypeError, ValueError) as error:
        raise Untraceable(f"its forward has no signature ({error})") from error
    options = {}
    for name, parameter in parameters.items():
        if parameter.default is None:
            options[name] = (_GIVEN, None)
        elif isinstance(parameter.default, bool):
            options[name] = (True, False)
    if 2 ** len(options) > _MAX_VARIANTS:
        raise Untraceable(f"its forward has {len(options)} optional arguments, too many to try all")
    chosen = (dict(zip(options, values, strict=True)) for values in itertools.product(*options.values()))
    return [{name: value for name, value in each.items() if value is not _GIVEN} for each in chosen]


_GIVEN = object()


def _trace(module: nn.Module, opaque: set[int], training: bool, chosen: dict) -> Trace:
    try:
        with _random_states() as drawn:
            copy, originals = _without_data(module, training)
            tracer = _Tracer(originals, opaque)
            tracer.trace(copy, chosen or None)
    except Exception as error:  # forward may raise anything when it meets a stand-in for a tensor
        reason = str(error).strip().splitlines() or ["no message"]
        raise Untraceable(f"its forward cannot be traced ({type(error).__name__}: {reason[0]})") from error
    if drawn:
        raise Untraceable("its forward draws random numbers, so that one call may differ from the next")
    return Trace(tracer.calls, tracer.called)


class _Tracer(fx.Tracer):
    def __init__(self, originals: dict[int, nn.Module], opaque: set[int]):
        super().__init__()
        self.originals, self.opaque = originals, opaque
        self.calls: dict[fx.Node, Call] = {}
        self.called: set[int] = set()
        self.inside: list[tuple[int, nn.Module]] = []
        self.numbers = itertools.count()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or id(self.originals[id(m)]) in self.opaque

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict):
        if id(m) not in self.originals:
            raise NameError(f"it calls a {type(m).__name__} that is not among its submodules")
        original = self.originals[id(m)]
        self.called.add(id(original))
        self.inside.append((next(self.numbers), original))
        try:
            # Not `forward`, which would run the hooks, with stand-ins, for anyone to see.
            result = super().call_module(m, m.forward, args, kwargs)
        finally:
            self.inside.pop()
        if self.is_leaf_module(m, ""):
            self.calls[result.node] = Call(original, tuple(self.inside))
        return result


def _without_data(root: nn.Module, training: bool) -> tuple[nn.Module, dict[int, nn.Module]]:
    """A copy of a module tree with tensors on the meta device, and the id of each copy → its original."""
    copies = {id(module): object.__new__(type(module)) for module in root.modules()}
    memo: dict[int, torch.Tensor] = {}

    def copy(value):
        if isinstance(value, nn.Module):
            return copies.get(id(value), value)
        if isinstance(value, torch.Tensor):
            return memo.setdefault(id(value), _stand_in(value))
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, copy(value.__self__))
        if type(value) in (dict, OrderedDict):
            return type(value)((key, copy(item)) for key, item in value.items())
        return type(value)(map(copy, value)) if type(value) in (list, tuple) else value

    for module in root.modules():
        vars(copies[id(module)]).update(copy(vars(module)), training=training)
        if is_leaf(module):
            vars(copies[id(module)])["forward"] = _called_past_the_tracer
    return copies[id(root)], {id(copies[id(module)]): module for module in root.modules()}


def _called_past_the_tracer(*args, **kwargs):
    raise NameError("it calls the forward of a layer instead of the layer")


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    if is_lazy(tensor):
        return tensor
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


@contextlib.contextmanager
def _random_states() -> Iterator[list]:
    """Puts the random states back; the list given is not empty afterwards where they had been used."""
    drawn: list[str] = []
    before = random.getstate(), numpy.random.get_state(legacy=False), torch.get_rng_state()
    try:
        yield drawn
    finally:
        if random.getstate() != before[0]:
            drawn.append("random")
        if repr(numpy.random.get_state(legacy=False)) != repr(before[1]):
            drawn.append("numpy")
        if not torch.equal(torch.get_rng_state(), before[2]):
            drawn.append("torch")
        random.setstate(before[0])
        numpy.random.set_state(before[1])
        torch.set_rng_state(before[2])
