"""`fastvgan.layers.fuse`, which replaces the stock layers of any network by fastvgan's, in place.

A layer is replaced by assigning another class to the module. It remains the same object with the same parameters,
buffers, hooks and attributes, for everything that refers to it. None of its code runs.
"""

import inspect
import itertools
import logging
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastvgan.layers.convolutions import Conv3d, ConvTranspose3d
from fastvgan.layers.derived import has_subclass_hook
from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import BatchNormAct3d, ConvNormAct3d, ConvTransposeNormAct3d
from fastvgan.layers.sequential import (
    ACTIVATIONS,
    CONVOLUTIONS,
    NORMS,
    FusedSequential,
    derive_layer_class,
    derive_sequential_class,
    groups,
    is_activation,
    is_sequential,
    kind_of,
)
from fastvgan.layers.tracing import TraceableLayer
from fastvgan_kernels import _torch, choice
from fastvgan_kernels.arguments import per_dimension

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
_UNINITIALISED = "is not initialised: run the module once, then call fuse"
# Layers that a user may expect to be replaced, though no fused layer exists for some of them.
_SIMILAR = (_torch.ConvNd, _torch.BatchNorm, _torch.InstanceNorm)
_CONV_NORM_ACTS = (ConvNormAct3d, ConvTransposeNormAct3d)
_ACTIVATED = "is the norm of a {}, which activates its result"
# Attributes of torch.nn's classes that a subclass may redefine, because no call uses them.
_UNUSED_IN_CALLS = frozenset(
    "__init__ __module__ __qualname__ __doc__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ "
    "__firstlineno__ __static_attributes__ __dict__ __weakref__ __constants__ reset_parameters extra_repr".split()
)
# Attributes that the fused layers add and a user may read.
_SETTINGS = ("impl", "activation", "negative_slope")
# Methods that run when a torch.nn layer is called.
_USED_IN_CALLS = (
    *("forward", "_call_impl", "_conv_forward", "_output_padding", "_check_input_dim"),
    *("_get_no_batch_dim", "_handle_no_batch_input", "_apply_instance_norm"),
)


@dataclass(frozen=True)
class FuseEntry:
    """The result of `fuse` for one module.

    Args:
        name: the module's name within the module given to `fuse`, "" for that module itself.
        was: the name of its class before.
        became: the name of its class now; None if it was not replaced.
        why: the reason why it was not replaced, or a remark.
    """

    name: str
    was: str
    became: str | None
    why: str = ""


