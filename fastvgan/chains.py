"""Finds the activations that always directly follow a batch norm in a module tree, and says why others do not."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.nn import functional

from fastvgan.call_sites import Call, Trace, Untraceable, has_forward, is_leaf, traces
from fastvgan.deferred import HOOKS
from fastvgan.fused_sequential import ACTIVATIONS, FusedSequential, setting

_CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)
_FUNCTIONS = {torch.relu, torch.relu_, torch.tanh, torch.tanh_, functional.relu, functional.relu_, functional.tanh}
_FUNCTIONS |= {functional.leaky_relu, functional.leaky_relu_}
_METHODS = {"relu", "relu_", "tanh", "tanh_"}

Refusal = Callable[[nn.Module], str | None]


@dataclass
class Chains:
    """What can be fused.

    Args:
        norms_of: activation → the batch norms that can compute it, wherever it is called.
        activation_of: each of those batch norms → an activation after it; of several, all do the same.
        convolution_of: batch norm → the convolution before it, where there is one.
        why_not: activation after a batch norm → why it has to stay.
        functions: batch norm → the name of the function that is its activation.
        untraceable: id of a module → why its forward cannot be followed.
    """

    norms_of: dict[nn.Module, list[nn.Module]] = field(default_factory=dict)
    activation_of: dict[nn.Module, nn.Module] = field(default_factory=dict)
    convolution_of: dict[nn.Module, nn.Module] = field(default_factory=dict)
    why_not: dict[nn.Module, str] = field(default_factory=dict)
    functions: dict[nn.Module, str] = field(default_factory=dict)
    untraceable: dict[int, str] = field(default_factory=dict)


def find(root: nn.Module, names: dict[int, str], closed: set[int], norm_refusal: Refusal) -> Chains:
    """The chains of `root`.

    Args:
        root: any module.
        names: id of each module → its name.
        closed: the ids of modules not to look into.
        norm_refusal: why a batch norm cannot compute the activation after it, or None when it can.

    Returns:
        Chains such that every call of their batch norms is followed by an activation of theirs, the same each time,
        and every call of their activations follows one of their batch norms.
    """
    calls = _Calls(root, names, closed)
    return _settle(calls, names, norm_refusal)


class _Calls:
    """Every call of a batch norm and of an activation, with what is after it and before it."""

    def __init__(self, root: nn.Module, names: dict[int, str], closed: set[int]):
        self.names = names
        self.closed = closed
        self.opaque = set(closed)
        self.called: set[int] = set()
        self.looked: set[int] = set()
        # For each call the module there, or what is there instead.
        self.after: dict[nn.Module, list[nn.Module | str]] = defaultdict(list)
        self.before: dict[nn.Module, list[nn.Module | str]] = defaultdict(list)
        self.chains = Chains()
        self._look(root)

    def _look(self, module: nn.Module) -> None:
        """Trace a module, and what is in it on its own where that fails or where it is not called."""
        if id(module) in self.looked or id(module) in self.closed:
            return
        self.looked.add(id(module))
        if is_leaf(module):  # wrappers such as DistributedDataParallel have something in them
            for child in _direct(module):
                self._look(child)
            return
        reason = self._trace(module)
        if reason is not None:
            opaque = len(self.opaque)
            for child in _direct(module):
                self._look(child)
            if len(self.opaque) > opaque:  # what was in the way may now be called without being looked into
                reason = self._trace(module)
        if reason is not None:
            self._give_up(module, reason)
            return
        for other in module.modules():
            if other is not module and id(other) not in self.called and has_forward(other):
                self._look(other)

    def _trace(self, module: nn.Module) -> str | None:
        try:
            runs = traces(module, self.opaque)
        except Untraceable as error:
            return str(error)
        for run in runs:
            self.called |= run.called
            for node, call in run.calls.items():
                self._record(run, node, call)
        return None

    def _give_up(self, module: nn.Module, reason: str) -> None:
        self.opaque.add(id(module))
        if has_forward(module):
            self.chains.untraceable[id(module)] = reason
        unknown = f"is called by {self._name(module)}, and how is not known: {reason}"
        for child in _direct(module):
            if isinstance(child, nn.BatchNorm3d):
                self.after[child].append(unknown)
            elif _is_activation(child):
                self.before[child].append(unknown)

    def _record(self, run: Trace, node: fx.Node, call: Call) -> None:
        module, inputs = call.module, node.all_input_nodes
        source = run.calls.get(inputs[0]) if len(inputs) == 1 else None
        if isinstance(module, nn.BatchNorm3d):
            self.after[module].append(self._next(run, node, call))
            if source is not None and isinstance(source.module, _CONVOLUTIONS):
                self.chains.convolution_of[module] = source.module
        if _is_activation(module):
            follows = source is not None and isinstance(source.module, nn.BatchNorm3d)
            self.before[module].append(source.module if follows else "is also called with something else")

    def _next(self, run: Trace, node: fx.Node, call: Call) -> nn.Module | str:
        users = list(node.users)
        if len(users) != 1:
            return f"has an output that is used {len(users)} times"
        user = users[0]
        if user not in run.calls:
            if (user.op == "call_function" and user.target in _FUNCTIONS) or (
                user.op == "call_method" and user.target in _METHODS
            ):
                self.chains.functions[call.module] = getattr(user.target, "__name__", user.target)
            return "is also called without an activation module after it"
        after = run.calls[user]
        if not _is_activation(after.module):
            return "is also called without an activation module after it"
        return self._border(call, after) or after.module

    def _border(self, first: Call, second: Call) -> str | None:
        """Why two calls are not to be fused because of the modules that one of them is in and the other is not."""
        common = sum(1 for a, b in zip(first.inside, second.inside, strict=False) if a[0] == b[0])
        for _, module in (*first.inside[common:], *second.inside[common:]):
            # A Sequential is mere grouping; other modules' results mean something, and people use them.
            if type(module) not in (nn.Sequential, FusedSequential):
                return f"is in another module, {self._name(module)}, than the activation"
            if any(getattr(module, hooks) for hooks in HOOKS) or "forward" in vars(module):
                return f"is apart from the activation by {self._name(module)}, which has hooks"
        return None

    def _name(self, module: nn.Module) -> str:
        return repr(self.names[id(module)]) if self.names[id(module)] else "the module itself"


def _direct(module: nn.Module) -> Iterator[nn.Module]:
    """A module's children, those in a ModuleList or the like in its place."""
    for child in module.children():
        if has_forward(child):
            yield child
        else:
            yield from _direct(child)


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation" or isinstance(module, tuple(ACTIVATIONS))


