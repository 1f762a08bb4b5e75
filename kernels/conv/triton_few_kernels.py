"""Device code of convolutions with few channels on one side: 3 of a video, 1 of a score.

Each is one matrix product whose other sides are wide enough for tensor cores and which reads each value a few times:

- `up_few_kernel` writes few channels. With q = (o + padding) // stride and r = (o + padding) % stride, all outputs of
  one q read the same inputs q - a, a < ⌈kernel / stride⌉. A row is a q, and the columns are its outputs: remainders r
  and channels.
- `down_few_kernel` reads few channels. Those of neighbouring positions lie side by side in memory, so an output
  position reads one short window per line (depth × height) of the kernel. A row is a position, and the sum is over the
  lines and the elements of their windows.
- `grad_few_kernel` is the weight gradient of both: the sum over positions of windows times the other side's channels.

A row stands for a cell of PLAN.cell positions side by side in width. Their windows overlap, so fewer values are
loaded, but more of the products are with zeros. The geometry is constant at compile time; sizes and strides are not.
Tuples have one value per dimension: depth, height, width.
"""

import triton.language as tl

from ..triton.arguments import Volume
from ..triton.jit import constexpr, jit
from ..triton.math import activate
from .triton_few_arguments import Cells, Elements, Lines
from .triton_gather import is_inside, normalise, split_row
from .triton_weight_grad import carry


