"""The device code of the weight gradient: for each kernel tap a matrix product that sums over all positions.

    grad[a, j, b] = Σ over n, i of small[n, i, a] · large[n, i·stride - padding + j·dilation, b]

Rows are the small side's channels, columns the large side's; of few of these, columns are taps and channels together.
The sum can be split over programs, each of which writes its share to a part of its own.
"""

import triton
import triton.language as tl

from .triton_gather import inside, split_row


@triton.jit
def tap_places(tap, KERNEL: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr):
    """How far from i·stride a tap reads, one value a dimension."""
    c = tap % KERNEL[2]
    b = tap // KERNEL[2] % KERNEL[1]
    a = tap // (KERNEL[2] * KERNEL[1])
    return a * DILATION[0] - PADDING[0], b * DILATION[1] - PADDING[1], c * DILATION[2] - PADDING[2]


@triton.jit
def carried(digit, base):
    """A digit below twice its base, and what is carried to the next."""
    over = digit >= base
    return tl.where(over, digit - base, digit), over.to(tl.int32)


@triton.jit
def weight_grad(large, small, grad, total, share, part_size, grid, size, large_batch, large_stride, small_batch,
                small_stride, inputs, outputs, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                DILATION: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, TMA: tl.constexpr,
                PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Programs: (group × tap or, flat, group × row block × column block, split), column blocks fastest.

    With TMA small is a descriptor of (positions, channels), which takes positions of 32 bits: not WIDE.

    grad: (splits, outputs · groups, taps, inputs). total: positions of the small side, which has the size `grid`, of
    all examples; share: those of one split, a multiple of BK. size: the large side's. inputs, outputs: a group's.
    """
    TAPS: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    columns = inputs
    if FLAT:
        columns = inputs * TAPS
    column_blocks = tl.cdiv(columns, BN)
    row_blocks = tl.cdiv(outputs, BM)
    column = (tl.program_id(0) % column_blocks) * BN + tl.arange(0, BN)
    first_a = (tl.program_id(0) // column_blocks % row_blocks) * BM
    a = first_a + tl.arange(0, BM)
    group = tl.program_id(0) // (column_blocks * row_blocks)
    tap = 0
    if not FLAT:
        tap = group % TAPS
        group = group // TAPS
    a_ok = a < outputs
    column_ok = column < columns
    b = column
    if FLAT:
        tap = column // inputs
        b = column % inputs
    shift_t, shift_h, shift_v = tap_places(tap, KERNEL, PADDING, DILATION)
    if FLAT:
        shift_t = shift_t[None, :]
        shift_h = shift_h[None, :]
        shift_v = shift_v[None, :]

    split = tl.program_id(1)
    if WIDE:
        split = split.to(tl.int64)
    start = split * share
    acc = tl.zeros((BM, BN), tl.float32)
    row = start + tl.arange(0, BK)
    example, t, h, v = split_row(row, grid)
    # Positions are counted on by the digits of BK, for a division of each in the loop takes longer than the products.
    more_example, more_t, more_h, more_v = split_row(tl.zeros((BK,), row.dtype) + BK, grid)
    for k in range(start, tl.minimum(start + share, total), BK):
        row_ok = row < total
        large_t = (t * STRIDE[0])[:, None] + shift_t
        large_h = (h * STRIDE[1])[:, None] + shift_h
        large_v = (v * STRIDE[2])[:, None] + shift_v
        read = row_ok[:, None] & inside(large_t, large_h, large_v, size)
        right = ((example * large_batch)[:, None] + large_t * large_stride[0] + large_h * large_stride[1]
                 + large_v * large_stride[2] + (group * inputs + b)[None, :])  # fmt: skip
        if TMA:
            values = small.load([k, group * outputs + first_a])
        else:
            left = small + (example * small_batch + t * small_stride[0] + h * small_stride[1] + v * small_stride[2]
                            + group * outputs)  # fmt: skip
            values = tl.load(left[:, None] + a[None, :], row_ok[:, None] & a_ok[None, :], 0.0)
        others = tl.load(large + right, read & column_ok[None, :], 0.0)
        acc = tl.dot(tl.trans(values), others, acc, input_precision=PRECISION)
        row += BK
        v, over = carried(v + more_v, grid[2])
        h, over = carried(h + more_h + over, grid[1])
        t, over = carried(t + more_t + over, grid[0])
        example += more_example + over
    row = group * outputs + a
    if WIDE:
        row = row.to(tl.int64)
    if FLAT:
        to = row[:, None] * columns + column[None, :]
    else:
        to = (row[:, None] * TAPS + tap) * inputs + b[None, :]
    tl.store(grad + split * part_size + to, acc.to(grad.dtype.element_ty), a_ok[:, None] & column_ok[None, :])
