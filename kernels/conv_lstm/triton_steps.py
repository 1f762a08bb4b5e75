"""Device code of a ConvLSTM's steps: one kernel each for the recurrent convolution with the whole pointwise update.

Both compute the gathered product of conv/triton_gather.py and then update the state; their geometry is in that file's
terms. States and steps of sequences have their channels innermost.
"""

from typing import NamedTuple

import torch
import triton.language as tl

from ..conv.triton_gather import add_products, split_row
from ..triton.arguments import Columns, Rows, Taps, Triple, Volume
from ..triton.jit import constexpr, jit
from ..triton.math import sigmoid, tanh


class State(NamedTuple):
    """A state, or one step of a sequence, (N, C, H, W) with channels innermost.

    Args:
        data: the tensor.
        batch: stride from one example to the next, in elements.
        space: strides of depth (0, its size is 1), row and column.
    """

    data: torch.Tensor
    batch: int
    space: Triple


class Forward(NamedTuple):
    """The states of one step forward.

    Args:
        h: the step before's output.
        c: the step before's cell.
        gates: (N, 4 · hidden, H, W). On entry, the input's half of the gates before their activations; on exit, the
            gates.
        output: written.
        cells: written.
    """

    h: State
    c: State
    gates: State
    output: State
    cells: State


class Backward(NamedTuple):
    """The states of one step backward.

    Args:
        d_output: the gradient of the step's output, or None.
        d_pre_after: the gradient of the next step's gates before their activations; None after the last step.
        gates: (N, 4 · hidden, H, W).
        c_before: the step before's cell.
        cells: the step's cell.
        dc_after: float32, the gradient of the cell from the next step.
        dc: float32, written, the gradient of the step before's cell; same strides as dc_after.
        d_pre: written; same strides as d_pre_after.
    """

    d_output: State | None
    d_pre_after: torch.Tensor | None
    gates: State
    c_before: State
    cells: State
    dc_after: torch.Tensor
    dc: State
    d_pre: State


class Sizes(NamedTuple):
    """Sizes of a step: positions of all examples, (1, height, width), and hidden channels."""

    rows: int
    grid: Triple
    hidden: int


@jit
def offsets(state, example, h, v, channel):
    """(BLOCK_M, channels) offsets of the elements of a state or of one step of a sequence."""
    return (example * state.batch + h * state.space[1] + v * state.space[2])[:, None] + channel[None, :]


