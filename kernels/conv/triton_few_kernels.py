"""The device code of convolutions with few channels on one side: 3 of a video, 1 of a score.

One matrix product each, whose other sides are wide enough for tensor cores, and which reads each value a few times:

- `up_few_kernel` writes few channels. With q = (o + padding) // stride and r = (o + padding) % stride all outputs of
  one q, whatever their r, read the same inputs q - a, a < ⌈kernel / stride⌉. So a row is q, and the columns are what is
  written there: the remainders r and the channels.
- `down_few_kernel` reads few channels. Those of neighbouring positions lie side by side in memory, so that what an
  output position reads is one short window for each of the kernel's lines (depth × height). A row is a position, and
  the sum goes over the lines and the elements of their windows.
- `grad_few_kernel` is the weight gradient of both: the sum over positions of windows times the other side's channels.

A row stands for a cell of CELL positions side by side in width. Their windows overlap, so that fewer values are loaded,
but more of the products are with zeros. Geometry is constant at compile time, sizes and strides are not. Tuples hold
one value a dimension: depth, height, width.
"""

import triton
import triton.language as tl

from ..triton.math import activate
from .triton_gather import inside, loaded, split_row
from .triton_weight_grad import carried


@triton.jit
def up_few_kernel(x, w, bias, scale, shift, y, rows, grid, first, x_size, y_size, x_batch, x_stride, y_batch, y_stride,
                  w_first, w_in, w_out, w_stride, inputs, outputs, in_slope, slope, KERNEL: tl.constexpr,
                  STRIDE: tl.constexpr, PADDING: tl.constexpr, REACH: tl.constexpr, CELL: tl.constexpr,
                  NORM: tl.constexpr, IN_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr, EVEN: tl.constexpr,
                  WIDE: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  BK: tl.constexpr):  # fmt: skip
    """activation(transposed conv(in_activation(x · scale + shift)) + bias). Programs: (row block × column block).

    An infinity in x makes NaN of all outputs of the cells that read it, for some weights there may be zeros.

    Args:
        y: of dense lines, that is widths of channels. w: begins at w_first, from where strides may be negative.
        grid: how many q there are in depth and in height, and how many cells in width. first: the first q of each.
        EVEN: inputs is a multiple of BK.
    """
    ACROSS: tl.constexpr = REACH[2] + CELL - 1
    columns = STRIDE[0] * STRIDE[1] * STRIDE[2] * CELL * outputs
    column_blocks = tl.cdiv(columns, BN)
    n = tl.program_id(0) % column_blocks * BN + tl.arange(0, BN)
    block = tl.program_id(0) // column_blocks
    if WIDE:
        block = block.to(tl.int64)
    row = block * BM + tl.arange(0, BM)
    row_ok = row < rows
    example, t, h, cell = split_row(row, grid)
    q_t = t + first[0]
    q_h = h + first[1]
    q_v = cell * CELL + first[2]
    # Columns are (remainders in depth and in height, element of the line).
    u = n % (CELL * STRIDE[2] * outputs)
    r = n // (CELL * STRIDE[2] * outputs)
    r_t = r // STRIDE[1]
    r_h = r % STRIDE[1]
    j_v = u // outputs - (CELL - 1) * STRIDE[2]  # the tap of neighbour 0

    acc = tl.zeros((BM, BN), tl.float32)
    blocks = tl.cdiv(inputs, BK)
    for k in range(0, REACH[0] * REACH[1] * ACROSS * blocks):
        neighbour = k // blocks
        across = neighbour % ACROSS
        i_v = q_v + (CELL - 1 - across)
        i_h = q_h - neighbour // ACROSS % REACH[1]
        i_t = q_t - neighbour // (ACROSS * REACH[1])
        channel = k % blocks * BK + tl.arange(0, BK)
        channel_ok = channel < inputs
        tap_t = r_t + neighbour // (ACROSS * REACH[1]) * STRIDE[0]
        tap_h = r_h + neighbour // ACROSS % REACH[1] * STRIDE[1]
        tap_v = j_v + across * STRIDE[2]
        there = (n < columns) & (tap_t < KERNEL[0]) & (tap_h < KERNEL[1]) & (tap_v >= 0) & (tap_v < KERNEL[2])
        read = (row_ok & inside(i_t, i_h, i_v, x_size))[:, None]
        w_ok = there[None, :]
        if not EVEN:
            read = read & channel_ok[None, :]
            w_ok = w_ok & channel_ok[:, None]
        at = example * x_batch + i_t * x_stride[0] + i_h * x_stride[1] + i_v * x_stride[2]
        left = tl.load(x + at[:, None] + channel[None, :], read, 0.0)
        weights = w_first + u % outputs * w_out + tap_t * w_stride[0] + tap_h * w_stride[1] + tap_v * w_stride[2]
        right = tl.load(w + (weights[None, :] + channel[:, None] * w_in), w_ok, 0.0)
        left = loaded(left, read, scale, shift, channel, channel_ok, in_slope, NORM, IN_ACTIVATION)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)

    if bias is not None:
        acc += tl.load(bias + u % outputs).to(tl.float32)[None, :]
    acc = activate(acc, slope, ACTIVATION)
    begin_t = q_t * STRIDE[0] - PADDING[0]
    begin_h = q_h * STRIDE[1] - PADDING[1]
    begin = (q_v * STRIDE[2] - PADDING[2]) * outputs
    o_t = begin_t[:, None] + r_t[None, :]
    o_h = begin_h[:, None] + r_h[None, :]
    element = begin[:, None] + u[None, :]
    write = (o_t >= 0) & (o_t < y_size[0]) & (o_h >= 0) & (o_h < y_size[1])
    write = write & (element >= 0) & (element < y_size[2] * outputs) & row_ok[:, None] & (n < columns)[None, :]
    to = example * y_batch + begin_t * y_stride[0] + begin_h * y_stride[1] + begin
    to = to[:, None] + (r_t * y_stride[0] + r_h * y_stride[1] + u)[None, :]
    tl.store(y + to, acc.to(y.dtype.element_ty), write)


