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
but more of the products are with zeros. Weights are packed for this in each call, by `pack_up_kernel` and
`pack_down_kernel`. Geometry is constant at compile time, sizes and strides are not. Tuples hold one value a dimension:
depth, height, width.
"""

import triton
import triton.language as tl

from ..triton_math import activate
from .triton_gather import inside, loaded, split_row
from .triton_weight_grad import carried


@triton.jit
def pack_up_kernel(w, packed, w_in, w_out, w_stride, inputs, outputs, columns, size, KERNEL: tl.constexpr,
                   STRIDE: tl.constexpr, REACH: tl.constexpr, CELL: tl.constexpr, FLIP: tl.constexpr,
                   DEPTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """packed (columns and more, neighbours, DEPTH), zero where there is no weight. Programs: (block of elements)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    NEIGHBOURS: tl.constexpr = REACH[0] * REACH[1] * (REACH[2] + CELL - 1)
    channel = i % DEPTH
    b_v = i // DEPTH % (REACH[2] + CELL - 1)
    a_h = i // (DEPTH * (REACH[2] + CELL - 1)) % REACH[1]
    a_t = i // (DEPTH * (REACH[2] + CELL - 1) * REACH[1]) % REACH[0]
    n = i // (DEPTH * NEIGHBOURS)
    u = n % (CELL * STRIDE[2] * outputs)
    r = n // (CELL * STRIDE[2] * outputs)
    j_t = r // STRIDE[1] + a_t * STRIDE[0]
    j_h = r % STRIDE[1] + a_h * STRIDE[1]
    j_v = u // outputs % STRIDE[2] + (u // (outputs * STRIDE[2]) - (CELL - 1) + b_v) * STRIDE[2]
    there = (n < columns) & (channel < inputs) & (j_t < KERNEL[0]) & (j_h < KERNEL[1]) & (j_v >= 0) & (j_v < KERNEL[2])
    if FLIP:
        j_t = KERNEL[0] - 1 - j_t
        j_h = KERNEL[1] - 1 - j_h
        j_v = KERNEL[2] - 1 - j_v
    from_ = channel * w_in + u % outputs * w_out + j_t * w_stride[0] + j_h * w_stride[1] + j_v * w_stride[2]
    value = tl.load(w + from_, there & (i < size), 0.0)
    tl.store(packed + i, value.to(packed.dtype.element_ty), i < size)


