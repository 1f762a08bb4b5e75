"""Registration of operations with torch: schema, kernel, fake kernel, autograd, autocast and vmap.

torch.library.custom_op does the same in one decorator, but it checks and wraps every call, which costs more.
"""

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from . import _torch

_wants_stock: ContextVar[bool] = ContextVar("fastvgan_wants_stock", default=False)

# build_tools/hub.py gives copies another one, since torch allows one definition of a name per process.
NAMESPACE = "fastvgan"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# Looked up once: these checks are most of a call's cost.
_is_compiling, _is_grad_enabled, _tracing_state = (
    torch.compiler.is_compiling,
    torch.is_grad_enabled,
    _torch.tracing_state,
)
_count_modes, _are_transforms_active = _torch.count_dispatch_modes, _torch.are_transforms_active
_forward_level, _any_requires_grad = _torch.forward_level, _torch.any_requires_grad
_is_legacy_vmap_active = _torch.is_legacy_vmap_active


class Operation:
    """A registered operation, for its public function, other operations and backward to call.

    A call bypasses torch's dispatcher where that has nothing to do: two passes through it and back into Python cost
    more than the rest of a call.
    """

    def __init__(self, name: str, overload: Any, kernel: Callable):
        self.name = name
        self.overload = overload  # of torch.ops
        self.kernel = kernel
        self.with_gradient: Callable = kernel  # set by `differentiable`
        self.stock: Callable | None = None
        self.cast: Callable | None = None  # set by `autocasts`

    def __call__(self, *args: Any) -> Any:
        if not _is_untransformed(args):
            if self.stock is not None and wants_stock():
                return self.stock(*args)
            return self.overload(*args)
        if self.cast is not None and _torch.is_any_autocast_enabled():
            device = args[0].device.type
            if torch.is_autocast_enabled(device):
                args = self.cast(device, args)
                with _torch.without_autocast_of[device]():
                    return self._run(*args)
        return self._run(*args)

    def _run(self, *args: Any) -> Any:
        if _any_requires_grad(*args) and _is_grad_enabled():
            return self.with_gradient(*args)
        return self.kernel(*args)


def is_plain(args: tuple) -> bool:
    """Whether all tensors, of any shape, are plain and on a real device, without tracing, transform or autocast."""
    return _is_untransformed(args) and not _torch.is_any_autocast_enabled()


def _is_untransformed(args: tuple) -> bool:
    """is_plain, but regardless of autocast."""
    if (
        _is_compiling()
        or _count_modes()
        or _are_transforms_active()
        or _is_legacy_vmap_active()
        or _forward_level() >= 0
        or _tracing_state() is not None
    ):
        return False
    for arg in args:
        kind = type(arg)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if not (arg.is_cpu or arg.is_cuda) or arg.is_neg():
                return False
        elif isinstance(arg, torch.Tensor):
            return False
    return True


def is_transformed() -> bool:
    """Whether torch.compile, torch.func or forward-mode differentiation is active; they need functional operations."""
    return _is_compiling() or _are_transforms_active() or _forward_level() >= 0


def is_functionalized() -> bool:
    """Whether torch.func.functionalize is active, which lets only stock PyTorch's operations update real tensors."""
    return not _is_compiling() and _torch.is_functionalize_innermost()


def wants_stock() -> bool:
    """Whether a graph is recorded that should hold stock PyTorch's operations only.

    torch.jit.trace, ONNX export and `stock_operations` want that.
    """
    if _tracing_state() is not None:
        return True
    # torch.compile cannot trace the second condition. Without it, a first call would import torch.onnx: 0.2 s.
    if (_is_compiling() or "torch.onnx" in sys.modules) and torch.onnx.is_in_onnx_export():
        return True
    # Dynamo cannot trace a context variable.
    return not torch.compiler.is_dynamo_compiling() and _wants_stock.get()


@contextlib.contextmanager
def stock_operations() -> Generator[None]:
    """Let torch.export (strict=False) record stock PyTorch's operations only, so that its programs run without us."""
    before = _wants_stock.set(True)
    try:
        yield
    finally:
        _wants_stock.reset(before)