@triton.jit
def lines_of(first, LINE: tl.constexpr, COUNT: tl.constexpr):
    """COUNT columns from `first` on, a multiple of COUNT: their lines and elements. Elements of whole lines are the
    same for every `first`, and so is what a loop computes of them."""
    if COUNT % LINE == 0:
        return first // LINE + tl.arange(0, COUNT) // LINE, tl.arange(0, COUNT) % LINE
    else:
        return first // LINE + tl.zeros((COUNT,), tl.int32), first % LINE + tl.arange(0, COUNT)


@triton.jit
def window_columns(line, element, stride, KERNEL: tl.constexpr, WINDOW: tl.constexpr, ALIGN: tl.constexpr):
    """Of columns their line's depth and height, their element's group, whether there is such an element, and how far
    from a row's beginning it lies."""
    a_t = line // KERNEL[1]
    a_h = line % KERNEL[1]
    there = (line < KERNEL[0] * KERNEL[1]) & (element < WINDOW)
    return a_t, a_h, element // ALIGN, there, (a_t * stride[0] + a_h * stride[1]) * ALIGN + element


@triton.jit
def windows(x, row_ok, example, t, h, cell, a_t, a_h, group, column_ok, offset, size, groups, batch, stride,
            STRIDE: tl.constexpr, PADDING: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
            ALIGN: tl.constexpr):  # fmt: skip
    """What rows (cells) read in columns (lines and elements), of which ALIGN at a time are inside or outside together.

    batch, stride: of x, in groups of ALIGN elements, which tells Triton that so many can be loaded at once. groups: of
    a line of x. STEP, FIRST: groups from one cell to the next, and before the first one.
    """
    i_t = t * STRIDE[0] - PADDING[0]
    i_h = h * STRIDE[1] - PADDING[1]
    begin = cell * STEP + FIRST
    here_t = i_t[:, None] + a_t[None, :]
    here_h = i_h[:, None] + a_h[None, :]
    here_v = begin[:, None] + group[None, :]
    read = (here_t >= 0) & (here_t < size[0]) & (here_h >= 0) & (here_h < size[1]) & (here_v >= 0) & (here_v < groups)
    read = read & row_ok[:, None] & column_ok[None, :]
    base = (example * batch + i_t * stride[0] + i_h * stride[1] + begin) * ALIGN
    at = tl.max_contiguous(tl.multiple_of(base[:, None] + offset[None, :], (1, ALIGN)), (1, ALIGN))
    return tl.load(x + at, tl.max_constancy(read, (1, ALIGN)), 0.0)


