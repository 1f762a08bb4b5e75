"""The device code of a ConvLSTM's steps: the recurrent convolution and the whole pointwise update in one kernel each.

Both are the gathered product of conv/triton_gather.py with another end, its geometry given in that file's terms.
States and steps of sequences have their channels innermost; strides are of example, depth (of size 1), row and column.
"""

import triton
import triton.language as tl

from ..conv.triton_gather import products, split_row
from ..triton.math import sigmoid, tanh


@triton.jit
def offsets(example, h, v, stride, channel):
    """(BM, BH) of elements of a state or of one step of a sequence."""
    return (example * stride[0] + h * stride[2] + v * stride[3])[:, None] + channel[None, :]


@triton.jit
def step(h_before, c_before, w, gates, output, cells, rows, size, h_stride, c_stride, gates_stride, output_stride,
         cells_stride, w_out, w_in, w_stride, hidden, FIRST: tl.constexpr, KERNEL: tl.constexpr, OFFSET: tl.constexpr,
         STEP: tl.constexpr, SHIFT: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
         BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """One step forward. Programs: row block × block of hidden channels, these fastest.

    gates: on entry the input's half of the step's gates before their activations, on exit the gates. Columns of the
    product are hidden channel and gate, gates fastest, so that the four gates of a channel are in one program.
    size: (1, height, width).
    """
    BH: tl.constexpr = BN // 4
    blocks = tl.cdiv(hidden, BH)
    block = tl.program_id(0) // blocks
    first = (tl.program_id(0) % blocks) * BH
    if WIDE:
        block = block.to(tl.int64)
    row = block * BM + tl.arange(0, BM)
    row_ok = row < rows
    example, t, y, v = split_row(row, size)
    n = tl.arange(0, BN)
    column_channel = first + n // 4
    column = (n % 4 * hidden + column_channel) * w_out
    acc = tl.zeros((BM, BN), tl.float32)
    acc = products(acc, h_before, example * h_stride[0], (t, y, v), row_ok, size, h_stride[1:], w, column,
                   column_channel < hidden, w_in, w_stride, hidden, FIRST, KERNEL, OFFSET, None, None, 0.0, STEP, SHIFT,
                   False, 0, EVEN, PRECISION, BK)  # fmt: skip
    i_g, f_o = tl.split(tl.reshape(acc, (BM, BH, 2, 2)))  # gate 2a + b lies at [..., a, b]
    i, g = tl.split(i_g)
    f, o = tl.split(f_o)

    channel = first + tl.arange(0, BH)
    ok = row_ok[:, None] & (channel < hidden)[None, :]
    at = gates + offsets(example, y, v, gates_stride, channel)
    i = sigmoid(i + tl.load(at, ok, 0.0).to(tl.float32))
    f = sigmoid(f + tl.load(at + hidden, ok, 0.0).to(tl.float32))
    g = tanh(g + tl.load(at + 2 * hidden, ok, 0.0).to(tl.float32))
    o = sigmoid(o + tl.load(at + 3 * hidden, ok, 0.0).to(tl.float32))
    c = tl.load(c_before + offsets(example, y, v, c_stride, channel), ok, 0.0).to(tl.float32)
    c = f * c + i * g
    dtype = gates.dtype.element_ty
    tl.store(at, i.to(dtype), ok)
    tl.store(at + hidden, f.to(dtype), ok)
    tl.store(at + 2 * hidden, g.to(dtype), ok)
    tl.store(at + 3 * hidden, o.to(dtype), ok)
    tl.store(cells + offsets(example, y, v, cells_stride, channel), c.to(cells.dtype.element_ty), ok)
    tl.store(output + offsets(example, y, v, output_stride, channel), (o * tanh(c)).to(dtype), ok)


@triton.jit
def step_backward(d_output, d_pre_after, w, gates, c_before, cells, dc_after, dc, d_pre, rows, size, d_output_stride,
                  d_pre_stride, gates_stride, before_stride, cells_stride, dc_stride, w_out, w_in, w_stride, hidden,
                  FIRST: tl.constexpr, KERNEL: tl.constexpr, OFFSET: tl.constexpr, STEP: tl.constexpr,
                  SHIFT: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
                  BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """One step backward. Programs: row block × block of hidden channels, these fastest.

    d_pre_after: the gradient of the next step's gates before their activations, None after the last step; dc_after and
    dc: float32, the cell's gradient that comes from the next step and that which goes to the one before.
    """
    blocks = tl.cdiv(hidden, BN)
    block = tl.program_id(0) // blocks
    channel = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    channel_ok = channel < hidden
    if WIDE:
        block = block.to(tl.int64)
    row = block * BM + tl.arange(0, BM)
    row_ok = row < rows
    example, t, y, v = split_row(row, size)
    dh = tl.zeros((BM, BN), tl.float32)
    if d_pre_after is not None:
        dh = products(dh, d_pre_after, example * d_pre_stride[0], (t, y, v), row_ok, size, d_pre_stride[1:], w,
                      channel * w_out, channel_ok, w_in, w_stride, 4 * hidden, FIRST, KERNEL, OFFSET, None, None, 0.0,
                      STEP, SHIFT, False, 0, EVEN, PRECISION, BK)  # fmt: skip
    ok = row_ok[:, None] & channel_ok[None, :]
    if d_output is not None:
        dh += tl.load(d_output + offsets(example, y, v, d_output_stride, channel), ok, 0.0).to(tl.float32)
    # In an order in which few values are held at once.
    at = gates + offsets(example, y, v, gates_stride, channel)
    to = d_pre + offsets(example, y, v, d_pre_stride, channel)
    at_dc = offsets(example, y, v, dc_stride, channel)
    dtype = d_pre.dtype.element_ty
    o = tl.load(at + 3 * hidden, ok, 0.0).to(tl.float32)
    bounded = tanh(tl.load(cells + offsets(example, y, v, cells_stride, channel), ok, 0.0).to(tl.float32))
    tl.store(to + 3 * hidden, (dh * bounded * o * (1.0 - o)).to(dtype), ok)
    d = tl.load(dc_after + at_dc, ok, 0.0) + dh * o * (1.0 - bounded * bounded)
    f = tl.load(at + hidden, ok, 0.0).to(tl.float32)
    tl.store(dc + at_dc, d * f, ok)
    before = tl.load(c_before + offsets(example, y, v, before_stride, channel), ok, 0.0).to(tl.float32)
    tl.store(to + hidden, (d * before * f * (1.0 - f)).to(dtype), ok)
    i = tl.load(at, ok, 0.0).to(tl.float32)
    g = tl.load(at + 2 * hidden, ok, 0.0).to(tl.float32)
    tl.store(to, (d * g * i * (1.0 - i)).to(dtype), ok)
    tl.store(to + 2 * hidden, (d * i * (1.0 - g * g)).to(dtype), ok)