@dataclass
class FuseReport:
    """The modules that `fuse` replaced, and those that it did not, with reasons. Iterate for entries; print a table."""

    entries: list[FuseEntry] = field(default_factory=list)

    @property
    def changed(self) -> list[FuseEntry]:
        """Entries of the modules that were replaced."""
        return [entry for entry in self.entries if entry.became is not None]

    @property
    def left(self) -> list[FuseEntry]:
        """Entries of the modules that were not replaced, with the reasons."""
        return [entry for entry in self.entries if entry.became is None]

    def __iter__(self) -> Iterator[FuseEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> str:
        """Return the numbers of replaced and of other modules in one line."""
        return f"{len(self.changed)} replaced, {len(self.left)} left"

    def __str__(self) -> str:
        rows = [(entry.name or "(itself)", entry.was, entry.became or "left", entry.why) for entry in self]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([*lines, self.summary()])


def fuse(module: M, *, impl: str = "auto", report: FuseReport | None = None) -> M:
    """Replace, in place, stock layers by fused ones, and Sequentials by ones that compute neighbours together.

    nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d and nn.ConvTranspose3d become fastvgan.layers' classes of the same names;
    nn.BatchNorm2d, BatchNorm3d, GroupNorm, InstanceNorm2d and InstanceNorm3d become the corresponding ...NormAct layers
    without an activation. A Sequential becomes a FusedSequential if it contains a norm followed by an activation (ReLU,
    LeakyReLU, Tanh, SiLU or exact GELU), or a convolution followed by a batch norm or by one of the first three
    activations; it computes them together where that is faster. It inspects its modules at each call, so they may be
    removed, replaced, converted and hooked afterwards. Every module remains the same object under the same name, with
    its parameters, buffers, hooks, state_dict and mode, and computes the same results.

    No code of the modules runs, so fuse does not know what a custom forward calls: the layers in such a module are
    replaced and computed one by one, and the report says so. Call fuse before torch.compile.

    Args:
        module: any module. A layer is replaced if its class is exactly one of those above, or a subclass that changes
            nothing about calls, for instance one that only defines __init__; a Sequential if it has nn.Sequential's
            forward. An instance of a subclass gets a class of the same name that inherits from that subclass and from
            the fused layer. Without a GPU, "auto" replaces no convolution that stock PyTorch always computes as fast.
        impl: the implementation of the replaced layers. Unless it is "auto", layers of fastvgan's get it, too.
        report: filled with the modules that were replaced, and with those that were not and the reasons. Earlier
            entries are dropped.

    Returns:
        The same module.

    Raises:
        TypeError: `module` is not a torch.nn.Module.
        ValueError: `impl` is unknown, or the module is compiled already.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    choice.check_name(impl)
    if _torch.is_compiled(module):
        raise ValueError("the module is compiled already: call fuse before torch.compile")
    report = FuseReport() if report is None else report
    report.entries = _Replacement(module, impl).entries()
    _logger.info("fuse: %s", report.summary())
    return module


class _Replacement:
    """Replaces the layers and Sequentials of a module, and reports on each of its modules."""

    def __init__(self, root: nn.Module, impl: str):
        self.names = {module: name for name, module in root.named_modules()}
        self.classes = {module: type(module) for module in self.names}
        # Scripted and compiled modules, and all modules in them → the reason why they cannot change.
        self.closed: dict[nn.Module, str] = {}
        self.tops: set[nn.Module] = set()  # the outermost of them
        for module in self.names:
            self._close(module)
        # All reasons are found before any module changes.
        self.refusals = {module: self.closed.get(module) or _refusal(module, impl) for module in self.names}
        for module in self.names:
            if isinstance(module, _CONV_NORM_ACTS) and _is_stock_batch_norm(module.norm):
                # A block applies its activation after any norm but fastvgan's, which have their own.
                self.refusals[module.norm] = self.refusals[module.norm] or _ACTIVATED.format(type(module).__name__)
        for module in self._replaceable():
            _replace(module, impl)
        for module in self._replaceable():
            if is_sequential(type(module)) and _has_neighbours(module):
                _set_class(module, derive_sequential_class(type(module)))

    def _close(self, module: nn.Module) -> None:
        reason = None
        if isinstance(module, torch.jit.ScriptModule):
            reason = "is a ScriptModule, whose code is fixed"
        elif _torch.is_compiled(module):
            reason = "is compiled already: call fuse before torch.compile"
        if reason is not None and module not in self.closed:
            self.tops.add(module)
            self.closed.update((inner, reason) for inner in module.modules())

    def _replaceable(self) -> list[nn.Module]:
        return [module for module, reason in self.refusals.items() if reason is None]

    def entries(self) -> list[FuseEntry]:
        """Return the entries of the report, in the order of named_modules."""
        return [entry for module in self.names if (entry := self._entry(module)) is not None]

    def _entry(self, module: nn.Module) -> FuseEntry | None:
        """The report's entry for a module, or None for a module that a user would not expect in it."""
        name, was = self.names[module], self.classes[module]
        if type(module) is not was:
            kind, stock = kind_of(module), _stock_of(was)
            became = "FusedSequential" if isinstance(module, FusedSequential) else kind.__name__
            if stock is not None and stock.__name__ == became:
                became = f"fastvgan {became}"
            return FuseEntry(name, was.__name__, became, self._neighbours(module))
        if module in self.closed:
            return FuseEntry(name, was.__name__, None, self.closed[module]) if module in self.tops else None
        why = self._why_left(module)
        return None if why is None else FuseEntry(name, was.__name__, None, why)

    def _why_left(self, module: nn.Module) -> str | None:
        if isinstance(module, tuple(_OURS)):
            return self.refusals[module]
        if isinstance(module, LazyModuleMixin) and module.cls_to_become in _OURS:
            return _UNINITIALISED
        if isinstance(module, _SIMILAR):
            return f"no fused layer exists for {type(module).__name__}"
        if is_sequential(type(module)):
            return self.refusals[module] if _has_neighbours(module) else None
        if any(kind_of(child) in NORMS for child in _direct_children(module)) and not isinstance(
            module, _CONV_NORM_ACTS
        ):
            return "has a custom forward, which fuse does not analyse: the layers that it calls are computed one by one"
        return None

    def _neighbours(self, module: nn.Module) -> str:
        """The names of the modules that a FusedSequential computes together."""
        if not isinstance(module, FusedSequential):
            return ""
        inside = {inner: name for name, inner in module.named_modules()}
        members = [group.modules for group in groups(module)]
        return "together: " + ", ".join("+".join(inside[one] for one in row) for row in members if len(row) > 1)


def _is_stock_batch_norm(module: object) -> bool:
    return isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)) and not isinstance(module, TraceableLayer)


