"""Exchanges the stock layers of any network for fastvgan's, in place: `fastvgan.layers.fuse`.

A layer is exchanged by giving the module that is there another class. It stays the same object with the same
parameters, buffers, hooks and attributes, wherever it is referred to.
"""

import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastvgan import chains
from fastvgan.fused_sequential import ACTIVATIONS, FusedActivation, FusedSequential, setting
from fastvgan.layers import BatchNormAct3d, Conv3d, ConvTranspose3d
from fastvgan_kernels import choice

M = TypeVar("M", bound=nn.Module)

_logger = logging.getLogger("fastvgan")

_OURS = {nn.Conv3d: Conv3d, nn.ConvTranspose3d: ConvTranspose3d, nn.BatchNorm3d: BatchNormAct3d}
_UNINITIALISED = "is not initialised yet: run the module once before"
# What looks as if it could be exchanged.
_ALIKE = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class FuseEntry:
    """What became of one module.

    Args:
        name: its name in the module given to `fuse`, "" for that module itself.
        was: its class before.
        became: what it is now; None where it was left.
        why: why it was left, or a remark.
    """

    name: str
    was: str
    became: str | None
    why: str = ""


@dataclass
class FuseReport:
    """What `fuse` exchanged, and what it left and why. Iterating gives the entries; it prints as a table."""

    entries: list[FuseEntry] = field(default_factory=list)

    @property
    def changed(self) -> list[FuseEntry]:
        """The modules that were exchanged."""
        return [entry for entry in self.entries if entry.became is not None]

    @property
    def left(self) -> list[FuseEntry]:
        """The modules that were left, each with the reason."""
        return [entry for entry in self.entries if entry.became is None]

    def __iter__(self) -> Iterator[FuseEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> str:
        """One line."""
        return f"{len(self.changed)} exchanged, {len(self.left)} left"

    def __str__(self) -> str:
        rows = [(entry.name or "(itself)", entry.was, entry.became or "left", entry.why) for entry in self]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([*lines, self.summary()])


def fuse(module: M, *, impl: str = "auto", report: FuseReport | None = None) -> M:
    """Exchange, in place, every stock layer and chain that a fused one can serve.

    nn.Conv3d and nn.ConvTranspose3d become fastvgan.layers', nn.BatchNorm3d becomes BatchNormAct3d. Where a ReLU,
    LeakyReLU or Tanh module always follows such a batch norm directly, and nothing else sees what is between them, the
    batch norm computes it, and the activation becomes a FusedActivation, the identity. A Sequential in which one of
    these convolutions stands before a batch norm or an activation becomes a FusedSequential, which computes them
    together wherever no module in question has a hook. Every module stays the same object under the same name, with
    its parameters, buffers, hooks, state_dict and mode. Results are the same.

    What follows what is read off each module's forward by torch.fx, in training and in evaluation; a module that cannot
    be traced is taken to call the Sequentials in it as a whole. Attributes that steer a forward must not be changed
    afterwards, and hooks that a batch norm gets afterwards see the activation's output. Call it before torch.compile.

    Args:
        module: any module. Only instances of exactly those classes are exchanged, since a subclass may do anything.
        impl: the implementation of the layers that are exchanged.
        report: one to fill with what was exchanged, and what was left and why; what was in it is dropped.

    Returns:
        The module given.

    Raises:
        TypeError: `module` is none.
        ValueError: `impl` is no implementation's name, or the module is compiled already.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    choice.check_name(impl)
    if _is_compiled(module):
        raise ValueError("the module is compiled already: call fuse before torch.compile")
    report = FuseReport() if report is None else report
    plan = _Plan(module)
    report.entries = [entry for name, m in module.named_modules() if (entry := plan.entry(name, m)) is not None]
    plan.apply(impl)
    _logger.info("fuse: %s", report.summary())
    return module


class _Plan:
    """What to exchange in a module. Nothing is changed before `apply`."""

    def __init__(self, root: nn.Module):
        self.names = {id(module): name for name, module in root.named_modules()}
        self.modules = list(root.modules())
        self.closed: dict[int, str] = {}  # the modules that are no longer Python's, or in one, and why
        self.tops: set[int] = set()
        for module in self.modules:
            self._close(module)
        # Why each layer of a kind that can be exchanged is not, or None.
        layers = [module for module in self.modules if isinstance(module, tuple(_OURS))]
        self.refusals = {id(layer): self.closed.get(id(layer)) or _refusal(layer) for layer in layers}
        self.chains = chains.find(root, self.names, set(self.closed), self._norm_refusal)

    def _close(self, module: nn.Module) -> None:
        reason = None
        if isinstance(module, torch.jit.ScriptModule):
            reason = "is a ScriptModule, whose code is fixed"
        elif _is_compiled(module):
            reason = "is compiled already: call fuse before torch.compile"
        if reason is not None and id(module) not in self.closed:
            self.tops.add(id(module))
            self.closed.update((id(inner), reason) for inner in module.modules())

    def _norm_refusal(self, norm: nn.Module) -> str | None:
        """Why a batch norm cannot compute the activation after it."""
        if self.refusals[id(norm)] is not None:
            return self.refusals[id(norm)]
        if type(norm) is BatchNormAct3d and norm.activation != "none":
            return "has an activation already"
        if norm._forward_hooks or norm._backward_hooks or norm._backward_pre_hooks:
            return "has a hook that sees its output without the activation"
        return None

    def entry(self, name: str, module: nn.Module) -> FuseEntry | None:
        """What the report says of a module, None where there is nothing to say."""
        was, became = type(module).__name__, self._becomes(module)
        if became is not None:
            return FuseEntry(name, was, became, self._remark(module))
        why = self._why_left(module)
        return None if why is None else FuseEntry(name, was, None, why)

    def _becomes(self, module: nn.Module) -> str | None:
        if module in self.chains.norms_of:
            return "FusedActivation"
        if module in self.chains.activation_of:
            return f"BatchNormAct3d({setting(self.chains.activation_of[module])[0]})"
        if type(module) in _OURS and self.refusals[id(module)] is None:
            return f"fastvgan {_OURS[type(module)].__name__}"
        return "FusedSequential" if self._is_joined(module) else None

    def _is_joined(self, module: nn.Module) -> bool:
        """Whether it is a Sequential that can compute some of what is in it together."""
        if type(module) is not nn.Sequential or "forward" in vars(module) or id(module) in self.closed:
            return False
        return any(
            isinstance(first, nn.Conv3d | nn.ConvTranspose3d)
            and self.refusals.get(id(first), "") is None
            and (self.refusals.get(id(second), "") is None or type(second) in ACTIVATIONS)
            for first, second in itertools.pairwise(module)
        )

    def _remark(self, module: nn.Module) -> str:
        if module in self.chains.norms_of:
            return f"computed by {self._norm_names(module)}"
        if module in self.chains.activation_of:
            chain = (self.chains.convolution_of.get(module), module, self.chains.activation_of[module])
            return "chain of " + ", ".join(self.names[id(part)] for part in chain if part is not None)
        if module in self.chains.functions:
            return f"{self.chains.functions[module]} after it is called as a function; a module could be fused"
        return ""

    def _norm_names(self, activation: nn.Module) -> str:
        return ", ".join(self.names[id(norm)] for norm in self.chains.norms_of[activation])

    def _why_left(self, module: nn.Module) -> str | None:
        if id(module) in self.closed:
            return self.closed[id(module)] if id(module) in self.tops else None
        if module in self.chains.why_not:
            return self.chains.why_not[module]
        if isinstance(module, tuple(_OURS)):
            return self.refusals[id(module)] if type(module) not in _OURS.values() else None
        if isinstance(module, LazyModuleMixin) and module.cls_to_become in _OURS:
            return _UNINITIALISED
        if isinstance(module, _ALIKE) or _is_quantised(module):
            return f"there is no fused layer for {type(module).__name__}"
        if id(module) in self.chains.untraceable and any(map(self._is_lone, module.modules())):
            return f"{self.chains.untraceable[id(module)]}; only what is in it was looked at"
        return None

    def _is_lone(self, module: nn.Module) -> bool:
        """Whether it is a batch norm that could have computed an activation."""
        is_norm = isinstance(module, nn.BatchNorm3d) and self._norm_refusal(module) is None
        return is_norm and module not in self.chains.activation_of

    def apply(self, impl: str) -> None:
        joined = [m for m in self.modules if self._is_joined(m)]
        exchanged = [m for m in self.modules if type(m) in _OURS and self.refusals[id(m)] is None]
        for module in exchanged:
            module.__class__ = _OURS[type(module)]
            module.impl = impl
            if isinstance(module, BatchNormAct3d):
                module.activation, module.negative_slope = "none", 0.01
        for norm, activation in self.chains.activation_of.items():
            norm.activation, norm.negative_slope = setting(activation)
        for activation in self.chains.norms_of:
            activation.activation, activation.fused_into = repr(activation), self._norm_names(activation)
            activation.__class__ = FusedActivation
        for module in joined:
            module.__class__ = FusedSequential


def _refusal(module: nn.Module) -> str | None:
    """Why a convolution or batch norm has to stay as it is."""
    if type(module) in _OURS.values():
        return "has a forward that was replaced on the instance" if "forward" in vars(module) else None
    if type(module) not in _OURS:
        return _subclass_refusal(module)
    if "forward" in vars(module):
        return "has a forward that was replaced on the instance"
    if getattr(module, "qconfig", None) is not None:
        return "is prepared for quantisation, which goes by its class"
    names = ("impl", "activation", "negative_slope") if type(module) is nn.BatchNorm3d else ("impl",)
    taken = [name for name in names if hasattr(module, name)]
    if taken:
        return f"has an attribute of its own named {taken[0]}"
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            return f"has a {name} that is a {type(tensor).__name__}, not a plain tensor"
        if not tensor.is_floating_point() and name != "num_batches_tracked":
            return f"has a {name} of {tensor.dtype}"
    return None


def _subclass_refusal(module: nn.Module) -> str:
    if isinstance(module, LazyModuleMixin):
        return _UNINITIALISED
    if parametrize.is_parametrized(module):
        return f"is parametrised ({', '.join(module.parametrizations)}), which goes by its class"
    if _is_quantised(module):
        return "is quantised"
    return f"is of a subclass of torch.nn's, {type(module).__name__}, which may do something else"


def _is_quantised(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.") and type(module).__name__.endswith(("3d", "2d"))


def _is_compiled(module: nn.Module) -> bool:
    # Where torch._dynamo has not been imported nothing can be compiled, and importing it takes seconds.
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    wrapped = eval_frame is not None and isinstance(module, eval_frame.OptimizedModule)
    return wrapped or module._compiled_call_impl is not None
