"""The ConvLSTM with its steps in C++ (csrc/cpu); the input's convolutions run over all steps at once.

A step's recurrent convolution and pointwise update are one pass, forward and backward. They write states, gates and
gradients directly to their places in the sequences, channels innermost. Backward recomputes tanh of the cell.
"""

import torch
from torch import Tensor

from ..compiled_support import cpu_refusal, empty
from ..conv import conv_down, conv_up, conv_weight_grad_op
from ..conv.compiled import conv_up_to
from ..layout import with_channels_innermost
from .protocol import Inputs, NeedsGrad, Saved
from .sequence import as_cell, same_padding

refusal = cpu_refusal

_BATCH = 16  # the least batch with which the compiled convolutions fill their tiles
_MAX_BYTES = 32 * 2**20  # of gates' gradients in memory: the C library keeps blocks of up to this size for reuse

_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(
    "conv_lstm_steps(Tensor h, Tensor c, Tensor weight_hh, Tensor(a!) gates, Tensor(b!) output, Tensor(c!) cells) -> ()"
)
_library.define(
    "conv_lstm_steps_backward(Tensor? d_output, Tensor? d_pre_after, Tensor gates, Tensor c, Tensor cells, "
    "Tensor weight_hh, Tensor(a!) d_c, Tensor(b!) d_pre) -> ()"
)


def forward(inputs: Inputs, memory_format: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output (N, C, T, H, W), the last cell state (N, C, H, W), gates (N, 4C, T, H, W) and cells as output."""
    x, h, c, weight_ih, weight_hh, bias = inputs
    n, hidden, height, width = h.shape
    steps, dtype = x.shape[2], c.dtype
    pad_ih = [0, *same_padding(weight_ih)]
    gates = conv_down(with_channels_innermost(x), weight_ih.unsqueeze(2), bias, padding=pad_ih, impl=_convolutions(x))
    gates, c = with_channels_innermost(gates), as_cell(c, x)
    output, cells = (empty(t, (n, hidden, steps, height, width)) for t in (x, c))
    torch.ops.fastvgan_compiled.conv_lstm_steps(with_channels_innermost(h), c, weight_hh, gates, output, cells)
    return output, cells[:, :, -1].to(dtype, copy=True), gates, cells.to(dtype)


def backward(
    d_output: Tensor | None,
    d_cell: Tensor | None,
    inputs: Inputs,
    saved: Saved,
    needed: NeedsGrad,
    memory_format: torch.memory_format,
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of `inputs`; shapes of arguments and results as in `ConvLSTM.backward`.

    The gates' gradients are kept for a few steps at a time, and added to all other gradients before the next few.
    """
    x, h0, c0, _, weight_hh, _ = inputs
    n, hidden, height, width = h0.shape
    steps, c0_dtype = x.shape[2], c0.dtype
    gates, cells, c0 = with_channels_innermost(saved.gates), as_cell(saved.cells, x), as_cell(c0, x)
    d_output = None if d_output is None else with_channels_innermost(d_output.to(x.dtype))
    dc = empty(x.new_empty(0, dtype=torch.float32), h0.shape)
    dc.zero_() if d_cell is None else dc.copy_(d_cell)
    # At least two, because a step reads the gradient of the step after it, which is the first of the block.
    block = min(steps, max(2, _MAX_BYTES // max(1, gates[:, :, :1].nbytes)))
    d_pre, after = empty(x, (n, 4 * hidden, block, height, width)), None
    sums = _Gradients(inputs, saved.output, needed)
    for first in range((steps - 1) // block * block, -1, -block):
        last = min(first + block, steps)
        d_steps = None if d_output is None else d_output[:, :, first:last]
        before, d_block = c0 if first == 0 else cells[:, :, first - 1], d_pre[:, :, : last - first]
        torch.ops.fastvgan_compiled.conv_lstm_steps_backward(
            *(d_steps, after, gates[:, :, first:last], before, cells[:, :, first:last], weight_hh, dc, d_block)
        )
        sums.add(d_block, first)
        after = d_pre[:, :, 0]
    dh = None
    if needed.h0:
        dh = conv_up(d_pre[:, :, 0], weight_hh, padding=same_padding(weight_hh), impl=_convolutions(x))
    return sums.dx, dh, dc.to(c0_dtype) if needed.c0 else None, *sums.parameters()


def _convolutions(x: Tensor) -> str:
    """The implementation of the convolutions."""
    return "cpp" if x.shape[0] >= _BATCH else "auto"


class _Gradients:
    """The gradients of x, the weights and the bias, summed over one block of steps after the other."""

    def __init__(self, inputs: Inputs, output: Tensor, needed: NeedsGrad) -> None:
        x, h0, _, weight_ih, weight_hh, _ = inputs
        self.x, self.h0, self.output = map(with_channels_innermost, (x, h0, output))
        self.weight_ih, self.kernels = weight_ih, [[1, *w.shape[2:]] for w in (weight_ih, weight_hh)]
        self.paddings = [[0, *same_padding(w)] for w in (weight_ih, weight_hh)]
        self.needed, self.impl = needed, _convolutions(x)
        self.dx = empty(x, x.shape) if needed.x else None
        self.sums: list[Tensor | None] = [None] * 3  # of the weights and the bias, float32

    def add(self, d_pre: Tensor, first: int) -> None:
        """Add the share of the steps from `first` on, whose gates have the gradient d_pre (N, 4C, steps, H, W)."""
        last = first + d_pre.shape[2]
        if self.dx is not None:
            self._write_dx(d_pre, self.dx[:, :, first:last])
        if self.needed.weight_ih:
            self._add(0, self._weight_grad(self.x[:, :, first:last], d_pre, 0))
        if self.needed.bias:
            rows = d_pre.movedim(1, -1).flatten(0, -2)
            # A matrix product reads the terms of a long sum faster than torch.sum.
            self._add(2, (rows.new_ones(1, rows.shape[0]) @ rows)[0].float())
        if self.needed.weight_hh and first == 0:
            self._add(1, self._weight_grad(self.h0.unsqueeze(2), d_pre[:, :, :1], 1))
            d_pre, first = d_pre[:, :, 1:], 1
        if self.needed.weight_hh and first < last:
            self._add(1, self._weight_grad(self.output[:, :, first - 1 : last - 1], d_pre, 1))

    def _write_dx(self, d_pre: Tensor, dx: Tensor) -> None:
        weight, padding = self.weight_ih.unsqueeze(2), self.paddings[0]
        if self.impl == "cpp":
            conv_up_to(dx, d_pre, weight, [1] * 3, padding, [1] * 3, 1)
        else:
            dx.copy_(conv_up(d_pre, weight, padding=padding, impl=self.impl))

    def _weight_grad(self, large: Tensor, small: Tensor, which: int) -> Tensor:
        arguments = large, small, self.kernels[which], [1] * 3, self.paddings[which], [1] * 3, 1, True, self.impl
        return conv_weight_grad_op(*arguments)

    def _add(self, which: int, share: Tensor) -> None:
        total = self.sums[which]
        self.sums[which] = share if total is None else total.add_(share)

    def parameters(self) -> list[Tensor | None]:
        """The gradients of weight_ih (4C, C_in, k, k), weight_hh (4C, C, k, k) and the bias (4C,) in x's dtype."""
        d_ih, d_hh, d_bias = (None if total is None else total.to(self.x.dtype) for total in self.sums)
        return [None if d is None else d.squeeze(2) for d in (d_ih, d_hh)] + [d_bias]
