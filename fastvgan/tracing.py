"""What tracers see of the layers: torch.fx a leaf, torch.jit.trace and ONNX stock PyTorch's operations."""

from typing import Any, NoReturn

from torch import _C, Tensor, fx, nn

from fastvgan_kernels import dispatch


def wants_stock(input: Any) -> bool:
    """Whether forward has to show stock PyTorch's operations: to whoever records a graph of no others.

    What is no tensor is either a stand-in of torch.fx or a mistake, of which stock PyTorch tells the caller.
    """
    if type(input) is Tensor:
        return _C._get_tracing_state() is not None
    return not isinstance(input, Tensor) or dispatch.wants_stock()


class TraceableLayer(nn.Module):
    """A layer that torch.fx takes as one node, as it takes the layers of torch.nn."""

    # torch.fx has no other word for a leaf than a module path in torch.nn. A call is where it can be intercepted before
    # hooks run: as a leaf's, they belong to the run of the graph and not to its making.
    def _call_impl(self, *args, **kwargs):
        if not (args and type(args[0]) is Tensor):
            path = _path_in_trace(self, args, kwargs)
            if path:
                return _first_proxy(args, kwargs).tracer.create_proxy("call_module", path, args, kwargs)
        return super()._call_impl(*args, **kwargs)

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile fastvgan.layers.{type(self).__name__}: use torch.jit.trace or "
            "torch.export, or script the network before fuse()"
        )


def _first_proxy(args: tuple, kwargs: dict) -> fx.Proxy | None:
    return next((arg for arg in (*args, *kwargs.values()) if isinstance(arg, fx.Proxy)), None)


def _path_in_trace(module: nn.Module, args: tuple, kwargs: dict) -> str:
    """The module's name in what is being traced; "" where nothing is, or the module is all of it."""
    proxy = _first_proxy(args, kwargs)
    if proxy is None or not isinstance(proxy.tracer, fx.Tracer):
        return ""
    return proxy.tracer.path_of_module(module)
