"""The ConvLSTM with its pointwise part in C++ (csrc/cpu), around the convolutions.

Both functions are as the reference's. States, gates and gradients of a step are written straight to their places in
the sequences, channels innermost; tanh of the cell is computed again in backward. On batches the convolutions are the
compiled ones, which take those places as they are, where others would copy each step.
"""

import torch

from .. import extension
from ..conv import conv_down, conv_up, conv_weight_grad
from ..conv.compiled import DTYPES, _empty, _side_by_side
from .reference import padding_of

_BATCH = 16  # from which on the compiled convolutions fill their tiles

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
    """The gradients of x, h0, c0, weight_ih, weight_hh and the bias, None where not wanted; as the reference's."""
    n, hidden, height, width = h0.shape
    steps, pad_hh = x.shape[2], padding_of(weight_hh)
    d_pre = _empty(x, (n, 4 * hidden, steps, height, width))
    gates, cells = _side_by_side(gates), _as_cell(cells, x)
    d_output = None if d_output is None else _side_by_side(d_output.to(x.dtype))
    dc = _empty(x.new_empty(0, dtype=torch.float32), h0.shape)
    dc.zero_() if d_cell is None else dc.copy_(d_cell)
    before, dh, impl = [_as_cell(c0, x), *cells.unbind(2)], None, _convolutions(x)
    for t in range(steps - 1, -1, -1):
        d_step = None if d_output is None else d_output[:, :, t]
        torch.ops.fastvgan_compiled.conv_lstm_update_backward(
            d_step, dh, gates[:, :, t], before[t], before[t + 1], dc, d_pre[:, :, t]
        )
        if t > 0 or wanted[1]:
            dh = _side_by_side(conv_up(d_pre[:, :, t], weight_hh, padding=pad_hh, impl=impl))
    grads = _gradients(_side_by_side(x), h0, _side_by_side(output), d_pre, weight_ih, weight_hh, wanted, impl)
    return grads[0], dh if wanted[1] else None, dc.to(c0.dtype) if wanted[2] else None, *grads[1:]


def _convolutions(x: torch.Tensor) -> str:
    return "cpp" if x.shape[0] >= _BATCH else "auto"


def _gradients(x, h0, output, d_pre, weight_ih, weight_hh, wanted, impl):
    """As the reference's, without putting the states before each step into a sequence of their own."""
    pad_ih, pad_hh = [0, *padding_of(weight_ih)], [0, *padding_of(weight_hh)]
    dx = d_ih = d_hh = d_bias = None
    if wanted[0]:
        dx = conv_up(d_pre, weight_ih.unsqueeze(2), padding=pad_ih, impl=impl)
    if wanted[3]:
        d_ih = conv_weight_grad(x, d_pre, [1, *weight_ih.shape[2:]], padding=pad_ih, impl=impl).squeeze(2)
    if wanted[4]:
        kernel = [1, *weight_hh.shape[2:]]
        d_hh = conv_weight_grad(h0.unsqueeze(2), d_pre[:, :, :1], kernel, padding=pad_hh, impl=impl)
        if x.shape[2] > 1:
            d_hh = d_hh + conv_weight_grad(output[:, :, :-1], d_pre[:, :, 1:], kernel, padding=pad_hh, impl=impl)
        d_hh = d_hh.squeeze(2)
    if wanted[5]:
        rows = d_pre.movedim(1, -1).flatten(0, -2)
        d_bias = (rows.new_ones(1, rows.shape[0]) @ rows)[0]  # a product reads a long sum's terms faster than a sum
    return dx, d_ih, d_hh, d_bias