@triton.jit
def down_few_kernel(x, w, bias, y, rows, grid, x_size, groups, x_batch, x_stride, y_line, w_first, w_in, w_out,
                    w_stride, outputs, slope, INPUTS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
                    PADDING: tl.constexpr, CELL: tl.constexpr, LEAD: tl.constexpr, LINE: tl.constexpr,
                    WINDOW: tl.constexpr, ALIGN: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
                    VECTOR: tl.constexpr, ACTIVATION: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
                    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """activation(conv(x) + bias). Programs: (row block × column block), column blocks fastest.

    An infinity in x makes NaN of all outputs of the cells that read it.

    Args:
        y: dense, its lines of y_line elements. w: begins at w_first, from where strides may be negative.
        grid: the output's depth and height, and the cells of its width. groups, x_batch, x_stride: as for `windows`.
        LINE: the columns of the kernel's lines, a power of two of which WINDOW are used, the first LEAD with zeros.
        VECTOR: so many outputs at a time lie side by side in w.
    """
    columns = CELL * outputs
    column_blocks = tl.cdiv(columns, BN)
    n = tl.program_id(0) % column_blocks * BN + tl.arange(0, BN)
    block = tl.program_id(0) // column_blocks
    if WIDE:
        block = block.to(tl.int64)
    row = block * BM + tl.arange(0, BM)
    row_ok = row < rows
    example, t, h, cell = split_row(row, grid)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, KERNEL[0] * KERNEL[1] * LINE, BK):
        line, element = lines_of(k, LINE, BK)
        a_t, a_h, group, column_ok, offset = window_columns(line, element, x_stride, KERNEL, WINDOW, ALIGN)
        left = windows(x, row_ok, example, t, h, cell, a_t, a_h, group, column_ok, offset, x_size, groups, x_batch,
                       x_stride, STRIDE, PADDING, STEP, FIRST, ALIGN)  # fmt: skip
        place = (element - LEAD)[:, None] - (n // outputs * (STRIDE[2] * INPUTS))[None, :]
        w_ok = (place >= 0) & (place < KERNEL[2] * INPUTS) & (n < columns)[None, :]
        w_ok = w_ok & (line < KERNEL[0] * KERNEL[1])[:, None]
        weights = (w_first + a_t * w_stride[0] + a_h * w_stride[1])[:, None] + (n % outputs * w_out)[None, :]
        weights += place // INPUTS * w_stride[2] + place % INPUTS * w_in
        weights = tl.max_contiguous(tl.multiple_of(weights, (1, VECTOR)), (1, VECTOR))
        right = tl.load(w + weights, tl.max_constancy(w_ok, (1, VECTOR)), 0.0)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    if bias is not None:
        acc += tl.load(bias + n % outputs).to(tl.float32)[None, :]
    acc = activate(acc, slope, ACTIVATION)
    element = (cell * columns)[:, None] + n[None, :]
    write = row_ok[:, None] & (n < columns)[None, :] & (element < y_line)
    line = (example * grid[0] + t) * grid[1] + h
    tl.store(y + ((line * y_line)[:, None] + element), acc.to(y.dtype.element_ty), write)


@triton.jit
def grad_few_kernel(x, small, parts, rows, share, grid, x_size, groups, x_batch, x_stride, small_batch, small_stride,
                    small_line, outputs, part_size, inputs, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
                    PADDING: tl.constexpr, CELL: tl.constexpr, LINE: tl.constexpr, WINDOW: tl.constexpr,
                    ALIGN: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, LEAD: tl.constexpr,
                    WIDE: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                    BK: tl.constexpr):  # fmt: skip
    """A split's share of Σ over cells of small[cell, a] · windows of x[cell, b]. Programs: (column × row block, split).

    Args:
        x: the large side, of few channels; small: the other one, of dense lines of small_line elements.
        parts: (splits, CELL · outputs, lines · LINE) float32, of which only what a weight takes part in is written.
        rows: cells in all; share: those of one split, a multiple of BK. grid: of small, in cells.
    """
    LINES: tl.constexpr = KERNEL[0] * KERNEL[1]
    row_blocks = tl.cdiv(CELL * outputs, BM)
    m = tl.program_id(0) % row_blocks * BM + tl.arange(0, BM)
    line, element = lines_of(tl.program_id(0) // row_blocks * BN, LINE, BN)
    split = tl.program_id(1)
    if WIDE:
        split = split.to(tl.int64)
    start = split * share
    a_t, a_h, group, column_ok, offset = window_columns(line, element, x_stride, KERNEL, WINDOW, ALIGN)
    row = start + tl.arange(0, BK)
    example, t, h, cell = split_row(row, grid)
    # Cells are counted on by the digits of BK, for divisions in the loop take longer than the products.
    more_example, more_t, more_h, more_cell = split_row(tl.zeros((BK,), row.dtype) + BK, grid)
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in range(start, tl.minimum(start + share, rows), BK):
        row_ok = row < rows
        along = (cell * (CELL * outputs))[:, None] + m[None, :]
        at = (example * small_batch + t * small_stride[0] + h * small_stride[1])[:, None] + along
        read = row_ok[:, None] & (m < CELL * outputs)[None, :] & (along < small_line)
        left = tl.load(small + at, read, 0.0)
        right = windows(x, row_ok, example, t, h, cell, a_t, a_h, group, column_ok, offset, x_size, groups, x_batch,
                        x_stride, STRIDE, PADDING, STEP, FIRST, ALIGN)  # fmt: skip
        acc = tl.dot(tl.trans(left), right, acc, input_precision=PRECISION)
        row += BK
        cell, over = carried(cell + more_cell, grid[2])
        h, over = carried(h + more_h + over, grid[1])
        t, over = carried(t + more_t + over, grid[0])
        example += more_example + over
    place = (element - LEAD)[None, :] - (m // outputs)[:, None] * (STRIDE[2] * inputs)
    write = (m < CELL * outputs)[:, None] & column_ok[None, :] & (place >= 0) & (place < KERNEL[2] * inputs)
    to = m[:, None] * (LINES * LINE) + (line * LINE + element)[None, :]
    tl.store(parts + split * part_size + to, acc, write)


@triton.jit
def fold_parts_kernel(parts, grad, count, part_size, size, outputs, inputs, KERNEL: tl.constexpr,
                      STRIDE: tl.constexpr, CELL: tl.constexpr, LINE: tl.constexpr, LEAD: tl.constexpr,
                      FLIP: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """grad (size,) = the sums of what grad_few_kernel left, over splits and places in a cell, `count` in all.

    grad is (outputs, taps, inputs); where FLIP it is (inputs, taps backwards, outputs). Programs: (block of elements).
    """
    TAPS: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if FLIP:
        a = i % outputs
        tap = TAPS - 1 - i // outputs % TAPS
        b = i // (outputs * TAPS)
    else:
        b = i % inputs
        tap = i // inputs % TAPS
        a = i // (inputs * TAPS)
    at = a * (KERNEL[0] * KERNEL[1] * LINE) + tap // KERNEL[2] * LINE + LEAD + tap % KERNEL[2] * inputs + b
    total = tl.zeros((BLOCK,), tl.float32)
    for from_ in range(0, count, BP):
        p = from_ + tl.arange(0, BP)
        place = p % CELL
        shift = place * (outputs * (KERNEL[0] * KERNEL[1] * LINE) + STRIDE[2] * inputs)
        start = (p // CELL).to(tl.int64) * part_size + shift
        read = (p < count)[:, None] & (i < size)[None, :]
        total += tl.sum(tl.load(parts + start[:, None] + at[None, :], read, 0.0), 0)
    tl.store(grad + i, total.to(grad.dtype.element_ty), i < size)
