"""Device code of the weight gradient: for each kernel tap a matrix product that sums over all positions.

    grad[a, j, b] = Σ over n, i of small[n, i, a] · large[n, i·stride - padding + j·dilation, b]

Rows are the channels of the small side, columns those of the large side; if these are few, columns are taps and
channels together. The sum can be split over programs, each of which writes its share to a separate part.
"""

import triton.language as tl

from ..triton.jit import constexpr, jit
from .triton_gather import is_inside, split_row


@jit
def find_place(tap, GEOMETRY: constexpr):
    """Offset (depth, height, width) from i·stride at which a tap reads."""
    KERNEL: constexpr = GEOMETRY.kernel
    PADDING: constexpr = GEOMETRY.padding
    DILATION: constexpr = GEOMETRY.dilation
    c = tap % KERNEL[2]
    b = tap // KERNEL[2] % KERNEL[1]
    a = tap // (KERNEL[2] * KERNEL[1])
    return a * DILATION[0] - PADDING[0], b * DILATION[1] - PADDING[1], c * DILATION[2] - PADDING[2]


@jit
def carry(digit, base):
    """A digit below twice its base, reduced to the base, and the carry to the next digit."""
    over = digit >= base
    return tl.where(over, digit - base, digit), over.to(tl.int32)


@jit
def weight_grad_kernel(large, small, descriptor, grad, sizes, PLAN: constexpr):
    """The weight gradient, or a program's share of it.

    Programs: (group × tap or, if PLAN.flat, group × row block × column block, split), column blocks fastest.

    Args:
        large: a Volume, the side that is gathered.
        small: a Volume.
        descriptor: of `small` as (positions, channels), where the copy engine loads it, else None. Its positions have
            32 bits, so PLAN.wide excludes it.
        grad: (splits, outputs · groups, taps, inputs).
        sizes: a Share.
        PLAN: a Plan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    BLOCK_K: constexpr = PLAN.block_k
    GEOMETRY: constexpr = PLAN.geometry
    STRIDE: constexpr = GEOMETRY.stride
    KERNEL: constexpr = GEOMETRY.kernel
    TAPS: constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    inputs = sizes.inputs
    outputs = sizes.outputs
    columns = inputs
    if PLAN.flat:
        columns = inputs * TAPS
    column_blocks = tl.cdiv(columns, BLOCK_N)
    row_blocks = tl.cdiv(outputs, BLOCK_M)
    column = (tl.program_id(0) % column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    first_a = (tl.program_id(0) // column_blocks % row_blocks) * BLOCK_M
    a = first_a + tl.arange(0, BLOCK_M)
    group = tl.program_id(0) // (column_blocks * row_blocks)
    tap = 0
    if not PLAN.flat:
        tap = group % TAPS
        group = group // TAPS
    a_ok = a < outputs
    column_ok = column < columns
    b = column
    if PLAN.flat:
        tap = column // inputs
        b = column % inputs
    shift_t, shift_h, shift_v = find_place(tap, GEOMETRY)
    if PLAN.flat:
        shift_t = shift_t[None, :]
        shift_h = shift_h[None, :]
        shift_v = shift_v[None, :]

    split = tl.program_id(1)
    if PLAN.wide:
        split = split.to(tl.int64)
    start = split * sizes.share
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    row = start + tl.arange(0, BLOCK_K)
    example, t, h, v = split_row(row, small.size)
    # The digits of BLOCK_K are added to positions, because divisions in the loop take longer than the products.
    more_example, more_t, more_h, more_v = split_row(tl.zeros((BLOCK_K,), row.dtype) + BLOCK_K, small.size)
    for k in range(start, tl.minimum(start + sizes.share, sizes.total), BLOCK_K):
        row_ok = row < sizes.total
        large_t = (t * STRIDE[0])[:, None] + shift_t
        large_h = (h * STRIDE[1])[:, None] + shift_h
        large_v = (v * STRIDE[2])[:, None] + shift_v
        read = row_ok[:, None] & is_inside(large_t, large_h, large_v, large.size)
        right = ((example * large.batch)[:, None] + large_t * large.space[0] + large_h * large.space[1]
                 + large_v * large.space[2] + (group * inputs + b)[None, :])  # fmt: skip
        if descriptor is not None:
            values = descriptor.load([k, group * outputs + first_a])  # [BLOCK_K, BLOCK_M]
        else:
            left = small.data + (example * small.batch + t * small.space[0] + h * small.space[1] + v * small.space[2]
                                 + group * outputs)  # fmt: skip
            small_ok = row_ok[:, None] & a_ok[None, :]
            values = tl.load(left[:, None] + a[None, :], small_ok, 0.0)  # [BLOCK_K, BLOCK_M]
        others = tl.load(large.data + right, read & column_ok[None, :], 0.0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(tl.trans(values), others, acc, input_precision=PLAN.precision)
        row += BLOCK_K
        v, over = carry(v + more_v, small.size[2])
        h, over = carry(h + more_h + over, small.size[1])
        t, over = carry(t + more_t + over, small.size[0])
        example += more_example + over
    row = group * outputs + a
    if PLAN.wide:
        row = row.to(tl.int64)
    if PLAN.flat:
        to = row[:, None] * columns + column[None, :]
    else:
        to = (row[:, None] * TAPS + tap) * inputs + b[None, :]
    to_ok = a_ok[:, None] & column_ok[None, :]
    tl.store(grad + split * sizes.part_size + to, acc.to(grad.dtype.element_ty), to_ok)