@triton.jit
def pack_down_kernel(w, packed, w_in, w_out, w_stride, inputs, outputs, columns, size, KERNEL: tl.constexpr,
                     STRIDE: tl.constexpr, CELL: tl.constexpr, LEAD: tl.constexpr, LINE: tl.constexpr,
                     FLIP: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """packed (columns and more, DEPTH), lines of LINE elements, zero where there is no weight."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    line = i % DEPTH // LINE
    n = i // DEPTH
    place = i % DEPTH % LINE - LEAD - n // outputs * STRIDE[2] * inputs
    j_t = line // KERNEL[1]
    j_h = line % KERNEL[1]
    j_v = place // inputs
    there = (n < columns) & (j_t < KERNEL[0]) & (place >= 0) & (j_v < KERNEL[2])
    channel = place % inputs
    if FLIP:
        j_t = KERNEL[0] - 1 - j_t
        j_h = KERNEL[1] - 1 - j_h
        j_v = KERNEL[2] - 1 - j_v
    from_ = channel * w_in + n % outputs * w_out + j_t * w_stride[0] + j_h * w_stride[1] + j_v * w_stride[2]
    value = tl.load(w + from_, there & (i < size), 0.0)
    tl.store(packed + i, value.to(packed.dtype.element_ty), i < size)


@triton.jit
def up_few_kernel(x, packed, bias, scale, shift, y, rows, grid, first, x_size, y_size, x_batch, x_stride, y_batch,
                  y_stride, inputs, outputs, in_slope, slope, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                  REACH: tl.constexpr, CELL: tl.constexpr, DEPTH: tl.constexpr, NORM: tl.constexpr,
                  IN_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
                  PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  BK: tl.constexpr):  # fmt: skip
    """activation(transposed conv(in_activation(x · scale + shift)) + bias). Programs: (row block × column block).

    An infinity in x makes NaN of all outputs of the cells that read it, for some weights there may be zeros.

    Args:
        packed: weights, (columns, neighbours · DEPTH). y: of dense lines, that is widths of channels.
        grid: how many q there are in depth and in height, and how many cells in width. first: the first q of each.
        DEPTH: inputs, rounded up to a multiple of BK.
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

    acc = tl.zeros((BM, BN), tl.float32)
    BLOCKS: tl.constexpr = DEPTH // BK
    for k in range(0, REACH[0] * REACH[1] * ACROSS * BLOCKS):
        neighbour = k // BLOCKS
        i_v = q_v + (CELL - 1 - neighbour % ACROSS)
        i_h = q_h - neighbour // ACROSS % REACH[1]
        i_t = q_t - neighbour // (ACROSS * REACH[1])
        read = (row_ok & inside(i_t, i_h, i_v, x_size))[:, None]
        channel = k % BLOCKS * BK + tl.arange(0, BK)
        channel_ok = channel < inputs
        if not EVEN:
            read = read & channel_ok[None, :]
        at = example * x_batch + i_t * x_stride[0] + i_h * x_stride[1] + i_v * x_stride[2]
        left = tl.load(x + at[:, None] + channel[None, :], read, 0.0)
        weights = n * (REACH[0] * REACH[1] * ACROSS * DEPTH) + k * BK
        right = tl.load(packed + weights[None, :] + tl.arange(0, BK)[:, None])
        left = loaded(left, read, scale, shift, channel, channel_ok, in_slope, NORM, IN_ACTIVATION)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)

    u = n % (CELL * STRIDE[2] * outputs)
    r = n // (CELL * STRIDE[2] * outputs)
    if bias is not None:
        acc += tl.load(bias + u % outputs).to(tl.float32)[None, :]
    acc = activate(acc, slope, ACTIVATION)
    o_t = (q_t * STRIDE[0] - PADDING[0])[:, None] + (r // STRIDE[1])[None, :]
    o_h = (q_h * STRIDE[1] - PADDING[1])[:, None] + (r % STRIDE[1])[None, :]
    element = ((q_v * STRIDE[2] - PADDING[2]) * outputs)[:, None] + u[None, :]
    write = (o_t >= 0) & (o_t < y_size[0]) & (o_h >= 0) & (o_h < y_size[1])
    write = write & (element >= 0) & (element < y_size[2] * outputs) & row_ok[:, None] & (n < columns)[None, :]
    to = (example * y_batch)[:, None] + o_t * y_stride[0] + o_h * y_stride[1] + element
    tl.store(y + to, acc.to(y.dtype.element_ty), write)


@triton.jit
def window_lines(column, batch, stride, KERNEL: tl.constexpr, LINE: tl.constexpr, WINDOW: tl.constexpr,
                 ALIGN: tl.constexpr):  # fmt: skip
    """Of columns (line, element): the line's depth and height, the element's group, whether there is such an element,
    and how far from a row's beginning it lies."""
    line = column // LINE
    element = column % LINE
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
def down_few_kernel(x, packed, bias, y, rows, grid, x_size, groups, x_batch, x_stride, y_line, outputs, slope,
                    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, CELL: tl.constexpr,
                    LINE: tl.constexpr, WINDOW: tl.constexpr, ALIGN: tl.constexpr, STEP: tl.constexpr,
                    FIRST: tl.constexpr, DEPTH: tl.constexpr, ACTIVATION: tl.constexpr, WIDE: tl.constexpr,
                    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """activation(conv(x) + bias). Programs: (row block × column block), column blocks fastest.

    An infinity in x makes NaN of all outputs of the cells that read it.

    Args:
        packed: weights, (columns, DEPTH). y: dense, its lines of y_line elements.
        grid: the output's depth and height, and the cells of its width. groups, x_batch, x_stride: as for `windows`.
        LINE: the columns of the kernel's lines, a power of two of which WINDOW are used.
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
    for k in range(0, DEPTH, BK):
        column = k + tl.arange(0, BK)
        a_t, a_h, group, column_ok, offset = window_lines(column, x_batch, x_stride, KERNEL, LINE, WINDOW, ALIGN)
        left = windows(x, row_ok, example, t, h, cell, a_t, a_h, group, column_ok, offset, x_size, groups, x_batch,
                       x_stride, STRIDE, PADDING, STEP, FIRST, ALIGN)  # fmt: skip
        right = tl.load(packed + (n * DEPTH + k)[None, :] + tl.arange(0, BK)[:, None])
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
    column = tl.program_id(0) // row_blocks * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    if WIDE:
        split = split.to(tl.int64)
    start = split * share
    a_t, a_h, group, column_ok, offset = window_lines(column, x_batch, x_stride, KERNEL, LINE, WINDOW, ALIGN)
    row = start + tl.arange(0, BK)
    example, t, h, cell = split_row(row, grid)
    # Cells are counted on by the digits of BK, for divisions in the loop take longer than the products.
    more_example, more_t, more_h, more_cell = split_row(tl.zeros((BK,), row.dtype) + BK, grid)
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in range(start, tl.minimum(start + share, rows), BK):
        row_ok = row < rows
        element = (cell * (CELL * outputs))[:, None] + m[None, :]
        at = (example * small_batch + t * small_stride[0] + h * small_stride[1])[:, None] + element
        read = row_ok[:, None] & (m < CELL * outputs)[None, :] & (element < small_line)
        left = tl.load(small + at, read, 0.0)
        right = windows(x, row_ok, example, t, h, cell, a_t, a_h, group, column_ok, offset, x_size, groups, x_batch,
                        x_stride, STRIDE, PADDING, STEP, FIRST, ALIGN)  # fmt: skip
        acc = tl.dot(tl.trans(left), right, acc, input_precision=PRECISION)
        row += BK
        cell, over = carried(cell + more_cell, grid[2])
        h, over = carried(h + more_h + over, grid[1])
        t, over = carried(t + more_t + over, grid[0])
        example += more_example + over
    place = (column % LINE)[None, :] - LEAD - (m // outputs)[:, None] * (STRIDE[2] * inputs)
    write = (m < CELL * outputs)[:, None] & column_ok[None, :] & (place >= 0) & (place < KERNEL[2] * inputs)
    to = m[:, None] * (LINES * LINE) + column[None, :]
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
