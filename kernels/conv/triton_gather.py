"""Device code of convolutions and transposed convolutions: matrix products whose rows are gathered in the loop.

Row m of the product is one output position, column n is one output channel, and the sum is over kernel taps and input
channels. A convolution reads position o·stride - padding + j·dilation. A transposed convolution is a dense convolution
of stride 1 for each of the stride³ phases of its output, so no inserted zeros are multiplied: phase p has the taps for
which p + padding - j·dilation is divisible by the stride. In both, the tap with index a in its dimension is

    j = first + a · step        and reads        q · scale + offset + a · shift

of output position q (of the phase). The geometry is constant at compile time; sizes and strides are not. Tuples have
one value per dimension: depth, height, width.
"""

import triton.language as tl

from ..triton.arguments import Columns, Prologue, Rows, Taps
from ..triton.jit import constexpr, jit
from ..triton.math import activate, merge_rows


@jit
def find_taps(phase, DIM: constexpr, GEOMETRY: constexpr):
    """The first tap of a phase in one dimension, the number of its taps, and the offset that the first one reads."""
    KERNEL: constexpr = GEOMETRY.kernel[DIM]
    STRIDE: constexpr = GEOMETRY.stride[DIM]
    PADDING: constexpr = GEOMETRY.padding[DIM]
    DILATION: constexpr = GEOMETRY.dilation[DIM]
    STEP: constexpr = GEOMETRY.step[DIM]
    first = 0
    count = KERNEL
    offset = -PADDING
    if GEOMETRY.up:
        first = KERNEL  # if no tap fits
        for back in tl.static_range(STEP):
            tap = STEP - 1 - back
            first = tl.where((phase + PADDING - tap * DILATION) % STRIDE == 0, tap, first)
        if STEP == STRIDE and KERNEL % STEP == 0:
            count = KERNEL // STEP  # in every phase; as a constant it spares the loop its divisions
        else:
            count = (tl.maximum(KERNEL - first, 0) + STEP - 1) // STEP
        offset = (phase + PADDING - first * DILATION) // STRIDE
    return first, count, offset


@jit
def find_all_taps(phase, GEOMETRY: constexpr):
    """The taps of a phase, (depth, height, width)."""
    first_t, count_t, offset_t = find_taps(phase[0], 0, GEOMETRY)
    first_h, count_h, offset_h = find_taps(phase[1], 1, GEOMETRY)
    first_v, count_v, offset_v = find_taps(phase[2], 2, GEOMETRY)
    return Taps((first_t, first_h, first_v), (count_t, count_h, count_v), (offset_t, offset_h, offset_v))


@jit
def is_inside(t, h, v, size):
    """Whether positions lie inside a tensor of that size (depth, height, width)."""
    return (t >= 0) & (t < size[0]) & (h >= 0) & (h < size[1]) & (v >= 0) & (v < size[2])


@jit
def normalise(x, read, prologue, channel, channel_ok, PLAN: constexpr):
    """Normalise and activate x; 0 where nothing was read, since the padding follows the norm."""
    if PLAN.norm:
        a = tl.load(prologue.scale + channel, channel_ok, 0.0)  # [BLOCK_K]
        b = tl.load(prologue.shift + channel, channel_ok, 0.0)  # [BLOCK_K]
        z = activate(x.to(tl.float32) * a[None, :] + b[None, :], prologue.slope, PLAN.in_activation)
        x = tl.where(read, z, 0.0).to(x.dtype)
    return x


@jit
def load_box(columns, number, channel, PLAN: constexpr):
    """Load the weights of one tap by the copy engine, (BLOCK_K, BLOCK_N)."""
    BLOCK_N: constexpr = PLAN.block_n
    BLOCK_K: constexpr = PLAN.block_k
    if PLAN.deep:
        box = columns.descriptor.load([columns.first, number, channel])  # [BLOCK_N, 1, BLOCK_K]
        return tl.trans(tl.reshape(box, (BLOCK_N, BLOCK_K)))
    else:
        box = columns.descriptor.load([channel, number, columns.first])  # [BLOCK_K, 1, BLOCK_N]
        return tl.reshape(box, (BLOCK_K, BLOCK_N))


