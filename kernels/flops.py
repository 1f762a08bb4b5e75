"""What each operation counts for torch.utils.flop_counter: as much as stock PyTorch's convolutions in its place.

Importing flop_counter takes as long as importing Triton, which it does. So the formulas are registered when somebody
else imports it.
"""

import importlib.abc
import importlib.machinery
import sys
from math import prod
from types import ModuleType

import torch

_COUNTER = "torch.utils.flop_counter"


def _register(counter: ModuleType) -> None:
    operations = torch.ops.fastvgan
    for name, formula in _FORMULAS.items():
        counter.register_flop_formula(getattr(operations, name))(formula)


class _Registration(importlib.abc.MetaPathFinder):
    """Registers the formulas with torch.utils.flop_counter as soon as that is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _register(module)

        spec.loader.exec_module = exec_module
        return spec


# The formulas are given tensors' shapes in place of tensors. A multiplication and an addition count 2, as in torch.


def _convolution(batch, sizes, weight):
    """Operations of a convolution: the whole weight at each of the small side's places."""
    return 2 * batch * prod(sizes) * prod(weight)


def _conv_up(x, weight, *_, **__):
    return _convolution(x[0], x[2:], weight)


def _conv_down(x, weight, *_, out_shape, **__):
    return _convolution(x[0], out_shape[2:], weight)


def _conv_weight_grad(large, small, kernel_size, *_, **__):
    # torch counts all pairs of channels whatever the groups, so that a network counts the same with our layers.
    return _convolution(small[0], small[2:], (small[1], large[1], *kernel_size))


def _fused_conv(*args, out_shape, **__):
    from .fused_conv import Arguments

    a = Arguments(*args)
    sizes = a.x[2:] if a.transposed else out_shape[0][2:]
    return _convolution(a.x[0], sizes, a.weight)


def _conv_lstm(x, h0, c0, weight_ih, weight_hh, *_, **__):
    batch, _, *sizes = x
    return _convolution(batch, sizes, weight_ih) + _convolution(batch, sizes, weight_hh)


def _conv_lstm_backward(_d_output, _d_c, x, h0, c0, weight_ih, weight_hh, *rest, **__):
    *_, wanted, _impl = rest
    batch, _, steps, *sizes = x
    inputs, states = _convolution(batch, sizes, weight_ih), _convolution(batch, sizes, weight_hh)
    # The gradient goes through the states of all steps but the first one, which is given.
    return steps * (inputs * (wanted[0] + wanted[3]) + states * wanted[4]) + states * (steps - 1 + wanted[1])


_FORMULAS = {
    "conv_up": _conv_up,
    "conv_down": _conv_down,
    "conv_weight_grad": _conv_weight_grad,
    "fused_conv": _fused_conv,
    "conv_lstm": _conv_lstm,
    "conv_lstm_forward": _conv_lstm,
    "conv_lstm_backward": _conv_lstm_backward,
}


def register_on_import() -> None:
    """Register the formulas now, or once somebody imports torch.utils.flop_counter."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Registration())
