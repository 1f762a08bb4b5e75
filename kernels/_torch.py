"""Every private name of torch that fastvgan uses, each with the public fallback that serves where it is gone.

`_take` looks a name up without failing. A fallback is slower, or leaves a shortcut out, and gives the same results:
what only tells whether a shortcut may be taken answers, where it is gone, that it may not. Names are bound once, at
import, so that a call costs what a call of torch's own name does.

What stays elsewhere, because it belongs to a class of torch.nn that a layer derives from:

- `_parameters` and `_buffers` in fastvgan/layers (convolutions.py, modules.py): read from a layer's __dict__, which
  costs a tenth of what its attributes do. Where they are gone, nothing is recalled and the attributes are used.
- `_call_impl` in fastvgan/layers/tracing.py: overridden, as torch.fx offers no other way to make a module outside
  torch.nn a leaf. Where it is gone, torch.fx traces stock PyTorch's operations instead.
- `_check_input_dim` and `_output_padding` in fastvgan/layers/modules.py and convolutions.py,
  `_reversed_padding_repeated_twice` in convolutions.py: what the layers inherit from torch.nn's.
- The names of methods in fastvgan/layers/fusion.py, as strings: compared with those a subclass overrides, never called.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

# Names taken so far, as (owner, name): an owner is a module, a class in one, or "torch.nn.Module()" for an instance.
SYMBOLS: list[tuple[str, str]] = []
_MODULE = "torch.nn.Module()"
_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def _take(owner: str, name: str) -> Any:
    """The private name of torch, or None where this version has none."""
    SYMBOLS.append((owner, name))
    try:
        return attrgetter(name)(nn.Module() if owner == _MODULE else importlib.import_module(owner))
    except (ImportError, AttributeError):
        return None


def _has(owner: str, name: str) -> bool:
    """Whether there is such a name, whose value may be None."""
    SYMBOLS.append((owner, name))
    try:
        attrgetter(name)(nn.Module() if owner == _MODULE else importlib.import_module(owner))
    except (ImportError, AttributeError):
        return False
    return True


# Modes, transforms and tracers. Without these the dispatcher is never passed over, and modules are called one by one.

# How many modes of torch.utils._python_dispatch are active. Public fallback: none tells, so 1 is assumed.
count_dispatch_modes: Callable[[], int] = _take("torch._C", "_len_torch_dispatch_stack") or (lambda: 1)

# Whether a transform of torch.func is active. Public fallback: none tells, so one is assumed.
are_transforms_active: Callable[[], bool] = _take("torch._C", "_are_functorch_transforms_active") or (lambda: True)

# What torch.jit.trace, or an export by it, keeps while it records, else None: torch.compile knows that it is None.
tracing_state: Callable[[], Any] = _take("torch._C", "_get_tracing_state") or (lambda: torch.jit.is_tracing() or None)


def _forward_level() -> int:
    try:
        level = forward_ad.enter_dual_level()
    except RuntimeError:  # levels do not nest
        return 0
    forward_ad.exit_dual_level(level=level)
    return level - 1


# The level of forward-mode differentiation, -1 outside of it. Fallback: entering another level shows it.
forward_level: Callable[[], int] = (
    partial(vars(forward_ad).__getitem__, "_current_level")
    if _has("torch.autograd.forward_ad", "_current_level")
    else _forward_level
)

_peek = _take("torch._C._functorch", "peek_interpreter_stack")
_kinds = _take("torch._C._functorch", "TransformType")


def _is_jvp_innermost() -> bool:
    if not are_transforms_active():
        return False
    top = _peek()
    return top is not None and top.key() == _kinds.Jvp


# Whether the innermost transform of torch.func is jvp. Fallback: any may be, and gets rules for tangents, which serve
# for gradients too.
is_jvp_innermost: Callable[[], bool] = are_transforms_active if None in (_peek, _kinds) else _is_jvp_innermost

_function_modes = _take("torch.overrides", "_get_current_function_mode_stack")
_device_mode = _take("torch.utils._device", "DeviceContext")


def _count_function_modes() -> int:
    return 1 if _function_modes is None else len(_function_modes())


# How many modes of torch.overrides are active. Fallback: the length of their list, or 1.
count_function_modes: Callable[[], int] = _take("torch._C", "_len_torch_function_stack") or _count_function_modes


def are_only_device_modes() -> bool:
    """Whether no other mode is active than torch.device as a context or default. Fallback: not if there is any."""
    if _function_modes is None:
        return False
    return all(_device_mode is not None and isinstance(mode, _device_mode) for mode in _function_modes())


# Autograd and autocast.


def _any_requires_grad(*args: Any) -> bool:
    return any(
        _any_requires_grad(*arg)
        if isinstance(arg, list | tuple)
        else isinstance(arg, torch.Tensor) and arg.requires_grad
        for arg in args
    )


# Whether a tensor among the arguments requires a gradient.
any_requires_grad: Callable[..., bool] = _take("torch._C", "_any_requires_grad") or _any_requires_grad

_below_autograd = _take("torch._C", "_AutoDispatchBelowAutograd")
# A context in which the dispatcher passes autograd over. Fallback: none is needed where no gradient is recorded, which
# is where it is used; autograd is then gone through in vain.
below_autograd: Callable[[], Any] = _below_autograd or nullcontext

_keys_after_autograd = _take("torch._C", "_after_autograd_keyset")


def _without_highest(keyset: Any) -> Any:
    return keyset.remove(keyset.highestPriorityTypeId())


# The dispatch keys that follow autograd's, of those that a kernel of autograd got. Fallback: all but the kernel's own.
keys_below_autograd: Callable[[Any], Any] = (
    _without_highest if _keys_after_autograd is None else _keys_after_autograd.__and__
)

_single_level_function = _take("torch.autograd.function", "_SingleLevelFunction")
_allow_single_level = _take("torch._functorch.utils", "enable_single_level_autograd_function")
# Whether a Function can be called for one level of torch.func's transforms. Fallback: stock PyTorch's operations under
# transforms, and torch's error where an operation has no such form.
HAS_SINGLE_LEVEL = None not in (_below_autograd, _single_level_function, _allow_single_level)
# torch.autograd.Function, or what it derives from, and the context that lets it be called so.
Function: type = _single_level_function if HAS_SINGLE_LEVEL else torch.autograd.Function
allow_single_level: Callable[[], Any] = _allow_single_level if HAS_SINGLE_LEVEL else nullcontext


def _is_any_autocast_enabled() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


# Whether autocast is on for any device.
is_any_autocast_enabled: Callable[[], bool] = _take("torch._C", "_is_any_autocast_enabled") or _is_any_autocast_enabled


@contextmanager
def _without_autocast(*devices: str) -> Iterator[None]:
    with ExitStack() as stack:
        for device in devices:
            if torch.is_autocast_enabled(device):  # for a device that is not there torch.autocast would warn
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


_exclude = _take("torch._C", "_ExcludeDispatchKeyGuard")
_keyset = _take("torch._C", "DispatchKeySet")
_keys = {device: _take("torch._C", f"DispatchKey.{key}") for device, key in _AUTOCAST_KEYS.items()}
if None in (_exclude, _keyset, *_keys.values()):
    _contexts = {device: partial(_without_autocast, device) for device in _keys}
    _context = partial(_without_autocast, *_keys)
else:
    _keysets = {device: _keyset(key) for device, key in _keys.items()}
    _contexts = {device: partial(_exclude, keyset) for device, keyset in _keysets.items()}
    _context = partial(_exclude, _keysets["cpu"] | _keysets["cuda"])
# Contexts in which autocast is passed over, by device type, and for both. Fallback: torch.autocast(enabled=False).
without_autocast_of: dict[str, Callable[[], Any]] = _contexts
without_autocast: Callable[[], Any] = _context


# Tensors.

# torch.compile's guards on tensors. Fallback: None, and nothing is recalled by them.
TensorGuards: Callable | None = _take("torch._C._dynamo.guards", "TensorGuards")

_version = _take("torch", "Tensor._version")
# How often a tensor was changed in place. Fallback: something equal to nothing, so that it always counts as changed.
version_of: Callable[[torch.Tensor], Any] = (lambda tensor: object()) if _version is None else _version.__get__

# torch.backends.cudnn.enabled, in a tenth of the time.
is_cudnn_enabled: Callable[[], bool] = _take("torch._C", "_get_cudnn_enabled") or (lambda: torch.backends.cudnn.enabled)


def _each(function: Callable) -> Callable:
    """The function of lists that calls this one for each tensor, or each pair or triple of them."""

    def of_lists(tensors: Sequence[torch.Tensor], *others: Any) -> list[torch.Tensor]:
        columns = (other if isinstance(other, list | tuple) else [other] * len(tensors) for other in others)
        return [function(*row) for row in zip(tensors, *columns, strict=True)]

    return of_lists


# A function of lists of tensors each, in a few launches. Fallback: the function of one tensor, one after the other.
foreach_add_: Callable = _take("torch", "_foreach_add_") or _each(torch.Tensor.add_)
foreach_copy_: Callable = _take("torch", "_foreach_copy_") or _each(torch.Tensor.copy_)
foreach_lerp_: Callable = _take("torch", "_foreach_lerp_") or _each(torch.Tensor.lerp_)
foreach_mul_: Callable = _take("torch", "_foreach_mul_") or _each(torch.Tensor.mul_)
foreach_norm: Callable = _take("torch", "_foreach_norm") or _each(torch.linalg.vector_norm)
foreach_sub: Callable = _take("torch", "_foreach_sub") or _each(torch.sub)


# Modules of torch.nn.

# Whether hooks of all modules are set. Fallback: they are taken to be.
_has_global_hooks = _take("torch.nn.modules.module", "_has_any_global_hook") or (lambda: True)
_KNOWS_COMPILED = _has("torch.nn", "Module._compiled_call_impl")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_KNOWS_HOOKS = all([_has(_MODULE, name) for name in _HOOKS])


def _runs_only_forward(module: nn.Module) -> bool:
    own = vars(module)
    return (
        "forward" not in own
        and not (own["_forward_hooks"] or own["_forward_pre_hooks"])
        and not (own["_backward_hooks"] or own["_backward_pre_hooks"])
        and module._compiled_call_impl is None
        and not _has_global_hooks()
    )


# Whether calling a module runs nothing but the forward of its class. Fallback: it may, and the module is called.
runs_only_forward: Callable[[nn.Module], bool] = (
    _runs_only_forward if _KNOWS_COMPILED and _KNOWS_HOOKS else (lambda module: False)
)


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made the module, or its compile() was called. Fallback: the latter goes unnoticed."""
    # Where torch._dynamo has not been imported nothing can be compiled, and importing it takes seconds.
    if "torch._dynamo" not in sys.modules:
        return False
    return isinstance(module, _compiled_class()) or (_KNOWS_COMPILED and module._compiled_call_impl is not None)


