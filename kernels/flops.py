"""FLOP counts of the operations for torch.utils.flop_counter: those of stock PyTorch's convolutions.

Importing flop_counter imports Triton and takes as long, so the formulas are registered when another module imports it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch

Shape = Sequence[int]
_COUNTER = "torch.utils.flop_counter"


def _register(counter: ModuleType) -> None:
    from .dispatch import NAMESPACE

    operations = getattr(torch.ops, NAMESPACE)
    for name, formula in _FORMULAS.items():
        counter.register_flop_formula(getattr(operations, name))(formula)


class _Registration(importlib.abc.MetaPathFinder):
    """A finder that registers the formulas with torch.utils.flop_counter when that is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find torch.utils.flop_counter, and have its loader register the formulas."""
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)  # by the finders behind it, which may belong to a copy of this package
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return None
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module)

        loader.exec_module = exec_module
        return spec


# torch.utils.flop_counter passes shapes instead of tensors. A multiplication and an addition count 2, as in torch.


def _count_convolution(batch: int, sizes: Shape, weight: Shape) -> int:
    """Count a convolution, which applies the whole weight at each position of the small side."""
    return 2 * batch * prod(sizes) * prod(weight)


def _count_conv_up(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return _count_convolution(x[0], x[2:], weight)


def _count_conv_down(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _count_convolution(x[0], out_shape[2:], weight)


def _count_conv_weight_grad(large: Shape, small: Shape, kernel_size: Shape, *_: Any, **__: Any) -> int:
    # torch counts all pairs of channels whatever the groups, so that a network counts the same with our layers.
    return _count_convolution(small[0], small[2:], (small[1], large[1], *kernel_size))


def _count_fused_conv(*args: Any, out_shape: Sequence[Shape], **__: Any) -> int:
    from .fused_conv.arguments import Arguments

    named = dict(zip(Arguments._fields, args, strict=True))
    x, sizes = named["x"], out_shape[0][2:]
    return _count_convolution(x[0], x[2:] if named["transposed"] else sizes, named["weight"])


def _count_conv_lstm(x: Shape, h0: Shape, c0: Shape, weight_ih: Shape, weight_hh: Shape, *_: Any, **__: Any) -> int:
    batch, sizes = x[0], x[2:]
    return _count_convolution(batch, sizes, weight_ih) + _count_convolution(batch, sizes, weight_hh)


def _count_conv_lstm_backward(*args: Any, **__: Any) -> int:
    x, weight_ih, weight_hh, wanted = args[2], args[5], args[6], args[-2]
    batch, _, steps, *sizes = x
    inputs, states = _count_convolution(batch, sizes, weight_ih), _count_convolution(batch, sizes, weight_hh)
    # The gradient passes through the states of all steps but the first, whose state is an input.
    return steps * (inputs * (wanted[0] + wanted[3]) + states * wanted[4]) + states * (steps - 1 + wanted[1])


_FORMULAS = {
    "conv_up": _count_conv_up,
    "conv_down": _count_conv_down,
    "conv_weight_grad": _count_conv_weight_grad,
    "fused_conv": _count_fused_conv,
    "conv_lstm": _count_conv_lstm,
    "conv_lstm_forward": _count_conv_lstm,
    "conv_lstm_backward": _count_conv_lstm_backward,
}


def register_on_import() -> None:
    """Register the formulas now, or when torch.utils.flop_counter is imported."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Registration())
