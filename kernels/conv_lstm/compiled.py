"""The ConvLSTM with its pointwise part in C++ (csrc/cpu), around the convolutions.

Both functions are as the reference's. States, gates and gradients of a step are written straight to their places in
the sequences, channels innermost; tanh of the cell is computed again in backward. On batches the convolutions are the
compiled ones, which take those places as they are, where others would copy each step.
"""

import torch

from .. import extension
from ..conv import _conv_weight_grad, conv_down, conv_up
from ..conv.compiled import DTYPES, _empty, _side_by_side
from .reference import padding_of

_BATCH = 16  # from which on the compiled convolutions fill their tiles
_HELD = 32 * 2**20  # bytes of the gates' gradients at once: blocks this small the C library keeps for reuse

_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(
    "conv_lstm_update(Tensor inputs, Tensor recurrent, Tensor c, Tensor(a!) h_next, Tensor(b!) c_next, "
    "Tensor(c!) gates) -> ()"
)
_library.define(
    "conv_lstm_update_backward(Tensor? d_output, Tensor? d_h, Tensor gates, Tensor c, Tensor c_next, "
    "Tensor(a!) d_c, Tensor(b!) d_pre) -> ()"
)


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    if extension.load() is None:
        return extension.reason()
    if not x.is_cpu:
        return f"it is for the CPU, not for {x.device.type}"
    if x.dtype not in DTYPES:
        return f"{x.dtype} is not one of float32, bfloat16 and float16"
    return None


def _as_cell(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Cells as the kernel takes them: of x's dtype or float32, in which it computes in any case."""
    return _side_by_side(c if c.dtype == x.dtype else c.float())


def forward(x, h, c, weight_ih, weight_hh, bias, memory_format):
    """(output, last cell, gates, cells) of the whole sequence."""
    n, hidden, height, width = h.shape
    steps, pad_hh = x.shape[2], padding_of(weight_hh)
    impl = _convolutions(x)
    pad_ih = [0, *padding_of(weight_ih)]
    inputs = conv_down(_side_by_side(x), weight_ih.unsqueeze(2), bias, padding=pad_ih, impl=impl)
    output = _empty(x, (n, hidden, steps, height, width))
    dtype, c = c.dtype, _as_cell(c, x)
    cells = _empty(c, (n, hidden, steps, height, width))
    inputs, h = _side_by_side(inputs), _side_by_side(h)
    gates = inputs  # in place: what a step has read of them nobody needs again
    for t in range(steps):
        recurrent = _side_by_side(conv_down(h, weight_hh, padding=pad_hh, impl=impl))
        h_next, c_next = output[:, :, t], cells[:, :, t]
        torch.ops.fastvgan_compiled.conv_lstm_update(inputs[:, :, t], recurrent, c, h_next, c_next, gates[:, :, t])
        h, c = h_next, c_next
    return output, c.to(dtype, copy=True), gates, cells.to(dtype)


def backward(d_output, d_cell, x, h0, c0, weight_ih, weight_hh, output, gates, cells, wanted, memory_format):
    """The gradients of x, h0, c0, weight_ih, weight_hh and the bias, None where not wanted; as the reference's.

    Those of the gates are held for a few steps at a time, which give their share of all other gradients at once.
    """
    n, hidden, height, width = h0.shape
    steps, pad_hh = x.shape[2], padding_of(weight_hh)
    gates, cells = _side_by_side(gates), _as_cell(cells, x)
    d_output = None if d_output is None else _side_by_side(d_output.to(x.dtype))
    dc = _empty(x.new_empty(0, dtype=torch.float32), h0.shape)
    dc.zero_() if d_cell is None else dc.copy_(d_cell)
    before, dh, impl = [_as_cell(c0, x), *cells.unbind(2)], None, _convolutions(x)
    held = max(1, min(steps, _HELD // max(1, gates[:, :, :1].nbytes)))
    d_pre = _empty(x, (n, 4 * hidden, held, height, width))
    sums = _Gradients(x, h0, output, weight_ih, weight_hh, wanted, impl)
    for t in range(steps - 1, -1, -1):
        d_step = None if d_output is None else d_output[:, :, t]
        first = t - t % held  # of the steps that are held together
        place = d_pre[:, :, t - first]
        torch.ops.fastvgan_compiled.conv_lstm_update_backward(
            d_step, dh, gates[:, :, t], before[t], before[t + 1], dc, place
        )
        if t > 0 or wanted[1]:
            dh = _side_by_side(conv_up(place, weight_hh, padding=pad_hh, impl=impl))
        if t == first:
            sums.add(d_pre[:, :, : min(held, steps - first)], first)
    return sums.dx, dh if wanted[1] else None, dc.to(c0.dtype) if wanted[2] else None, *sums.parameters()


def _convolutions(x: torch.Tensor) -> str:
    return "cpp" if x.shape[0] >= _BATCH else "auto"


class _Gradients:
    """Those of x, the weights and the bias, added up from the gates' of one stretch of steps after the other."""

    def __init__(self, x, h0, output, weight_ih, weight_hh, wanted, impl):
        self.x, self.h0, self.output = _side_by_side(x), _side_by_side(h0), _side_by_side(output)
        self.weight_ih, self.kernels = weight_ih, [[1, *w.shape[2:]] for w in (weight_ih, weight_hh)]
        self.paddings = [[0, *padding_of(w)] for w in (weight_ih, weight_hh)]
        self.wanted, self.impl = wanted, impl
        self.dx = _empty(x, x.shape) if wanted[0] else None
        self.sums = [None] * 3  # of the weights and the bias, float32

    def add(self, d_pre: torch.Tensor, first: int) -> None:
        """The share of the steps from `first` on, of which d_pre is the gradient of the gates."""
        last = first + d_pre.shape[2]
        if self.wanted[0]:
            dx = conv_up(d_pre, self.weight_ih.unsqueeze(2), padding=self.paddings[0], impl=self.impl)
            self.dx[:, :, first:last].copy_(dx)
        if self.wanted[3]:
            self._add(0, self._weight_grad(self.x[:, :, first:last], d_pre, 0))
        if self.wanted[5]:
            rows = d_pre.movedim(1, -1).flatten(0, -2)
            # A product reads the terms of a long sum faster than a sum does.
            self._add(2, (rows.new_ones(1, rows.shape[0]) @ rows)[0].float())
        if self.wanted[4] and first == 0:
            self._add(1, self._weight_grad(self.h0.unsqueeze(2), d_pre[:, :, :1], 1))
            d_pre, first = d_pre[:, :, 1:], 1
        if self.wanted[4] and first < last:
            self._add(1, self._weight_grad(self.output[:, :, first - 1 : last - 1], d_pre, 1))

    def _weight_grad(self, large, small, which):
        arguments = large, small, self.kernels[which], [1] * 3, self.paddings[which], [1] * 3, 1, True, self.impl
        return _conv_weight_grad(*arguments)

    def _add(self, which, share):
        self.sums[which] = share if self.sums[which] is None else self.sums[which].add_(share)

    def parameters(self) -> list[torch.Tensor | None]:
        """The gradients of weight_ih, weight_hh and the bias in the dtype of x."""
        d_ih, d_hh, d_bias = (None if total is None else total.to(self.x.dtype) for total in self.sums)
        return [None if d is None else d.squeeze(2) for d in (d_ih, d_hh)] + [d_bias]