def define(schema: str, kernel: Callable, fake: Callable) -> Operation:
    """Register `fastvgan::<schema>` with its kernel for every device, its fake kernel and a vmap rule.

    Args:
        schema: the operation's schema, without defaults (the dispatcher would strip arguments equal to them).
        kernel: computes the operation on real tensors, below autograd; it picks the implementation.
        fake: returns empty tensors of the kernel's shapes, dtypes and strides.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default
    torch.library.register_vmap(f"{NAMESPACE}::{name}", _map_one_by_one(overload), lib=LIBRARY)
    return Operation(name, overload, kernel)


def differentiable(
    op: Operation,
    save: Callable,
    backward: Callable,
    forward: Operation | None = None,
    stock: Callable | None = None,
) -> None:
    """Register the gradient of `op`.

    Args:
        op: the operation, as `define` returned it.
        save: `save(ctx, args, outputs)` saves the tensors that backward needs. It may return the outputs for the
            caller, if the forward operation returns more than `op` does.
        backward: `backward(ctx, *grads)` returns one gradient or None for each argument. A gradient in `grads` is
            None if that output was not used.
        forward: the operation to run instead of `op` where a gradient is wanted; None for `op`.
        stock: computes `op` by stock PyTorch's operations, with op's arguments. It replaces `op` under forward-mode
            differentiation, for which stock operations have rules, and in graphs recorded for other programs. With
            None, forward mode raises an error.
    """
    forward = forward or op
    op.stock = stock

    def run_forward(ctx: Any, *args: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.count = len(args)
        with _torch.below_autograd():
            if _are_transforms_active():
                # A Function disables gradients, but the transforms around this one still need theirs.
                with torch.enable_grad():
                    outputs = forward(*args)
            else:
                outputs = forward(*args)
        seen = save(ctx, args, outputs)
        return outputs if seen is None else seen

    def run_backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        if not any(grad is not None for grad in grads):
            return (None,) * ctx.count
        # Like torch's operations, backward computes in the dtypes of forward, whatever context calls it.
        with _torch.without_autocast():
            return backward(ctx, *grads)

    # The kernel below runs once for each level of torch.func's transforms, where autograd.Function raises an error,
    # because it handles all levels at once.
    function: Any = type(
        f"{op.name}_autograd",
        (_torch.Function,),
        {"forward": staticmethod(run_forward), "backward": staticmethod(run_backward)},
    )

    def one_level(*args: Any) -> Any:
        if not _torch.HAS_SINGLE_LEVEL and stock is not None and _are_transforms_active():
            return stock(*args)
        with _torch.allow_single_level():
            return function.apply(*args)

    op.with_gradient = function.apply
    _register_autograd(op, one_level, stock or one_level)


def differentiable_by(op: Operation, composite: Callable) -> None:
    """Register `composite`, which computes `op` by differentiable operations, to replace it where gradients are wanted.

    Backward operations have derivatives of every order by it: their gradients are wanted only under create_graph=True,
    which asks for a graph of plain operations anyway.

    Args:
        op: the operation, as `define` returned it.
        composite: takes op's arguments and returns its outputs.
    """
    op.with_gradient = op.stock = composite
    _register_autograd(op, composite, composite)


def _register_autograd(op: Operation, with_gradient: Callable, with_tangents: Callable) -> None:
    overload = op.overload

    def kernel(keyset: Any, *args: Any) -> Any:
        # Below autograd, tangents would be lost. A custom autograd.Function without a rule for them raises an error.
        if _is_forward_mode():
            return with_tangents(*args)
        if _any_requires_grad(*args) and _is_grad_enabled():
            return with_gradient(*args)
        with _torch.below_autograd():
            return overload.redispatch(_torch.keys_below_autograd(keyset), *args)

    LIBRARY.impl(op.name, kernel, "Autograd", with_keyset=True)


def _is_forward_mode() -> bool:
    if _forward_level() >= 0:
        return True
    # A graph that torch.compile made of torch.func.jvp enters the transform without forward_ad knowing.
    return _torch.is_jvp_innermost()


def autocasts(op: Operation, positions: tuple[int, ...], float32_stays: tuple[int, ...] = ()) -> None:
    """Register casts under autocast, which float64 tensors are exempt from.

    Args:
        op: the operation, as `define` returned it.
        positions: of the arguments to cast to the autocast dtype.
        float32_stays: of the arguments whose float32 tensors the operation converts itself: a weight, so that backward
            needs no copy of it and its gradient is not rounded.
    """

    def cast(device: str, args: Sequence[Any]) -> list[Any]:
        dtype = torch.get_autocast_dtype(device)
        args = list(args)
        for i in positions:
            stays = (torch.float64, torch.float32) if i in float32_stays else (torch.float64,)
            if args[i] is not None and args[i].dtype not in stays:
                args[i] = args[i].to(dtype)
        return args

    op.cast = cast
    for device in ("cpu", "cuda"):
        LIBRARY.impl(op.name, _autocast_kernel(op.overload, device, cast), f"Autocast{device.upper()}")


def _autocast_kernel(op: Any, device: str, cast: Callable) -> Callable:
    without_autocast = _torch.without_autocast_of[device]

    def kernel(*args: Any) -> Any:
        args = cast(device, args)
        with without_autocast():
            return op(*args)

    return kernel


def _map_one_by_one(op: Any) -> Callable:
    """Return vmap's rule: one call per example, results stacked; right for every operation, as fast as the calls.

    Without examples, one call for zeros gives the shapes; the zeros are sums over no examples, which autograd follows.
    """

    def one(arg: torch.Tensor, dim: int, i: int) -> torch.Tensor:
        return arg.select(dim, i) if arg.shape[dim] else arg.sum(dim, dtype=arg.dtype)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        count, calls = info.batch_size, []
        for i in range(max(count, 1)):
            example = (
                one(arg, dim, i) if isinstance(arg, torch.Tensor) and dim is not None else arg
                for arg, dim in zip(args, in_dims, strict=True)
            )
            calls.append(op(*example))
        if isinstance(calls[0], torch.Tensor):
            return torch.stack(calls)[:count], 0
        return tuple(torch.stack(outputs)[:count] for outputs in zip(*calls, strict=True)), (0,) * len(calls[0])

    return rule
