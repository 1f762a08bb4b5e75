"""Exchanges the stock layers of any network for fastvgan's, in place: `fastvgan.layers.fuse`.

A layer is exchanged by giving the module that is there another class. It stays the same object with the same
parameters, buffers, hooks and attributes, wherever it is referred to. Nothing of it is called.
"""

import inspect
import itertools
import logging
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastvgan.layers.derived import is_told_of_subclasses
from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import BatchNormAct3d, Conv3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d
from fastvgan.layers.sequential import (
    ACTIVATIONS,
    CONVOLUTIONS,
    NORMS,
    FusedSequential,
    fused_class,
    fused_layer_class,
    groups,
    is_activation,
    is_sequential,
    kind_of,
)
from fastvgan_kernels import _torch, choice

M = TypeVar("M", bound=nn.Module)

_logger = logging.getLogger("fastvgan")

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
    nn.BatchNorm2d: BatchNormAct2d,
    nn.BatchNorm3d: BatchNormAct3d,
    nn.GroupNorm: GroupNormAct,
    nn.InstanceNorm2d: InstanceNormAct2d,
    nn.InstanceNorm3d: InstanceNormAct3d,
}
_UNINITIALISED = "is not initialised yet: run the module once before"
# What looks as if it could be exchanged.
_ALIKE = (_torch.ConvNd, _torch.BatchNorm, _torch.InstanceNorm)
_CHAINS = (ConvNormAct3d, ConvTransposeNormAct3d)
# What a subclass may have of its own, though torch.nn's classes have it: none of it takes part in a call.
_APART_FROM_CALLS = frozenset(
    "__init__ __module__ __qualname__ __doc__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ "
    "__firstlineno__ __static_attributes__ __dict__ __weakref__ __constants__ reset_parameters extra_repr".split()
)
# What torch.nn's layers call when they are called themselves.
_OF_A_CALL = (
    *("forward", "_call_impl", "_conv_forward", "_output_padding", "_check_input_dim"),
    *("_get_no_batch_dim", "_handle_no_batch_input", "_apply_instance_norm"),
)


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
    """Exchange, in place, every stock layer that a fused one can serve, and every Sequential that can fuse some.

    nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d and nn.ConvTranspose3d become fastvgan.layers', nn.BatchNorm2d and
    nn.BatchNorm3d become BatchNormAct2d and BatchNormAct3d without an activation, and GroupNorm, InstanceNorm2d and
    InstanceNorm3d likewise. Each of them, called by anyone, computes what it did before. A Sequential in which a norm
    and an activation (ReLU, LeakyReLU, Tanh, SiLU or the exact GELU), or a convolution and one of the first three or a
    batch norm, stand in a row becomes a FusedSequential, which computes them together where that is faster. It looks at
    what is in it at each call, so that its parts may be taken out, exchanged, converted and hooked afterwards as those
    of any Sequential. Every module stays the same object under the same name, with its parameters, buffers, hooks,
    state_dict and mode. Results are the same.

    No code of the modules is run. What a module with a forward of its own calls is therefore not known: its layers are
    exchanged and computed one by one, and the report says so. Call it before torch.compile.

    Args:
        module: any module. Only layers that torch.nn computes are exchanged: of exactly those classes, or of a subclass
            that has nothing of its own that takes part in a call, as one with only an __init__; and only Sequentials
            that have nn.Sequential's forward. Where torch sees no GPU, convolutions that stock PyTorch computes as fast
            whatever their input stay. An instance of a subclass gets a class of the same name that inherits
            from the subclass and from ours.
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
    if _torch.is_compiled(module):
        raise ValueError("the module is compiled already: call fuse before torch.compile")
    report = FuseReport() if report is None else report
    report.entries = _Exchange(module, impl).entries()
    _logger.info("fuse: %s", report.summary())
    return module


class _Exchange:
    """Exchanges what can be exchanged in a module, and says what became of each module in it."""

    def __init__(self, root: nn.Module, impl: str):
        self.names = {module: name for name, module in root.named_modules()}
        self.classes = {module: type(module) for module in self.names}
        self.closed: dict[nn.Module, str] = {}  # the modules that are no longer Python's, or in one, and why
        self.tops: set[nn.Module] = set()
        for module in self.names:
            self._close(module)
        # All reasons before anything is changed.
        self.refusals = {module: self.closed.get(module) or _refusal(module, impl) for module in self.names}
        for module in self._accepted():
            _exchange(module, impl)
        for module in self._accepted():
            if is_sequential(type(module)) and _has_a_row(module):
                # Not by a __setattr__ of its own.
                object.__setattr__(module, "__class__", fused_class(type(module)))

    def _close(self, module: nn.Module) -> None:
        reason = None
        if isinstance(module, torch.jit.ScriptModule):
            reason = "is a ScriptModule, whose code is fixed"
        elif _torch.is_compiled(module):
            reason = "is compiled already: call fuse before torch.compile"
        if reason is not None and module not in self.closed:
            self.tops.add(module)
            self.closed.update((inner, reason) for inner in module.modules())

    def _accepted(self) -> list[nn.Module]:
        return [module for module, reason in self.refusals.items() if reason is None]

    def entries(self) -> list[FuseEntry]:
        return [entry for module in self.names if (entry := self._entry(module)) is not None]

    def _entry(self, module: nn.Module) -> FuseEntry | None:
        """What the report says of a module, None where there is nothing to say."""
        name, was = self.names[module], self.classes[module]
        if type(module) is not was:
            kind, stock = kind_of(module), _stock_of(was)
            became = "FusedSequential" if isinstance(module, FusedSequential) else kind.__name__
            if stock is not None and stock.__name__ == became:
                became = f"fastvgan {became}"
            return FuseEntry(name, was.__name__, became, self._rows(module))
        if module in self.closed:
            return FuseEntry(name, was.__name__, None, self.closed[module]) if module in self.tops else None
        why = self._why_left(module)
        return None if why is None else FuseEntry(name, was.__name__, None, why)

    def _why_left(self, module: nn.Module) -> str | None:
        if isinstance(module, tuple(_OURS)):
            return self.refusals[module]
        if isinstance(module, LazyModuleMixin) and module.cls_to_become in _OURS:
            return _UNINITIALISED
        if isinstance(module, _ALIKE):
            return f"there is no fused layer for {type(module).__name__}"
        if is_sequential(type(module)):
            return self.refusals[module] if _has_a_row(module) else None
        if any(kind_of(child) in NORMS for child in _direct(module)) and not isinstance(module, _CHAINS):
            return "has a forward of its own, which is not looked into: what it calls itself is computed one by one"
        return None

    def _rows(self, module: nn.Module) -> str:
        """What a FusedSequential computes together, by the names within it."""
        if not isinstance(module, FusedSequential):
            return ""
        inside = {inner: name for name, inner in module.named_modules()}
        rows = [group.modules for group in groups(module)]
        return "together: " + ", ".join("+".join(map(inside.get, row)) for row in rows if len(row) > 1)


def _stock_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class of torch.nn's that can be exchanged of which `kind` is a subclass, or which it is."""
    return next((base for base in kind.__mro__ if base in _OURS), None)


