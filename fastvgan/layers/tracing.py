"""The layers under tracers, compilers and modes, and for tensors of other classes.

torch.fx records one node for each; torch.jit.trace, ONNX and torch.compile get stock PyTorch's operations.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from fastvgan_kernels import choice, dispatch
from fastvgan_kernels._torch import are_only_device_modes, count_dispatch_modes, count_function_modes, tracing_state

_PLAIN = Tensor, nn.Parameter
_PLAIN_OR_NONE = nn.Parameter, type(None), Tensor
_is_compiling = torch.compiler.is_dynamo_compiling


def wants_stock(input: Any, layer: Any, may_gain: Callable[[Tensor], bool] | None = None) -> bool:
    """Whether forward must call stock PyTorch's operations.

    A tracer records a graph of those alone; a tensor of another class, a function mode or torch.compile knows them.

    Args:
        input: (N, C, *space), or without N where forward takes that. One that is no tensor is a torch.fx proxy or a
            mistake, for which stock PyTorch raises the usual error.
        layer: with an `impl`.
        may_gain: whether the layer's operation may be faster on such an input in compiled code on a CPU; None if it
            never is. torch.compile joins stock PyTorch's operations with their neighbours, but not ours.
    """
    if _is_compiling():
        if type(input) not in _PLAIN:
            return True
        if layer.impl != "auto" or not input.is_cpu or choice.has_preference():
            return False
        return may_gain is None or not may_gain(input)
    if type(input) not in _PLAIN:
        # Under a dispatch mode, tensors of other classes stand for plain ones: torch.export's, for instance.
        return not isinstance(input, Tensor) or count_dispatch_modes() == 0 or dispatch.wants_stock()
    if tracing_state() is not None or (count_function_modes() and not are_only_device_modes()):
        return True
    return not has_plain_parameters(layer) and count_dispatch_modes() == 0


def has_plain_parameters(layer: nn.Module) -> bool:
    """Whether no parameter of a layer is of a tensor subclass, which may override any operation."""
    for parameter in layer.__dict__.get("_parameters", {}).values():  # parameters() takes as long as a small call
        if type(parameter) not in _PLAIN_OR_NONE:
            return False
    return True


class TraceableLayer(nn.Module):
    """A layer that torch.fx records as one node, as it does torch.nn's layers."""

    # False in classes derived from a user's: torch.fx traces into a subclass of torch.nn's layers.
    _is_leaf_of_fx = True

    # torch.fx recognises a leaf only by a module path in torch.nn. Intercepting _call_impl keeps the module's hooks out
    # of the trace: they run when the graph does, as those of a leaf.
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not (args and type(args[0]) is Tensor) and self._is_leaf_of_fx:
            tracer = _find_tracer(*args, *kwargs.values())
            path = "" if tracer is None else tracer.path_of_module(self)
            if tracer is not None and path:  # the path is empty for the root module, which is traced into
                return tracer.create_proxy("call_module", path, args, kwargs)
        return super()._call_impl(*args, **kwargs)

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile fastvgan.layers.{type(self).__name__}: use torch.jit.trace or "
            "torch.export, or script the network before fuse()"
        )


def _find_tracer(*arguments: Any) -> fx.Tracer | None:
    proxy = next((argument for argument in arguments if isinstance(argument, fx.Proxy)), None)
    return proxy.tracer if proxy is not None and isinstance(proxy.tracer, fx.Tracer) else None
