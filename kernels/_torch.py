"""The private names of torch that fastvgan uses, each with a public fallback for versions of torch without it.

`_take` looks a name up without failing. A fallback is slower or skips a shortcut, and computes the same results: a test
whether a shortcut may be taken answers no. Names are bound once, at import, so that a call costs as much as calling
torch's name.

Some private names of torch.nn's classes stay in the layers that derive from them:

- `_parameters` and `_buffers` in fastvgan/layers (convolutions.py, modules.py, tracing.py): read from a layer's
  __dict__, in a tenth of the time of its attributes. Without them, nothing is recalled and the attributes are read.
- `_call_impl` in fastvgan/layers/tracing.py: overridden, because torch.fx has no other way to make a module outside
  torch.nn a leaf. Without it, torch.fx traces stock PyTorch's operations.
- `_check_input_dim` and `_output_padding` in fastvgan/layers/modules.py and convolutions.py,
  `_reversed_padding_repeated_twice` in convolutions.py: inherited from torch.nn's classes.
- Names of methods in fastvgan/layers/fusion.py, as strings: compared with the methods that a subclass overrides, never
  called.
"""

import importlib
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache, partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

# The names looked up, as (owner, name). An owner is a module, a class in one, or "torch.nn.Module()" for an instance.
SYMBOLS: list[tuple[str, str]] = []
_MODULE = "torch.nn.Module()"
_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def _take(owner: str, name: str) -> Any:
    """Return the private name of torch, or None if this version has none."""
    SYMBOLS.append((owner, name))
    try:
        return attrgetter(name)(nn.Module() if owner == _MODULE else importlib.import_module(owner))
    except (ImportError, AttributeError):
        return None


def _has(owner: str, name: str) -> bool:
    """Whether torch has the name; its value may be None."""
    SYMBOLS.append((owner, name))
    try:
        attrgetter(name)(nn.Module() if owner == _MODULE else importlib.import_module(owner))
    except (ImportError, AttributeError):
        return False
    return True


# Modes, transforms and tracers. Without these no call bypasses the dispatcher, and modules are called one by one.

# Number of active modes of torch.utils._python_dispatch. Fallback: 1, as no public function tells.
count_dispatch_modes: Callable[[], int] = _take("torch._C", "_len_torch_dispatch_stack") or (lambda: 1)

# Whether a transform of torch.func is active. Fallback: True, as no public function tells.
are_transforms_active: Callable[[], bool] = _take("torch._C", "_are_functorch_transforms_active") or (lambda: True)

_is_key_included = _take("torch._C", "_dispatch_tls_is_dispatch_key_included")
_parse_key = _take("torch._C", "_dispatch_key_parse")


def _legacy_vmap_check() -> Callable[[], bool]:
    if None not in (_is_key_included, _parse_key):
        with suppress(RuntimeError):  # no such key
            return partial(_is_key_included, _parse_key("VmapMode"))
    return lambda: True


# Whether torch's older vmap is active, by which autograd computes batched gradients. Its tensors look like plain ones,
# and are_transforms_active does not tell of it. Fallback: True, as no public function tells.
is_legacy_vmap_active: Callable[[], bool] = _legacy_vmap_check()

# The state of torch.jit.trace, or of an export by it, while it records, else None; torch.compile knows that it is None.
tracing_state: Callable[[], Any] = _take("torch._C", "_get_tracing_state") or (lambda: torch.jit.is_tracing() or None)


def _forward_level() -> int:
    try:
        level = forward_ad.enter_dual_level()
    except RuntimeError:  # levels do not nest
        return 0
    forward_ad.exit_dual_level(level=level)
    return level - 1


# The level of forward-mode differentiation, -1 outside of it. Fallback: enter another level to see it.
forward_level: Callable[[], int] = (
    partial(vars(forward_ad).__getitem__, "_current_level")
    if _has("torch.autograd.forward_ad", "_current_level")
    else _forward_level
)

_peek = _take("torch._C._functorch", "peek_interpreter_stack")
_kinds = _take("torch._C._functorch", "TransformType")


def _is_innermost(kind: Any) -> bool:
    if not are_transforms_active():
        return False
    top = _peek()
    return top is not None and top.key() == kind


_KNOWS_KINDS = None not in (_peek, _kinds)
# Whether the innermost transform of torch.func is jvp. Fallback: True for any transform, which then uses the rules for
# tangents; they compute gradients too.
is_jvp_innermost: Callable[[], bool] = partial(_is_innermost, _kinds.Jvp) if _KNOWS_KINDS else are_transforms_active
# Whether the innermost transform of torch.func is functionalize. Fallback: False, and torch refuses to update the
# running statistics of a norm under it.
is_functionalize_innermost: Callable[[], bool] = (
    partial(_is_innermost, _kinds.Functionalize) if _KNOWS_KINDS else lambda: False
)

_function_modes = _take("torch.overrides", "_get_current_function_mode_stack")
_device_mode = _take("torch.utils._device", "DeviceContext")