def _exchange(module: nn.Module, impl: str) -> None:
    """Make a layer fastvgan's."""
    kind = type(module)
    stock = _stock_of(kind)
    if stock is None or issubclass(kind, _OURS[stock]):
        return
    ours = _OURS[stock]
    # Not by a __setattr__ of its own.
    object.__setattr__(module, "__class__", ours if kind is stock else fused_layer_class(kind, ours))
    module.impl = impl
    if ours in NORMS:
        module.activation, module.negative_slope = "none", 0.01


def _has_a_row(container: nn.Sequential) -> bool:
    """Whether there are modules in it that could be computed together, were there no hooks."""
    return any(itertools.starmap(_are_a_row, itertools.pairwise(_flat(container))))


def _are_a_row(first: nn.Module, second: nn.Module) -> bool:
    kind = kind_of(first)
    if is_activation(second):
        return kind in NORMS or (CONVOLUTIONS.get(kind, False) and ACTIVATIONS[type(second)].follows_convolutions)
    return kind in NORMS.get(kind_of(second), ())


def _flat(container: nn.Sequential) -> Iterator[nn.Module]:
    for module in container:
        if is_sequential(type(module)):
            yield from _flat(module)
        else:
            yield module


def _direct(module: nn.Module) -> Iterator[nn.Module]:
    """What a module with a forward has in it, what is in a ModuleList or another module without one in its place."""
    if _has_forward(module):
        for child in module.children():
            yield child
            yield from () if _has_forward(child) else child.children()


