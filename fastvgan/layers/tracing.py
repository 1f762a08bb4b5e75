"""The layers under tracers: one node each for torch.fx, stock PyTorch's operations for torch.jit.trace and ONNX."""

from typing import Any, NoReturn

from torch import Tensor, fx, nn

from fastvgan_kernels import dispatch
from fastvgan_kernels._torch import tracing_state


def wants_stock(input: Any) -> bool:
    """Whether forward must call stock PyTorch's operations, because a tracer records a graph of those alone.

    An input that is not a tensor is a torch.fx proxy or a mistake, for which stock PyTorch raises the usual error.
    """
    if type(input) is Tensor:
        return tracing_state() is not None
    return not isinstance(input, Tensor) or dispatch.wants_stock()


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