@jit
def add_products(acc, x, rows, columns, taps, prologue, PLAN: constexpr):
    """Add the products of all taps to acc (BLOCK_M, BLOCK_N), a block of BLOCK_K input channels at a time.

    A descriptor is of (columns, taps, input channels) if PLAN.deep, else of (input channels, taps, columns).
    """
    BLOCK_K: constexpr = PLAN.block_k
    STEP: constexpr = PLAN.geometry.step
    SHIFT: constexpr = PLAN.geometry.shift
    KERNEL: constexpr = PLAN.geometry.kernel
    blocks = tl.cdiv(columns.inputs, BLOCK_K)
    for k in range(0, taps.number[0] * taps.number[1] * taps.number[2] * blocks):
        tap = k // blocks
        c = tap % taps.number[2]
        b = (tap // taps.number[2]) % taps.number[1]
        a = tap // (taps.number[2] * taps.number[1])
        t = rows.place[0] + (taps.offset[0] + a * SHIFT[0])
        h = rows.place[1] + (taps.offset[1] + b * SHIFT[1])
        v = rows.place[2] + (taps.offset[2] + c * SHIFT[2])
        read = rows.ok & is_inside(t, h, v, x.size)
        channel = (k % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        channel_ok = channel < columns.inputs
        at = x.data + (rows.base + t * x.space[0] + h * x.space[1] + v * x.space[2])
        tap_t = taps.first[0] + a * STEP[0]
        tap_h = taps.first[1] + b * STEP[1]
        tap_v = taps.first[2] + c * STEP[2]
        if PLAN.even:
            x_ok = read[:, None]
            w_ok = columns.ok[None, :]
        else:
            x_ok = read[:, None] & channel_ok[None, :]
            w_ok = columns.ok[None, :] & channel_ok[:, None]
        left = tl.load(at[:, None] + channel[None, :], x_ok, 0.0)  # [BLOCK_M, BLOCK_K]
        if columns.descriptor is not None:
            number = (tap_t * KERNEL[1] + tap_h) * KERNEL[2] + tap_v
            right = load_box(columns, number, k % blocks * BLOCK_K, PLAN)  # [BLOCK_K, BLOCK_N]
        else:
            weights = columns.data + (tap_t * columns.taps[0] + tap_h * columns.taps[1] + tap_v * columns.taps[2])
            at_w = columns.at[None, :] + channel[:, None] * columns.input
            right = tl.load(weights + at_w, w_ok, 0.0)  # [BLOCK_K, BLOCK_N]
        left = normalise(left, x_ok, prologue, channel, channel_ok, PLAN)
        acc = tl.dot(left, right, acc, input_precision=PLAN.precision)
    return acc


@jit
def add_flat_products(acc, x, rows, columns, taps, prologue, PLAN: constexpr):
    """As `add_products`, for few input channels: taps and channels are one dimension, so BLOCK_K spans several taps."""
    BLOCK_K: constexpr = PLAN.block_k
    STEP: constexpr = PLAN.geometry.step
    SHIFT: constexpr = PLAN.geometry.shift
    terms = taps.number[0] * taps.number[1] * taps.number[2] * columns.inputs
    for k in range(0, tl.cdiv(terms, BLOCK_K)):
        term = k * BLOCK_K + tl.arange(0, BLOCK_K)
        term_ok = term < terms
        channel = term % columns.inputs
        tap = term // columns.inputs
        c = tap % taps.number[2]
        b = (tap // taps.number[2]) % taps.number[1]
        a = tap // (taps.number[2] * taps.number[1])
        t = rows.place[0][:, None] + (taps.offset[0] + a * SHIFT[0])[None, :]
        h = rows.place[1][:, None] + (taps.offset[1] + b * SHIFT[1])[None, :]
        v = rows.place[2][:, None] + (taps.offset[2] + c * SHIFT[2])[None, :]
        read = rows.ok[:, None] & term_ok[None, :] & is_inside(t, h, v, x.size)
        values = rows.base[:, None] + t * x.space[0] + h * x.space[1] + v * x.space[2] + channel[None, :]
        tap_t = taps.first[0] + a * STEP[0]
        tap_h = taps.first[1] + b * STEP[1]
        tap_v = taps.first[2] + c * STEP[2]
        weights = channel * columns.input + tap_t * columns.taps[0] + tap_h * columns.taps[1] + tap_v * columns.taps[2]
        left = tl.load(x.data + values, read, 0.0)  # [BLOCK_M, BLOCK_K]
        w_ok = columns.ok[None, :] & term_ok[:, None]
        right = tl.load(columns.data + weights[:, None] + columns.at[None, :], w_ok, 0.0)  # [BLOCK_K, BLOCK_N]
        left = normalise(left, read, prologue, channel, term_ok, PLAN)
        acc = tl.dot(left, right, acc, input_precision=PLAN.precision)
    return acc


@jit
def find_tap(position, DIM: constexpr, GEOMETRY: constexpr):
    """The tap at a distance of `position` in one dimension, and whether there is one."""
    DILATION: constexpr = GEOMETRY.dilation[DIM]
    KERNEL: constexpr = GEOMETRY.kernel[DIM]
    tap = position // DILATION
    return tap, (position >= 0) & (position % DILATION == 0) & (tap < KERNEL)


@jit
def add_merged_products(acc, x, rows, columns, phase, prologue, PLAN: constexpr):
    """As `add_products`, for a transposed convolution of few output channels, with its phases side by side in columns.

    An input value is read once for each of the `reach` neighbours at its low side, not once per tap. An infinity
    makes all phases of these neighbours NaN, also those that no tap reaches, because it is multiplied by zeros there.
    phase: one tensor (BLOCK_N,) per dimension, the phase of each column.
    """
    BLOCK_K: constexpr = PLAN.block_k
    STRIDE: constexpr = PLAN.geometry.stride
    PADDING: constexpr = PLAN.geometry.padding
    LOW: constexpr = PLAN.geometry.low
    GEOMETRY: constexpr = PLAN.geometry
    REACH: constexpr = PLAN.geometry.reach
    blocks = tl.cdiv(columns.inputs, BLOCK_K)
    for k in range(0, REACH[0] * REACH[1] * REACH[2] * blocks):
        neighbour = k // blocks
        c = neighbour % REACH[2] + LOW[2]
        b = (neighbour // REACH[2]) % REACH[1] + LOW[1]
        a = neighbour // (REACH[2] * REACH[1]) + LOW[0]
        t = rows.place[0] + a
        h = rows.place[1] + b
        v = rows.place[2] + c
        read = rows.ok & is_inside(t, h, v, x.size)
        channel = (k % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        channel_ok = channel < columns.inputs
        tap_t, t_ok = find_tap(phase[0] + PADDING[0] - a * STRIDE[0], 0, GEOMETRY)
        tap_h, h_ok = find_tap(phase[1] + PADDING[1] - b * STRIDE[1], 1, GEOMETRY)
        tap_v, v_ok = find_tap(phase[2] + PADDING[2] - c * STRIDE[2], 2, GEOMETRY)
        weights = columns.at + tap_t * columns.taps[0] + tap_h * columns.taps[1] + tap_v * columns.taps[2]
        x_ok = read[:, None]
        w_ok = (columns.ok & t_ok & h_ok & v_ok)[None, :]
        if not PLAN.even:
            x_ok = x_ok & channel_ok[None, :]
            w_ok = w_ok & channel_ok[:, None]
        at = x.data + (rows.base + t * x.space[0] + h * x.space[1] + v * x.space[2])
        left = tl.load(at[:, None] + channel[None, :], x_ok, 0.0)  # [BLOCK_M, BLOCK_K]
        right = tl.load(
            columns.data + (weights[None, :] + channel[:, None] * columns.input), w_ok, 0.0
        )  # [BLOCK_K, BLOCK_N]
        left = normalise(left, x_ok, prologue, channel, channel_ok, PLAN)
        acc = tl.dot(left, right, acc, input_precision=PLAN.precision)
    return acc


@jit
def split_row(row, grid):
    """A row's example and its position (depth, height, width) on a grid of that size."""
    v = row % grid[2]
    row = row // grid[2]
    h = row % grid[1]
    row = row // grid[1]
    return row // grid[0], row % grid[0], h, v


@jit
def write_statistics(acc, present, parts, part, channel, column_ok, channels, is_first):
    """Write the statistics of each channel over the tile's rows that are present (BLOCK_M, 1).

    The program that `is_first` of its part writes the count.
    """
    count, mean, m2 = merge_rows(acc, present)
    to = part.to(tl.int64) * channels + channel
    tl.store(parts.means + to, mean, column_ok)
    tl.store(parts.m2s + to, m2, column_ok)
    if is_first:
        tl.store(parts.counts + part + tl.zeros((1,), tl.int32), count)


@jit
def gather_kernel(x, prologue, weight, descriptor, y, epilogue, sizes, PLAN: constexpr):
    """activation(conv(in_activation(x · scale + shift)) + bias), and its statistics before the activation.

    Programs: (row block × phase × column block, group), column blocks fastest, so that programs that read the same rows
    run side by side.

    Args:
        x: a Volume, the input.
        prologue: a Prologue, applied to x.
        weight: a Weight.
        descriptor: of the weight, where the copy engine loads it, else None.
        y: a Volume, the output.
        epilogue: an Epilogue; its parts are those of each row block and phase.
        sizes: a Product.
        PLAN: a Plan.
    """
    BLOCK_M: constexpr = PLAN.block_m
    BLOCK_N: constexpr = PLAN.block_n
    GEOMETRY: constexpr = PLAN.geometry
    UP: constexpr = GEOMETRY.up
    STRIDE: constexpr = GEOMETRY.stride
    MERGED: constexpr = PLAN.merged
    PHASES: constexpr = STRIDE[0] * STRIDE[1] * STRIDE[2] if UP and not MERGED else 1
    inputs = sizes.inputs
    outputs = sizes.outputs
    group = tl.program_id(1)
    columns = outputs
    if MERGED:
        columns = outputs * STRIDE[0] * STRIDE[1] * STRIDE[2]
    column_blocks = tl.cdiv(columns, BLOCK_N)
    part = tl.program_id(0) // column_blocks
    column_block = tl.program_id(0) % column_blocks
    number = part % PHASES
    n = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = n < columns
    if MERGED:
        number = n // outputs
        n = n % outputs
    phase = (number // (STRIDE[1] * STRIDE[2]), number // STRIDE[2] % STRIDE[1], number % STRIDE[2])
    block = part // PHASES
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < sizes.rows
    example, t, h, v = split_row(row, sizes.grid)

    base = example * x.batch + group * inputs
    at = group * weight.group + n * weight.output
    first = column_block * BLOCK_N
    of = Columns(weight.data, descriptor, at, column_ok, first, inputs, weight.input, weight.taps)
    if PLAN.norm:
        prologue = Prologue(prologue.scale + group * inputs, prologue.shift + group * inputs, prologue.slope)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if MERGED:
        acc = add_merged_products(acc, x, Rows(base, (t, h, v), row_ok), of, phase, prologue, PLAN)
    else:
        taps = find_all_taps(phase, GEOMETRY)
        place = (t, h, v)
        if not UP:
            place = (t * STRIDE[0], h * STRIDE[1], v * STRIDE[2])
        if PLAN.flat:
            acc = add_flat_products(acc, x, Rows(base, place, row_ok), of, taps, prologue, PLAN)
        else:
            acc = add_products(acc, x, Rows(base, place, row_ok), of, taps, prologue, PLAN)

    channel = group * outputs + n
    if epilogue.bias is not None:
        acc += tl.load(epilogue.bias + channel, column_ok, 0.0).to(tl.float32)[None, :]  # [BLOCK_N]
    row_ok = row_ok[:, None]
    t = t[:, None]
    h = h[:, None]
    v = v[:, None]
    if UP:
        if MERGED:
            phase = (phase[0][None, :], phase[1][None, :], phase[2][None, :])
        t = t * STRIDE[0] + phase[0]
        h = h * STRIDE[1] + phase[1]
        v = v * STRIDE[2] + phase[2]
        row_ok = row_ok & (t < y.size[0]) & (h < y.size[1]) & (v < y.size[2])
    if PLAN.statistics:
        # Statistics are those of the values as stored, which the next norm reads.
        acc = acc.to(y.data.dtype.element_ty).to(tl.float32)
        is_first = (column_block == 0) & (group == 0)
        channels = outputs * tl.num_programs(1)
        write_statistics(acc, row_ok, epilogue, part, channel, column_ok, channels, is_first)
    acc = activate(acc, epilogue.slope, PLAN.activation)
    to = (example * y.batch)[:, None] + t * y.space[0] + h * y.space[1] + v * y.space[2] + channel[None, :]
    tl.store(y.data + to, acc.to(y.data.dtype.element_ty), row_ok & column_ok[None, :])