@jit
def step_kernel(states, weight, sizes, PLAN: constexpr):
    """One step forward. Programs: row block × block of hidden channels, these fastest.

    Columns of the product are hidden channel and gate, gates fastest, so one program has all four gates of a channel.

    Args:
        states: a Forward.
        weight: a Weight, (4 · hidden, hidden, *kernel).
        sizes: Sizes.
        PLAN: a Plan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    GEOMETRY: constexpr = PLAN.geometry  # a constexpr is what Triton 3.6 takes as an argument
    BLOCK_H: constexpr = BLOCK_N // 4
    hidden = sizes.hidden
    gates = states.gates.data
    blocks = tl.cdiv(hidden, BLOCK_H)
    block = tl.program_id(0) // blocks
    first = (tl.program_id(0) % blocks) * BLOCK_H
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < sizes.rows
    example, t, y, v = split_row(row, sizes.grid)
    n = tl.arange(0, BLOCK_N)
    column_channel = first + n // 4
    at_w = (n % 4 * hidden + column_channel) * weight.output
    columns = Columns(weight.data, None, at_w, column_channel < hidden, 0, hidden, weight.input, weight.taps)
    rows = Rows(example * states.h.batch, (t, y, v), row_ok)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    x = Volume(states.h.data, states.h.batch, states.h.space, sizes.grid)
    PADDING: constexpr = GEOMETRY.padding  # of a convolution of stride 1, whose first tap reads before the position
    FIRST: constexpr = (0, 0, 0)
    KERNEL: constexpr = GEOMETRY.kernel
    OFFSET: constexpr = (-PADDING[0], -PADDING[1], -PADDING[2])
    acc = add_products(acc, x, rows, columns, Taps(FIRST, KERNEL, OFFSET), None, PLAN)
    i_g, f_o = tl.split(tl.reshape(acc, (BLOCK_M, BLOCK_H, 2, 2)))  # gate 2a + b is at [..., a, b]
    i, g = tl.split(i_g)
    f, o = tl.split(f_o)

    channel = first + tl.arange(0, BLOCK_H)
    ok = row_ok[:, None] & (channel < hidden)[None, :]
    at = gates + offsets(states.gates, example, y, v, channel)
    i = sigmoid(i + tl.load(at, ok, 0.0).to(tl.float32))  # [BLOCK_M, BLOCK_H]
    f = sigmoid(f + tl.load(at + hidden, ok, 0.0).to(tl.float32))  # [BLOCK_M, BLOCK_H]
    g = tanh(g + tl.load(at + 2 * hidden, ok, 0.0).to(tl.float32))  # [BLOCK_M, BLOCK_H]
    o = sigmoid(o + tl.load(at + 3 * hidden, ok, 0.0).to(tl.float32))  # [BLOCK_M, BLOCK_H]
    at_c = states.c.data + offsets(states.c, example, y, v, channel)
    c = tl.load(at_c, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_H]
    c = f * c + i * g
    dtype = gates.dtype.element_ty
    tl.store(at, i.to(dtype), ok)
    tl.store(at + hidden, f.to(dtype), ok)
    tl.store(at + 2 * hidden, g.to(dtype), ok)
    tl.store(at + 3 * hidden, o.to(dtype), ok)
    cells = states.cells.data
    tl.store(cells + offsets(states.cells, example, y, v, channel), c.to(cells.dtype.element_ty), ok)
    output = states.output.data
    tl.store(output + offsets(states.output, example, y, v, channel), (o * tanh(c)).to(dtype), ok)


@jit
def step_backward_kernel(states, weight, sizes, PLAN: constexpr):
    """One step backward. Programs: row block × block of hidden channels, these fastest.

    Args:
        states: a Backward.
        weight: a Weight, (4 · hidden, hidden, *kernel), whose outputs are the hidden channels here.
        sizes: Sizes.
        PLAN: a Plan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    GEOMETRY: constexpr = PLAN.geometry  # a constexpr is what Triton 3.6 takes as an argument
    hidden = sizes.hidden
    blocks = tl.cdiv(hidden, BLOCK_N)
    block = tl.program_id(0) // blocks
    channel = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel_ok = channel < hidden
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < sizes.rows
    example, t, y, v = split_row(row, sizes.grid)
    d_pre = states.d_pre
    dh = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if states.d_pre_after is not None:
        x = Volume(states.d_pre_after, d_pre.batch, d_pre.space, sizes.grid)
        rows = Rows(example * d_pre.batch, (t, y, v), row_ok)
        at_w = channel * weight.output
        columns = Columns(weight.data, None, at_w, channel_ok, 0, 4 * hidden, weight.input, weight.taps)
        PADDING: constexpr = GEOMETRY.padding  # of a transposed convolution of stride 1
        FIRST: constexpr = (0, 0, 0)
        KERNEL: constexpr = GEOMETRY.kernel
        dh = add_products(dh, x, rows, columns, Taps(FIRST, KERNEL, PADDING), None, PLAN)
    ok = row_ok[:, None] & channel_ok[None, :]
    if states.d_output is not None:
        at_d = states.d_output.data + offsets(states.d_output, example, y, v, channel)
        dh += tl.load(at_d, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    # The order keeps few values in registers at once.
    at = states.gates.data + offsets(states.gates, example, y, v, channel)
    to = d_pre.data + offsets(d_pre, example, y, v, channel)
    at_dc = offsets(states.dc, example, y, v, channel)
    dtype = d_pre.data.dtype.element_ty
    o = tl.load(at + 3 * hidden, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    at_cells = states.cells.data + offsets(states.cells, example, y, v, channel)
    bounded = tanh(tl.load(at_cells, ok, 0.0).to(tl.float32))  # [BLOCK_M, BLOCK_N]
    tl.store(to + 3 * hidden, (dh * bounded * o * (1.0 - o)).to(dtype), ok)
    d = tl.load(states.dc_after + at_dc, ok, 0.0) + dh * o * (1.0 - bounded * bounded)  # [BLOCK_M, BLOCK_N]
    f = tl.load(at + hidden, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    tl.store(states.dc.data + at_dc, d * f, ok)
    at_before = states.c_before.data + offsets(states.c_before, example, y, v, channel)
    before = tl.load(at_before, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    tl.store(to + hidden, (d * before * f * (1.0 - f)).to(dtype), ok)
    i = tl.load(at, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    g = tl.load(at + 2 * hidden, ok, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_N]
    tl.store(to, (d * g * i * (1.0 - i)).to(dtype), ok)
    tl.store(to + 2 * hidden, (d * i * (1.0 - g * g)).to(dtype), ok)