@jit
def up_few_kernel(x, prologue, weight, y, epilogue, sizes, PLAN: constexpr):
    """activation(transposed conv(in_activation(x · scale + shift)) + bias). Programs: (row block × column block).

    An infinity in x makes all outputs of the cells that read it NaN, because some of their weights may be zeros.

    Args:
        x: a Volume.
        prologue: a Prologue.
        weight: a FewWeight.
        y: a Volume of dense lines, that is widths of channels.
        epilogue: an Epilogue.
        sizes: an UpSizes.
        PLAN: a FewPlan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    BLOCK_K: constexpr = PLAN.block_k
    CELL: constexpr = PLAN.cell
    KERNEL: constexpr = PLAN.kernel
    STRIDE: constexpr = PLAN.stride
    PADDING: constexpr = PLAN.padding
    REACH_T: constexpr = (KERNEL[0] + STRIDE[0] - 1) // STRIDE[0]
    REACH_H: constexpr = (KERNEL[1] + STRIDE[1] - 1) // STRIDE[1]
    ACROSS: constexpr = (KERNEL[2] + STRIDE[2] - 1) // STRIDE[2] + CELL - 1
    outputs = sizes.outputs
    columns = STRIDE[0] * STRIDE[1] * STRIDE[2] * CELL * outputs
    column_blocks = tl.cdiv(columns, BLOCK_N)
    n = tl.program_id(0) % column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    block = tl.program_id(0) // column_blocks
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < sizes.rows
    example, t, h, cell = split_row(row, sizes.grid)
    q_t = t + sizes.first[0]
    q_h = h + sizes.first[1]
    q_v = cell * CELL + sizes.first[2]
    # Columns are (remainders in depth and in height, element of the line).
    u = n % (CELL * STRIDE[2] * outputs)
    r = n // (CELL * STRIDE[2] * outputs)
    r_t = r // STRIDE[1]
    r_h = r % STRIDE[1]
    j_v = u // outputs - (CELL - 1) * STRIDE[2]  # the tap of neighbour 0

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    blocks = tl.cdiv(sizes.inputs, BLOCK_K)
    for k in range(0, REACH_T * REACH_H * ACROSS * blocks):
        neighbour = k // blocks
        across = neighbour % ACROSS
        i_v = q_v + (CELL - 1 - across)
        i_h = q_h - neighbour // ACROSS % REACH_H
        i_t = q_t - neighbour // (ACROSS * REACH_H)
        channel = k % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
        channel_ok = channel < sizes.inputs
        tap_t = r_t + neighbour // (ACROSS * REACH_H) * STRIDE[0]
        tap_h = r_h + neighbour // ACROSS % REACH_H * STRIDE[1]
        tap_v = j_v + across * STRIDE[2]
        there = (n < columns) & (tap_t < KERNEL[0]) & (tap_h < KERNEL[1]) & (tap_v >= 0) & (tap_v < KERNEL[2])
        read = (row_ok & is_inside(i_t, i_h, i_v, x.size))[:, None]
        w_ok = there[None, :]
        if not PLAN.even:
            read = read & channel_ok[None, :]
            w_ok = w_ok & channel_ok[:, None]
        at = example * x.batch + i_t * x.space[0] + i_h * x.space[1] + i_v * x.space[2]
        left = tl.load(x.data + at[:, None] + channel[None, :], read, 0.0)  # [BLOCK_M, BLOCK_K]
        weights = (weight.first + u % outputs * weight.output + tap_t * weight.taps[0] + tap_h * weight.taps[1]
                   + tap_v * weight.taps[2])  # fmt: skip
        at_w = weights[None, :] + channel[:, None] * weight.input
        right = tl.load(weight.data + at_w, w_ok, 0.0)  # [BLOCK_K, BLOCK_N]
        left = normalise(left, read, prologue, channel, channel_ok, PLAN)
        acc = tl.dot(left, right, acc, input_precision=PLAN.precision)

    if epilogue.bias is not None:
        acc += tl.load(epilogue.bias + u % outputs).to(tl.float32)[None, :]  # [BLOCK_N]
    acc = activate(acc, epilogue.slope, PLAN.activation)
    begin_t = q_t * STRIDE[0] - PADDING[0]
    begin_h = q_h * STRIDE[1] - PADDING[1]
    begin = (q_v * STRIDE[2] - PADDING[2]) * outputs
    o_t = begin_t[:, None] + r_t[None, :]
    o_h = begin_h[:, None] + r_h[None, :]
    element = begin[:, None] + u[None, :]
    write = (o_t >= 0) & (o_t < y.size[0]) & (o_h >= 0) & (o_h < y.size[1])
    write = write & (element >= 0) & (element < y.size[2] * outputs) & row_ok[:, None] & (n < columns)[None, :]
    to = example * y.batch + begin_t * y.space[0] + begin_h * y.space[1] + begin
    to = to[:, None] + (r_t * y.space[0] + r_h * y.space[1] + u)[None, :]
    tl.store(y.data + to, acc.to(y.data.dtype.element_ty), write)


@jit
def split_columns(first, LINE: constexpr, COUNT: constexpr):
    """The lines and elements of COUNT columns from `first` on, a multiple of COUNT.

    Elements of whole lines are the same for every `first`, and so are the values that a loop computes from them.
    """
    if COUNT % LINE == 0:
        return first // LINE + tl.arange(0, COUNT) // LINE, tl.arange(0, COUNT) % LINE
    else:
        return first // LINE + tl.zeros((COUNT,), tl.int32), first % LINE + tl.arange(0, COUNT)


@jit
def window_elements(line, element, space, PLAN: constexpr):
    """The Elements of columns, by their lines and their elements in these; space: strides of x in groups."""
    KERNEL: constexpr = PLAN.kernel
    ALIGN: constexpr = PLAN.window.align
    t = line // KERNEL[1]
    h = line % KERNEL[1]
    there = (line < KERNEL[0] * KERNEL[1]) & (element < PLAN.window.used)
    return Elements(t, h, element // ALIGN, there, (t * space[0] + h * space[1]) * ALIGN + element)


@jit
def load_windows(x, cells, elements, PLAN: constexpr):
    """Load the elements (columns) of the windows of cells (rows), of which ALIGN at a time are inside or outside."""
    ALIGN: constexpr = PLAN.window.align
    STRIDE: constexpr = PLAN.stride
    PADDING: constexpr = PLAN.padding
    i_t = cells.t * STRIDE[0] - PADDING[0]
    i_h = cells.h * STRIDE[1] - PADDING[1]
    begin = cells.cell * PLAN.window.step + PLAN.window.first
    here_t = i_t[:, None] + elements.t[None, :]
    here_h = i_h[:, None] + elements.h[None, :]
    here_v = begin[:, None] + elements.group[None, :]
    read = ((here_t >= 0) & (here_t < x.size[0]) & (here_h >= 0) & (here_h < x.size[1]) & (here_v >= 0)
            & (here_v < x.groups))  # fmt: skip
    read = read & cells.ok[:, None] & elements.ok[None, :]
    base = (cells.example * x.batch + i_t * x.space[0] + i_h * x.space[1] + begin) * ALIGN
    at = tl.max_contiguous(tl.multiple_of(base[:, None] + elements.offset[None, :], (1, ALIGN)), (1, ALIGN))
    return tl.load(x.data + at, tl.max_constancy(read, (1, ALIGN)), 0.0)  # [ROWS, COLUMNS]


@jit
def down_few_kernel(x, weight, y, epilogue, sizes, PLAN: constexpr):
    """activation(conv(x) + bias). Programs: (row block × column block), column blocks fastest.

    An infinity in x makes all outputs of the cells that read it NaN.

    Args:
        x: a Lines.
        weight: a FewWeight.
        y: dense, with channels innermost.
        epilogue: an Epilogue.
        sizes: a DownSizes.
        PLAN: a FewPlan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    BLOCK_K: constexpr = PLAN.block_k
    CELL: constexpr = PLAN.cell
    KERNEL: constexpr = PLAN.kernel
    STRIDE: constexpr = PLAN.stride
    INPUTS: constexpr = PLAN.inputs
    LINE: constexpr = PLAN.window.line
    VECTOR: constexpr = PLAN.vector
    # Triton 3.6 needs this copy in the loop: see ../triton/arguments.py.
    x = Lines(x.data, x.batch, x.space, x.size, x.groups)
    outputs = sizes.outputs
    columns = CELL * outputs
    column_blocks = tl.cdiv(columns, BLOCK_N)
    n = tl.program_id(0) % column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    block = tl.program_id(0) // column_blocks
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < sizes.rows
    example, t, h, cell = split_row(row, sizes.grid)
    output_line = row // sizes.grid[2]  # Triton 3.6: before the loop, see ../triton/arguments.py
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, KERNEL[0] * KERNEL[1] * LINE, BLOCK_K):
        line, element = split_columns(k, LINE, BLOCK_K)
        elements = window_elements(line, element, x.space, PLAN)
        left = load_windows(x, Cells(row_ok, example, t, h, cell), elements, PLAN)  # [BLOCK_M, BLOCK_K]
        place = (element - PLAN.window.lead)[:, None] - (n // outputs * (STRIDE[2] * INPUTS))[None, :]
        w_ok = (place >= 0) & (place < KERNEL[2] * INPUTS) & (n < columns)[None, :]
        w_ok = w_ok & (line < KERNEL[0] * KERNEL[1])[:, None]
        lines = weight.first + elements.t * weight.taps[0] + elements.h * weight.taps[1]
        weights = lines[:, None] + (n % outputs * weight.output)[None, :]
        weights += place // INPUTS * weight.taps[2] + place % INPUTS * weight.input
        weights = tl.max_contiguous(tl.multiple_of(weights, (1, VECTOR)), (1, VECTOR))
        right = tl.load(weight.data + weights, tl.max_constancy(w_ok, (1, VECTOR)), 0.0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(left, right, acc, input_precision=PLAN.precision)
    if epilogue.bias is not None:
        acc += tl.load(epilogue.bias + n % outputs).to(tl.float32)[None, :]  # [BLOCK_N]
    acc = activate(acc, epilogue.slope, PLAN.activation)
    element = (cell * columns)[:, None] + n[None, :]
    write = row_ok[:, None] & (n < columns)[None, :] & (element < sizes.line)
    tl.store(y + ((output_line * sizes.line)[:, None] + element), acc.to(y.dtype.element_ty), write)


@jit
def grad_few_kernel(x, small, parts, sizes, PLAN: constexpr):
    """A split's share of Σ over cells of small[cell, a] · windows of x[cell, b]. Programs: (column × row block, split).

    Args:
        x: a Lines, the large side, which has few channels.
        small: a Volume of dense lines.
        parts: (splits, cell · outputs, lines · window.line) float32; only elements that a weight needs are written.
        sizes: a GradSizes.
        PLAN: a FewPlan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    BLOCK_K: constexpr = PLAN.block_k
    CELL: constexpr = PLAN.cell
    KERNEL: constexpr = PLAN.kernel
    STRIDE: constexpr = PLAN.stride
    LINE: constexpr = PLAN.window.line
    LINES: constexpr = KERNEL[0] * KERNEL[1]
    # Triton 3.6 needs these copies in the loop: see ../triton/arguments.py.
    x = Lines(x.data, x.batch, x.space, x.size, x.groups)
    small = Volume(small.data, small.batch, small.space, small.size)
    grid = (sizes.grid[0], sizes.grid[1], sizes.grid[2])
    inputs = sizes.inputs
    outputs = sizes.outputs
    row_blocks = tl.cdiv(CELL * outputs, BLOCK_M)
    m = tl.program_id(0) % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    line, element = split_columns(tl.program_id(0) // row_blocks * BLOCK_N, LINE, BLOCK_N)
    split = tl.program_id(1)
    if PLAN.wide:
        split = split.to(tl.int64)
    start = split * sizes.share
    elements = window_elements(line, element, x.space, PLAN)
    row = start + tl.arange(0, BLOCK_K)
    example, t, h, cell = split_row(row, grid)
    # The digits of BLOCK_K are added to cells, because divisions in the loop take longer than the products.
    more_example, more_t, more_h, more_cell = split_row(tl.zeros((BLOCK_K,), row.dtype) + BLOCK_K, grid)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(start, tl.minimum(start + sizes.share, sizes.rows), BLOCK_K):
        row_ok = row < sizes.rows
        along = (cell * (CELL * outputs))[:, None] + m[None, :]
        at = (example * small.batch + t * small.space[0] + h * small.space[1])[:, None] + along
        read = row_ok[:, None] & (m < CELL * outputs)[None, :] & (along < sizes.line)
        left = tl.load(small.data + at, read, 0.0)  # [BLOCK_K, BLOCK_M]
        right = load_windows(x, Cells(row_ok, example, t, h, cell), elements, PLAN)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(tl.trans(left), right, acc, input_precision=PLAN.precision)
        row += BLOCK_K
        cell, over = carry(cell + more_cell, grid[2])
        h, over = carry(h + more_h + over, grid[1])
        t, over = carry(t + more_t + over, grid[0])
        example += more_example + over
    place = (element - PLAN.window.lead)[None, :] - (m // outputs)[:, None] * (STRIDE[2] * inputs)
    write = (m < CELL * outputs)[:, None] & elements.ok[None, :] & (place >= 0) & (place < KERNEL[2] * inputs)
    to = m[:, None] * (LINES * LINE) + (line * LINE + element)[None, :]
    tl.store(parts + split * sizes.part_size + to, acc, write)


@jit
def fold_parts_kernel(parts, grad, sizes, PLAN: constexpr, BLOCK_P: constexpr, BLOCK: constexpr):
    """Add up the parts that grad_few_kernel wrote, over splits and places in a cell. Programs: (block of elements).

    Args:
        parts: as grad_few_kernel's.
        grad: (outputs, taps, inputs), or (inputs, taps backwards, outputs) with PLAN.flip.
        sizes: a FoldSizes.
        PLAN: a FoldPlan.
        BLOCK_P: parts that are added at once.
        BLOCK: elements of the gradient.
    """
    KERNEL: constexpr = PLAN.kernel
    TAPS: constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    LINE: constexpr = PLAN.line
    inputs = sizes.inputs
    outputs = sizes.outputs
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if PLAN.flip:
        a = i % outputs
        tap = TAPS - 1 - i // outputs % TAPS
        b = i // (outputs * TAPS)
    else:
        b = i % inputs
        tap = i // inputs % TAPS
        a = i // (inputs * TAPS)
    at = a * (KERNEL[0] * KERNEL[1] * LINE) + tap // KERNEL[2] * LINE + PLAN.lead + tap % KERNEL[2] * inputs + b
    total = tl.zeros((BLOCK,), tl.float32)
    for from_ in range(0, sizes.terms, BLOCK_P):
        p = from_ + tl.arange(0, BLOCK_P)
        place = p % PLAN.cell
        shift = place * (outputs * (KERNEL[0] * KERNEL[1] * LINE) + PLAN.stride[2] * inputs)
        start = (p // PLAN.cell).to(tl.int64) * sizes.part_size + shift
        read = (p < sizes.terms)[:, None] & (i < sizes.size)[None, :]
        total += tl.sum(tl.load(parts + start[:, None] + at[None, :], read, 0.0), 0)  # [BLOCK_P, BLOCK]
    tl.store(grad + i, total.to(grad.dtype.element_ty), i < sizes.size)
