"""What tracers see of the layers: torch.fx a leaf, torch.jit.trace and ONNX stock PyTorch's operations."""

from typing import Any, NoReturn

from torch import Tensor, fx, nn

from fastvgan_kernels import dispatch
from fastvgan_kernels._torch import tracing_state


def wants_stock(input: Any) -> bool:
    """Whether forward has to show stock PyTorch's operations: to whoever records a graph of no others.

    What is no tensor is either a stand-in of torch.fx or a mistake, of which stock PyTorch tells the caller.
    """
    if type(input) is Tensor:
        return tracing_state() is not None
    return not isinstance(input, Tensor) or dispatch.wants_stock()


class TraceableLayer(nn.Module):
    """A layer that torch.fx takes as one node, as it takes the layers of torch.nn."""

    # Of a class that is somebody's too it takes the forward instead, as of any subclass of torch.nn's.
    _is_leaf_of_fx = True

    # torch.fx has no other word for a leaf than a module path in torch.nn. A call is where it can be intercepted before
    # hooks run: as a leaf's, they belong to the run of the graph and not to its making.
    def _call_impl(self, *args, **kwargs):
        if not (args and type(args[0]) is Tensor) and self._is_leaf_of_fx:
            tracer = _tracer_of(*args, *kwargs.values())
            path = "" if tracer is None else tracer.path_of_module(self)
            if path:  # the module is not all that is traced
                return tracer.create_proxy("call_module", path, args, kwargs)
        return super()._call_impl(*args, **kwargs)

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile fastvgan.layers.{type(self).__name__}: use torch.jit.trace or "
            "torch.export, or script the network before fuse()"
        )


def _tracer_of(*arguments: Any) -> fx.Tracer | None:
    proxy = next((argument for argument in arguments if isinstance(argument, fx.Proxy)), None)
    return proxy.tracer if proxy is not None and isinstance(proxy.tracer, fx.Tracer) else None