def _settle(calls: _Calls, names: dict[int, str], norm_refusal: Refusal) -> Chains:
    """Leave out batch norms and activations until those that remain have only each other."""
    bad: dict[nn.Module, str] = {}
    for modules, refusal in ((calls.after, norm_refusal), (calls.before, _activation_refusal)):
        bad.update((module, reason) for module in modules if (reason := refusal(module)) is not None)
    size = -1
    while len(bad) != size:
        size = len(bad)
        for neighbours in (calls.after, calls.before):
            for module, others in neighbours.items():
                reason = None if module in bad else _obstacle(others, bad, names)
                if reason is not None:
                    bad[module] = reason
    return _collect(calls, bad)


def _obstacle(others: list[nn.Module | str], bad: dict[nn.Module, str], names: dict[int, str]) -> str | None:
    for other in others:
        if isinstance(other, str):
            return other
        if other in bad:
            return f"goes with {names[id(other)]!r}, which {bad[other]}"
    activations = {setting(other) for other in others if type(other) in ACTIVATIONS}
    return "is followed by different activations" if len(activations) > 1 else None


def _collect(calls: _Calls, bad: dict[nn.Module, str]) -> Chains:
    chains = calls.chains
    for activation, sources in calls.before.items():
        norms = list(dict.fromkeys(source for source in sources if not isinstance(source, str)))
        if norms and activation in bad:
            chains.why_not[activation] = bad[activation]
        elif norms:
            chains.norms_of[activation] = norms
            chains.activation_of.update(dict.fromkeys(norms, activation))
    return chains


def _activation_refusal(activation: nn.Module) -> str | None:
    if type(activation) not in ACTIVATIONS:
        if not isinstance(activation, tuple(ACTIVATIONS)):
            return f"is a {type(activation).__name__}, which norm_act does not have"
        return f"is of a subclass of torch.nn's, {type(activation).__name__}, which may do something else"
    if "forward" in vars(activation):
        return "has a forward that was replaced on the instance"
    if hasattr(activation, "activation") or hasattr(activation, "fused_into"):
        return "has an attribute of a name that FusedActivation needs"
    if activation._forward_pre_hooks or activation._backward_hooks or activation._backward_pre_hooks:
        return "has a hook that sees what is before it"
    if activation._forward_hooks and not getattr(activation, "inplace", False):
        return "has a forward hook, which would see its input activated already"
    return None
