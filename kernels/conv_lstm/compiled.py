"""The ConvLSTM with its steps in C++ (csrc/cpu), between the convolutions that are of all steps at once.

Both functions are as the reference's. A step's recurrent convolution and its pointwise update are one pass, forward and
backward; states, gates and gradients are written straight to their places in the sequences, channels innermost; tanh of
the cell is computed again in backward.
"""

import torch

from ..compiled_support import cpu_refusal, empty
from ..conv import conv_down, conv_up, conv_weight_grad_op
from ..conv.compiled import conv_up_to
from ..layout import with_channels_innermost
from .sequence import as_cell, padding_of

refusal = cpu_refusal

_BATCH = 16  # from which on the compiled convolutions fill their tiles
_HELD = 32 * 2**20  # bytes of the gates' gradients at once: blocks this small the C library keeps for reuse

_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(
    "conv_lstm_steps(Tensor h, Tensor c, Tensor weight_hh, Tensor(a!) gates, Tensor(b!) output, Tensor(c!) cells) -> ()"
)
_library.define(
    "conv_lstm_steps_backward(Tensor? d_output, Tensor? d_pre_after, Tensor gates, Tensor c, Tensor cells, "
    "Tensor weight_hh, Tensor(a!) d_c, Tensor(b!) d_pre) -> ()"
)


def forward(x, h, c, weight_ih, weight_hh, bias, memory_format):
    """(output, last cell, gates, cells) of the whole sequence."""
    n, hidden, height, width = h.shape
    steps, dtype = x.shape[2], c.dtype
    pad_ih = [0, *padding_of(weight_ih)]
    gates = conv_down(with_channels_innermost(x), weight_ih.unsqueeze(2), bias, padding=pad_ih, impl=_convolutions(x))
    gates, c = with_channels_innermost(gates), as_cell(c, x)
    output, cells = (empty(t, (n, hidden, steps, height, width)) for t in (x, c))
    torch.ops.fastvgan_compiled.conv_lstm_steps(with_channels_innermost(h), c, weight_hh, gates, output, cells)
    return output, cells[:, :, -1].to(dtype, copy=True), gates, cells.to(dtype)


def backward(d_output, d_cell, x, h0, c0, weight_ih, weight_hh, output, gates, cells, wanted, memory_format):
    """The gradients of x, h0, c0, weight_ih, weight_hh and the bias, None where not wanted; as the reference's.

    Those of the gates are held for a few steps at a time, which give their share of all other gradients at once.
    """
    n, hidden, height, width = h0.shape
    steps, c0_dtype = x.shape[2], c0.dtype
    gates, cells, c0 = with_channels_innermost(gates), as_cell(cells, x), as_cell(c0, x)
    d_output = None if d_output is None else with_channels_innermost(d_output.to(x.dtype))
    dc = empty(x.new_empty(0, dtype=torch.float32), h0.shape)
    dc.zero_() if d_cell is None else dc.copy_(d_cell)
    # At least two, because a step reads the gradient of the step after it, which lies in the first place.
    held = min(steps, max(2, _HELD // max(1, gates[:, :, :1].nbytes)))
    d_pre, after = empty(x, (n, 4 * hidden, held, height, width)), None
    sums = _Gradients(x, h0, output, weight_ih, weight_hh, wanted)
    for first in range((steps - 1) // held * held, -1, -held):
        last = min(first + held, steps)
        d_steps = None if d_output is None else d_output[:, :, first:last]
        before, place = c0 if first == 0 else cells[:, :, first - 1], d_pre[:, :, : last - first]
        torch.ops.fastvgan_compiled.conv_lstm_steps_backward(
            *(d_steps, after, gates[:, :, first:last], before, cells[:, :, first:last], weight_hh, dc, place)
        )
        sums.add(place, first)
        after = d_pre[:, :, 0]
    dh = conv_up(after, weight_hh, padding=padding_of(weight_hh), impl=_convolutions(x)) if wanted[1] else None
    return sums.dx, dh, dc.to(c0_dtype) if wanted[2] else None, *sums.parameters()


def _convolutions(x: torch.Tensor) -> str:
    return "cpp" if x.shape[0] >= _BATCH else "auto"


class _Gradients:
    """Those of x, the weights and the bias, added up from the gates' of one stretch of steps after the other."""

    def __init__(self, x, h0, output, weight_ih, weight_hh, wanted):
        self.x, self.h0, self.output = map(with_channels_innermost, (x, h0, output))
        self.weight_ih, self.kernels = weight_ih, [[1, *w.shape[2:]] for w in (weight_ih, weight_hh)]
        self.paddings = [[0, *padding_of(w)] for w in (weight_ih, weight_hh)]
        self.wanted, self.impl = wanted, _convolutions(x)
        self.dx = empty(x, x.shape) if wanted[0] else None
        self.sums = [None] * 3  # of the weights and the bias, float32

    def add(self, d_pre: torch.Tensor, first: int) -> None:
        """The share of the steps from `first` on, of which d_pre is the gradient of the gates."""
        last = first + d_pre.shape[2]
        if self.wanted[0]:
            self._add_dx(d_pre, self.dx[:, :, first:last])
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

    def _add_dx(self, d_pre, place):
        weight, padding = self.weight_ih.unsqueeze(2), self.paddings[0]
        if self.impl == "cpp":
            conv_up_to(place, d_pre, weight, [1] * 3, padding, [1] * 3, 1)
        else:
            place.copy_(conv_up(d_pre, weight, padding=padding, impl=self.impl))

    def _weight_grad(self, large, small, which):
        arguments = large, small, self.kernels[which], [1] * 3, self.paddings[which], [1] * 3, 1, True, self.impl
        return conv_weight_grad_op(*arguments)

    def _add(self, which, share):
        self.sums[which] = share if self.sums[which] is None else self.sums[which].add_(share)

    def parameters(self) -> list[torch.Tensor | None]:
        """The gradients of weight_ih, weight_hh and the bias in the dtype of x."""
        d_ih, d_hh, d_bias = (None if total is None else total.to(self.x.dtype) for total in self.sums)
        return [None if d is None else d.squeeze(2) for d in (d_ih, d_hh)] + [d_bias]