def _stock_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The replaceable torch.nn class that `kind` is or derives from."""
    return next((base for base in kind.__mro__ if base in _OURS), None)


def _replace(module: nn.Module, impl: str) -> None:
    """Turn a stock layer into fastvgan's, and give a layer of fastvgan's the implementation if it is named."""
    kind = type(module)
    stock = _stock_of(kind)
    layer = cast(Any, module)  # in the end of a class in _OURS, all of which have these attributes
    if isinstance(module, TraceableLayer):
        if impl != "auto" and hasattr(module, "impl"):
            layer.impl = impl
        return
    if stock is None:
        return
    ours = _OURS[stock]
    _set_class(module, ours if kind is stock else derive_layer_class(kind, ours))
    layer.impl = impl
    if ours in NORMS:
        layer.activation, layer.negative_slope = "none", 0.01


def _set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    object.__setattr__(module, "__class__", kind)  # runs no __setattr__ of the user's class


def _has_neighbours(container: nn.Module) -> bool:
    """Whether a Sequential has neighbouring modules that would be computed together if they had no hooks."""
    return any(itertools.starmap(_are_neighbours, itertools.pairwise(_flatten(container))))


def _are_neighbours(first: nn.Module, second: nn.Module) -> bool:
    kind = kind_of(first)
    if is_activation(second):
        return kind in NORMS or (CONVOLUTIONS.get(kind, False) and ACTIVATIONS[type(second)].follows_convolutions)
    return kind in NORMS.get(kind_of(second), ())


def _flatten(container: nn.Module) -> Iterator[nn.Module]:
    for module in cast(nn.Sequential, container):  # is_sequential
        if is_sequential(type(module)):
            yield from _flatten(module)
        else:
            yield module


def _direct_children(module: nn.Module) -> Iterator[nn.Module]:
    """The children of a module that has a forward, including those in its ModuleLists and other pure containers."""
    if _has_forward(module):
        for child in module.children():
            yield child
            yield from () if _has_forward(child) else child.children()


def _has_forward(module: nn.Module) -> bool:
    # A ScriptModule has a forward that its class does not show.
    return isinstance(module, torch.jit.ScriptModule) or type(module).forward is not nn.Module.forward


def _refusal(module: nn.Module, impl: str) -> str | None:
    """The reason why a layer or a Sequential must not be replaced."""
    if "forward" in vars(module):
        return "has a forward that was replaced on the instance"
    if vars(module).get("qconfig") is not None:
        return "is prepared for quantisation, which depends on its class"
    if is_sequential(type(module)) and has_subclass_hook(type(module)):
        return f"is a {type(module).__name__}, a class that runs code when it is subclassed"
    kind = type(module)
    stock = _stock_of(kind)
    if stock is None or kind_of(module) is _OURS[stock]:
        return None
    refusal = (None if kind is stock else _subclass_refusal(module, stock)) or _layer_refusal(module, stock)
    if refusal is None and impl == "auto" and not torch.cuda.is_available():
        return _no_gain(module, stock)
    return refusal


def _no_gain(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """The reason why stock PyTorch computes this layer as fast on a CPU for any input, if it does.

    fastvgan's layer would cost about 2 µs more per call, 5 µs under autocast: X3D, with two thirds of its convolutions
    of this kind, took 1.1 times as long. kernels/conv/stock/on_cpu.py has the times. Stock PyTorch's wrong results
    (kernels/conv/stock/faults.py) need a stride, or padding as wide as the kernel.
    """
    conv = cast(Any, module)  # of the class `stock`
    if stock not in (nn.Conv2d, nn.Conv3d) or isinstance(conv.padding, str):
        return None
    dims, sizes = 2 if stock is nn.Conv2d else 3, (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    kernel, stride, padding, dilation = (per_dimension(value, dims) for value in sizes)
    if max(stride) > 1 or any(map(operator.ge, padding, kernel)):
        return None
    if max(kernel) == 1:
        return "stock PyTorch is as fast on a CPU for kernel size 1 without a stride"
    if stock is nn.Conv2d and max(dilation) == 1:
        return "stock PyTorch is as fast on a CPU for 2D convolutions without a stride"
    return None


def _layer_refusal(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """The reason why this instance of a torch.nn class, in its present state, must not be replaced."""
    replaced = [name for name in _USED_IN_CALLS if name in vars(module)]
    if replaced:
        return f"has a {replaced[0]} that was replaced on the instance"
    tensors = *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
    own = {*vars(module), *(name for name, _ in tensors), *_torch.child_names(module)}
    added = set(dir(_OURS[stock])) - set(dir(stock))
    taken = sorted(name for name in added if name in own or hasattr(type(module), name))
    if taken:
        return f"has an attribute named {taken[0]}, a name that the fused layer uses"
    for name, tensor in tensors:
        if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            return f"has a {name} that is a {type(tensor).__name__}, not a plain tensor"
        if not tensor.is_floating_point() and name != "num_batches_tracked":
            return f"has a {name} of {tensor.dtype}"
    return None


def _subclass_refusal(module: nn.Module, stock: type[nn.Module]) -> str | None:
    """The reason why an instance of a subclass must not be replaced; None if the subclass does not change calls."""
    kind = type(module)
    if isinstance(module, LazyModuleMixin):
        return _UNINITIALISED
    if parametrize.is_parametrized(module):
        names = ", ".join(cast(nn.ModuleDict, module.parametrizations))
        return f"is parametrised ({names}), which depends on its class"
    if issubclass(kind, _OURS[stock]):
        return f"is a subclass of a fastvgan layer, {kind.__name__}, which may compute something else"
    if has_subclass_hook(kind):
        return f"is a subclass of a torch.nn layer, {kind.__name__}, that runs code when it is subclassed"
    for base in kind.__mro__:
        own = next((name for name in vars(base) if _may_affect_calls(name, module, stock)), None)
        if base not in stock.__mro__ and own is not None:
            return f"is a subclass of a torch.nn layer, {kind.__name__}, that defines {own}, which may change a call"
    return None


def _may_affect_calls(name: str, module: nn.Module, stock: type[nn.Module]) -> bool:
    """Whether a call could use the attribute of this name that a subclass defines."""
    if name in _UNUSED_IN_CALLS or name in _SETTINGS:  # _layer_refusal reports the latter
        return False
    annotated = (inspect.get_annotations(base) for base in stock.__mro__)
    tensors = *_torch.tensor_names(module), "qconfig"
    is_special = name.startswith("__") and name.endswith("__")
    return is_special or hasattr(_OURS[stock], name) or name in tensors or any(name in names for names in annotated)