def _has_forward(module: nn.Module) -> bool:
    # The class of ScriptModules has none to look at.
    return isinstance(module, torch.jit.ScriptModule) or type(module).forward is not nn.Module.forward


def _refusal(module: nn.Module, impl: str) -> str | None:
    """Why a layer or a Sequential stays as it is."""
    if "forward" in vars(module):
        return "has a forward that was replaced on the instance"
    if vars(module).get("qconfig") is not None:
        return "is prepared for quantisation, which goes by its class"
    if is_sequential(type(module)) and is_told_of_subclasses(type(module)):
        return f"is of a class, {type(module).__name__}, that runs code of its own where one inherits from it"
    kind = type(module)
    stock = _stock_of(kind)
    if stock is None or kind_of(module) is _OURS[stock]:
        return None
    refusal = (None if kind is stock else _subclass_refusal(module, stock)) or _layer_refusal(module, stock)
    if refusal is None and impl == "auto" and not torch.cuda.is_available():
        return _nothing_to_gain(module, stock)
    return refusal


def _nothing_to_gain(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """Why a layer is as fast by stock PyTorch whatever it is given on a CPU, where a layer of ours costs a call more.

    Such a call costs some 2 µs, and 5 under autocast: X3D, of which two thirds of the convolutions are of this kind,
    took 1.1 times as long. kernels/conv/stock/on_cpu.py says what is faster; what stock PyTorch cannot be trusted
    with (stock/faults.py) needs a stride, or padding as wide as the kernel.
    """
    if stock not in (nn.Conv2d, nn.Conv3d) or max(module.stride) > 1 or isinstance(module.padding, str):
        return None
    if any(map(operator.ge, module.padding, module.kernel_size)):
        return None
    if max(module.kernel_size) == 1:
        return "stock PyTorch is as fast on a CPU with a kernel of 1 and no stride"
    if stock is nn.Conv2d and max(module.dilation) == 1:
        return "stock PyTorch is as fast on a CPU in two dimensions without a stride"
    return None


def _layer_refusal(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """Why a layer of one of torch.nn's classes, as this instance is, has to stay as it is."""
    replaced = [name for name in _OF_A_CALL if name in vars(module)]
    if replaced:
        return f"has a {replaced[0]} that was replaced on the instance"
    tensors = *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
    own = {*vars(module), *(name for name, _ in tensors), *_torch.child_names(module)}
    added = {"impl", "activation", "negative_slope"} if _OURS[stock] in NORMS else {"impl"}
    added |= set(dir(_OURS[stock])) - set(dir(stock))
    taken = sorted(name for name in added if name in own or hasattr(type(module), name))
    if taken:
        return f"has an attribute of its own named {taken[0]}"
    for name, tensor in tensors:
        if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            return f"has a {name} that is a {type(tensor).__name__}, not a plain tensor"
        if not tensor.is_floating_point() and name != "num_batches_tracked":
            return f"has a {name} of {tensor.dtype}"
    return None


def _subclass_refusal(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """Why a layer of a subclass of torch.nn's has to stay, or None where the subclass leaves calls as they are."""
    kind = type(module)
    if isinstance(module, LazyModuleMixin):
        return _UNINITIALISED
    if parametrize.is_parametrized(module):
        return f"is parametrised ({', '.join(module.parametrizations)}), which goes by its class"
    of = f"is of a subclass of torch.nn's, {kind.__name__}"
    if issubclass(kind, _OURS[stock]):
        return f"is of a subclass of fastvgan's, {kind.__name__}, which may do something else"
    if is_told_of_subclasses(kind):
        return f"{of}, that runs code of its own where one inherits from it"
    for base in kind.__mro__:
        own = next((name for name in vars(base) if _takes_part(name, module, stock)), None)
        if base not in stock.__mro__ and own is not None:
            return f"{of}, with a {own} of its own, which may do something else"
    return None


def _takes_part(name: str, module: nn.Module, stock: type[nn.Module]) -> bool:
    """Whether a call could come upon what a subclass has by this name."""
    if name in _APART_FROM_CALLS:
        return False
    annotated = (inspect.get_annotations(base) for base in stock.__mro__)
    tensors = *_torch.tensor_names(module), "qconfig"
    is_special = name.startswith("__") and name.endswith("__")
    return is_special or hasattr(_OURS[stock], name) or name in tensors or any(name in names for names in annotated)