def _count_function_modes() -> int:
    return 1 if _function_modes is None else len(_function_modes())


# Number of active modes of torch.overrides. Fallback: the length of their list, or 1.
count_function_modes: Callable[[], int] = _take("torch._C", "_len_torch_function_stack") or _count_function_modes


def are_only_device_modes() -> bool:
    """Whether all active modes are torch.device as a context or default. Fallback: whether no mode is active."""
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
# A context in which the dispatcher skips autograd. Fallback: no context; it is only used where no gradient is recorded,
# so autograd runs in vain.
below_autograd: Callable[[], Any] = _below_autograd or nullcontext

_keys_after_autograd = _take("torch._C", "_after_autograd_keyset")


def _without_highest(keyset: Any) -> Any:
    return keyset.remove(keyset.highestPriorityTypeId())


# The dispatch keys after autograd's, of the keys passed to an autograd kernel. Fallback: all but the kernel's key.
keys_below_autograd: Callable[[Any], Any] = (
    _without_highest if _keys_after_autograd is None else _keys_after_autograd.__and__
)

_single_level_function = _take("torch.autograd.function", "_SingleLevelFunction")
_allow_single_level = _take("torch._functorch.utils", "enable_single_level_autograd_function")
# Whether a Function can be called for one level of torch.func's transforms. Fallback: stock PyTorch's operations under
# transforms, and torch's error for an operation without a stock form.
HAS_SINGLE_LEVEL = None not in (_below_autograd, _single_level_function, _allow_single_level)
# torch.autograd.Function, or its base class, and the context that allows calling it for one level.
Function: Any = _single_level_function if HAS_SINGLE_LEVEL else torch.autograd.Function
allow_single_level: Callable[[], Any] = _allow_single_level if HAS_SINGLE_LEVEL else nullcontext


def _is_any_autocast_enabled() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


# Whether autocast is on for any device.
is_any_autocast_enabled: Callable[[], bool] = _take("torch._C", "_is_any_autocast_enabled") or _is_any_autocast_enabled


@contextmanager
def _without_autocast(*devices: str) -> Generator[None, None, None]:
    with ExitStack() as stack:
        for device in devices:
            if torch.is_autocast_enabled(device):  # torch.autocast warns if the device is missing
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


_exclude = _take("torch._C", "_ExcludeDispatchKeyGuard")
_keyset = _take("torch._C", "DispatchKeySet")
_keys = {device: _take("torch._C", f"DispatchKey.{key}") for device, key in _AUTOCAST_KEYS.items()}
if None in (_exclude, _keyset, *_keys.values()):
    _contexts: dict[str, Callable[[], Any]] = {device: partial(_without_autocast, device) for device in _keys}
    _context = partial(_without_autocast, *_keys)
else:
    _keysets = {device: _keyset(key) for device, key in _keys.items()}
    _contexts = {device: partial(_exclude, keyset) for device, keyset in _keysets.items()}
    _context = partial(_exclude, _keysets["cpu"] | _keysets["cuda"])
# Contexts that disable autocast, by device type and for both. Fallback: torch.autocast(enabled=False).
without_autocast_of: dict[str, Callable[[], Any]] = _contexts
without_autocast: Callable[[], Any] = _context


# Tensors.

# torch.compile's guards on tensors. Fallback: None, and no decision is recalled.
TensorGuards: Callable | None = _take("torch._C._dynamo.guards", "TensorGuards")

_version = _take("torch", "Tensor._version")
# How often a tensor was changed in place. Fallback: a new object, unequal to others, so the tensor counts as changed.
version_of: Callable[[torch.Tensor], Any] = (lambda tensor: object()) if _version is None else _version.__get__

# torch.backends.cudnn.enabled, in a tenth of the time.
is_cudnn_enabled: Callable[[], bool] = _take("torch._C", "_get_cudnn_enabled") or (lambda: torch.backends.cudnn.enabled)


def _each(function: Callable) -> Callable:
    """Return a function of lists that calls `function` for each tensor with its partners in the other lists."""

    def map_lists(tensors: Sequence[torch.Tensor], *others: Any) -> list[torch.Tensor]:
        columns = (other if isinstance(other, list | tuple) else [other] * len(tensors) for other in others)
        return [function(*row) for row in zip(tensors, *columns, strict=True)]

    return map_lists


# Functions of lists of tensors, each in a few launches. Fallback: the function of one tensor, called one by one.
foreach_add_: Callable = _take("torch", "_foreach_add_") or _each(torch.Tensor.add_)
foreach_copy_: Callable = _take("torch", "_foreach_copy_") or _each(torch.Tensor.copy_)
foreach_lerp_: Callable = _take("torch", "_foreach_lerp_") or _each(torch.Tensor.lerp_)
foreach_mul_: Callable = _take("torch", "_foreach_mul_") or _each(torch.Tensor.mul_)
foreach_norm: Callable = _take("torch", "_foreach_norm") or _each(torch.linalg.vector_norm)
foreach_sub: Callable = _take("torch", "_foreach_sub") or _each(torch.sub)