@cache
def _compiled_class() -> type | tuple:
    """The class of what torch.compile makes of a module. Fallback: that of one that is made, for nothing."""
    found = _take("torch._dynamo.eval_frame", "OptimizedModule")
    if found is None:
        found = type(torch.compile(nn.Identity(), backend="eager"))
    return () if found is nn.Identity else found  # where torch.compile is switched off it returns what it is given


_KNOWS_TENSORS = all([_has(_MODULE, "_parameters"), _has(_MODULE, "_buffers")])
_KNOWS_CHILDREN = _has(_MODULE, "_modules")


def tensor_names(module: nn.Module) -> list[str]:
    """Names of the module's own parameters and buffers. Fallback: without those that are None."""
    if _KNOWS_TENSORS:
        return [*module._parameters, *module._buffers]
    tensors = *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
    return [name for name, _ in tensors]


def child_names(module: nn.Module) -> list[str]:
    """Names of the module's own children. Fallback: without those that are None or come up twice."""
    return list(module._modules) if _KNOWS_CHILDREN else [name for name, _ in module.named_children()]


# What the layers of torch.nn derive from. Fallback: the public classes, as a tuple for isinstance.
ConvNd: type | tuple = _take("torch.nn.modules.conv", "_ConvNd") or (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
BatchNorm: type | tuple = _take("torch.nn.modules.batchnorm", "_BatchNorm") or (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    nn.SyncBatchNorm,
)
InstanceNorm: type | tuple = _take("torch.nn.modules.instancenorm", "_InstanceNorm") or (
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


# Process groups.

_resolve_group = _take("torch.distributed.distributed_c10d", "_resolve_process_group")
_groups: dict[str, Any] = {}


def _remembered_name(group: Any) -> str:
    _groups[group.group_name] = group
    return group.group_name


def _remembered_group(name: str) -> Any:
    world = torch.distributed.group.WORLD
    if world is not None and world.group_name == name:
        return world
    if name not in _groups:
        raise ValueError(f"no process group named {name!r} is known: give the layer its group again")
    return _groups[name]


# A process group's name, and the group of a name. Fallback: the default group, and those whose name was asked for.
name_of_group: Callable[[Any], str] = attrgetter("group_name") if _resolve_group else _remembered_name
group_named: Callable[[str], Any] = _resolve_group or _remembered_group


def assume_constant(function: Callable) -> Callable:
    """What torch.compiler.assume_constant_result does, which takes 1.5 s to import the compiler first.

    Where torch.compile no longer looks at the attribute, it breaks the graph at a call of the function.
    """
    function._dynamo_marked_constant = True
    return function