@_each
def _adam_(
    parameter: torch.Tensor,
    grad: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    step: torch.Tensor,
    settings: tuple[torch.Tensor, float, float, float],
    scale: torch.Tensor | None,
    found: torch.Tensor,
) -> None:
    rate, beta1, beta2, eps = settings
    grad = grad if scale is None else grad / scale
    new_mean, new_square = mean.lerp(grad, 1 - beta1), square.lerp(grad * grad, 1 - beta2)
    unbiased = new_mean / (1 - beta1**step), new_square / (1 - beta2**step)
    new = parameter - rate * unbiased[0] / (unbiased[1].sqrt() + eps)
    for old, value in ((parameter, new), (mean, new_mean), (square, new_square)):
        old.copy_(torch.where(found > 0, old, value))


_fused_adam_ = _take("torch", "_fused_adam_")


@torch.no_grad()
def adam_(
    parameters: list[torch.Tensor],
    grads: list[torch.Tensor],
    moments: tuple[list[torch.Tensor], list[torch.Tensor]],
    steps: list[torch.Tensor],
    settings: tuple[torch.Tensor, float, float, float],
    scale: torch.Tensor | None,
    found: torch.Tensor,
) -> None:
    """Take a step of Adam (Kingma and Ba 2015, algorithm 1) unless a flag is set, in a few launches.

    torch.optim.Adam(fused=True) takes two launches more, to count the steps. Fallback: Adam, tensor by tensor.

    Args:
        parameters: of any shapes, changed.
        grads: their gradients.
        moments: running means of the gradients and of their squares, changed.
        steps: () float32 each, the number of this step, from 1.
        settings: the learning rate, () float32, both decay rates, and what is added to the root.
        scale: () that the gradients are divided by first, or None.
        found: () above 0 if nothing must change.
    """
    if _fused_adam_ is None:
        _adam_(parameters, grads, *moments, steps, [settings] * len(steps), scale, found)
        return
    rate, beta1, beta2, eps = settings
    _fused_adam_(
        parameters, grads, *moments, [], steps, lr=rate, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=eps,
        amsgrad=False, maximize=False, grad_scale=scale, found_inf=found,
    )  # fmt: skip


# Modules of torch.nn.

# Whether global module hooks are set. Fallback: True.
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


# Whether calling a module only runs the forward of its class. Fallback: False, and the module is called.
runs_only_forward: Callable[[nn.Module], bool] = (
    _runs_only_forward if _KNOWS_COMPILED and _KNOWS_HOOKS else (lambda module: False)
)


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made the module or its compile() was called. Fallback: the latter is not noticed."""
    # Nothing is compiled before torch._dynamo is imported, and importing it takes seconds.
    if "torch._dynamo" not in sys.modules:
        return False
    return isinstance(module, _get_optimized_class()) or (_KNOWS_COMPILED and module._compiled_call_impl is not None)


@cache
def _get_optimized_class() -> type | tuple:
    """Return the class of modules made by torch.compile. Fallback: make one and take its class."""
    found = _take("torch._dynamo.eval_frame", "OptimizedModule")
    if found is None:
        found = type(torch.compile(nn.Identity(), backend="eager"))
    return () if found is nn.Identity else found  # torch.compile returns its argument if it is disabled


_KNOWS_TENSORS = all([_has(_MODULE, "_parameters"), _has(_MODULE, "_buffers")])
_KNOWS_CHILDREN = _has(_MODULE, "_modules")


def tensor_names(module: nn.Module) -> list[str]:
    """Return names of the module's direct parameters and buffers. Fallback: without those that are None."""
    if _KNOWS_TENSORS:
        return [*module._parameters, *module._buffers]
    tensors = *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
    return [name for name, _ in tensors]


def child_names(module: nn.Module) -> list[str]:
    """Return names of the module's direct children. Fallback: without children that are None or repeated."""
    return list(module._modules) if _KNOWS_CHILDREN else [name for name, _ in module.named_children()]


# Base classes of torch.nn's layers. Fallback: the public classes, as a tuple for isinstance.
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


def _remember_group(group: Any) -> str:
    _groups[group.group_name] = group
    return group.group_name


def _find_group(name: str) -> Any:
    world = torch.distributed.group.WORLD
    if world is not None and world.group_name == name:
        return world
    if name not in _groups:
        raise ValueError(f"process group {name!r} is unknown: set the layer's process_group again")
    return _groups[name]


# A process group's name, and the group of a name. Fallback: the default group, and groups whose name was read before.
name_of_group: Callable[[Any], str] = attrgetter("group_name") if _resolve_group else _remember_group
group_named: Callable[[str], Any] = _resolve_group or _find_group


def assume_constant(function: Callable) -> Callable:
    """Mark a function as constant, as torch.compiler.assume_constant_result, which imports the compiler in 1.5 s.

    A version of torch.compile that ignores the attribute breaks the graph at a call of the function.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function
