"""The device code of both data-moving convolutions: a matrix product whose rows are gathered while it runs.

Row m of the product is one output position, column n one output channel, and the sum goes over kernel taps and input
channels. A convolution reads position o·stride - padding + j·dilation. A transposed one is a dense convolution of
stride 1 for each of the stride³ phases of its output, so that nothing is multiplied by inserted zeros: of phase p the
taps are those for which p + padding - j·dilation divides by the stride. In both, tap number a of a dimension is

    j = first + a · STEP        and reads        q · SCALE + offset + a · SHIFT

of output position q (of the phase). Geometry is constant at compile time, sizes and strides are not. Tuples hold one
value a dimension: depth, height, width.
"""

import triton
import triton.language as tl

from ..triton.math import activate, join_rows


@triton.jit
def taps_of(phase, UP: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
            DILATION: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """The first tap of a phase, the number of its taps, and where the first one reads."""
    first = 0
    count = KERNEL
    offset = -PADDING
    if UP:
        first = KERNEL  # where no tap fits
        for back in tl.static_range(STEP):
            tap = STEP - 1 - back
            first = tl.where((phase + PADDING - tap * DILATION) % STRIDE == 0, tap, first)
        if STEP == STRIDE and KERNEL % STEP == 0:
            count = KERNEL // STEP  # of every phase; as a constant it spares the loop its divisions
        else:
            count = (tl.maximum(KERNEL - first, 0) + STEP - 1) // STEP
        offset = (phase + PADDING - first * DILATION) // STRIDE
    return first, count, offset


@triton.jit
def inside(t, h, v, size):
    return (t >= 0) & (t < size[0]) & (h >= 0) & (h < size[1]) & (v >= 0) & (v < size[2])


@triton.jit
def loaded(x, read, scale, shift, channel, channel_ok, slope, NORM: tl.constexpr, ACTIVATION: tl.constexpr):
    """x normalised and activated; 0 where nothing was read, for padding is of what the norm gives."""
    if NORM:
        a = tl.load(scale + channel, channel_ok, 0.0)
        b = tl.load(shift + channel, channel_ok, 0.0)
        z = activate(x.to(tl.float32) * a[None, :] + b[None, :], slope, ACTIVATION)
        x = tl.where(read, z, 0.0).to(x.dtype)
    return x


@triton.jit
def products(acc, x, base, place, row_ok, size, stride, w, column, column_ok, w_in, w_stride, inputs, first, count,
             offset, scale, shift, slope, STEP: tl.constexpr, SHIFT: tl.constexpr, NORM: tl.constexpr,
             ACTIVATION: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
             TMA: tl.constexpr = False, DEEP: tl.constexpr = False, KERNEL: tl.constexpr = None,
             w_column=0):  # fmt: skip
    """acc (BM, BN) and the products of all taps, a block of BK input channels at a time.

    base: (BM,) where each row's example begins in x. place: its position, times SCALE. column: (BN,) where the weights
    of each column begin. EVEN: inputs is a multiple of BK. With TMA w is a descriptor, of (columns, taps,
    input channels) where DEEP and of (input channels, taps, columns) otherwise, with this product's from w_column on.
    """
    blocks = tl.cdiv(inputs, BK)
    for k in range(0, count[0] * count[1] * count[2] * blocks):
        tap = k // blocks
        c = tap % count[2]
        b = (tap // count[2]) % count[1]
        a = tap // (count[2] * count[1])
        t = place[0] + (offset[0] + a * SHIFT[0])
        h = place[1] + (offset[1] + b * SHIFT[1])
        v = place[2] + (offset[2] + c * SHIFT[2])
        read = row_ok & inside(t, h, v, size)
        channel = (k % blocks) * BK + tl.arange(0, BK)
        channel_ok = channel < inputs
        rows = x + (base + t * stride[0] + h * stride[1] + v * stride[2])
        tap_t = first[0] + a * STEP[0]
        tap_h = first[1] + b * STEP[1]
        tap_v = first[2] + c * STEP[2]
        if EVEN:
            x_ok = read[:, None]
            w_ok = column_ok[None, :]
        else:
            x_ok = read[:, None] & channel_ok[None, :]
            w_ok = column_ok[None, :] & channel_ok[:, None]
        left = tl.load(rows[:, None] + channel[None, :], x_ok, 0.0)
        if TMA:
            number = (tap_t * KERNEL[1] + tap_h) * KERNEL[2] + tap_v
            if DEEP:
                right = tl.trans(tl.reshape(w.load([w_column, number, k % blocks * BK]), (acc.shape[1], BK)))
            else:
                right = tl.reshape(w.load([k % blocks * BK, number, w_column]), (BK, acc.shape[1]))
        else:
            weights = w + (tap_t * w_stride[0] + tap_h * w_stride[1] + tap_v * w_stride[2])
            right = tl.load(weights + (column[None, :] + channel[:, None] * w_in), w_ok, 0.0)
        left = loaded(left, x_ok, scale, shift, channel, channel_ok, slope, NORM, ACTIVATION)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc


@triton.jit
def flat_products(acc, x, base, place, row_ok, size, stride, w, column, column_ok, w_in, w_stride, inputs, first, count,
                  offset, scale, shift, slope, STEP: tl.constexpr, SHIFT: tl.constexpr, NORM: tl.constexpr,
                  ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """As `products`, of few input channels: taps and channels lie in one dimension, so that BK holds several taps."""
    terms = count[0] * count[1] * count[2] * inputs
    for k in range(0, tl.cdiv(terms, BK)):
        term = k * BK + tl.arange(0, BK)
        term_ok = term < terms
        channel = term % inputs
        tap = term // inputs
        c = tap % count[2]
        b = (tap // count[2]) % count[1]
        a = tap // (count[2] * count[1])
        t = place[0][:, None] + (offset[0] + a * SHIFT[0])[None, :]
        h = place[1][:, None] + (offset[1] + b * SHIFT[1])[None, :]
        v = place[2][:, None] + (offset[2] + c * SHIFT[2])[None, :]
        read = row_ok[:, None] & term_ok[None, :] & inside(t, h, v, size)
        values = base[:, None] + t * stride[0] + h * stride[1] + v * stride[2] + channel[None, :]
        weights = (channel * w_in + (first[0] + a * STEP[0]) * w_stride[0] + (first[1] + b * STEP[1]) * w_stride[1]
                   + (first[2] + c * STEP[2]) * w_stride[2])  # fmt: skip
        left = tl.load(x + values, read, 0.0)
        right = tl.load(w + weights[:, None] + column[None, :], column_ok[None, :] & term_ok[:, None], 0.0)
        left = loaded(left, read, scale, shift, channel, term_ok, slope, NORM, ACTIVATION)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc


@triton.jit
def tap_of(position, KERNEL: tl.constexpr, DILATION: tl.constexpr):
    """Which tap is `position` steps away, and whether there is one."""
    tap = position // DILATION
    return tap, (position >= 0) & (position % DILATION == 0) & (tap < KERNEL)


@triton.jit
def merged_products(acc, x, base, place, row_ok, size, stride, w, column, column_ok, phase, w_in, w_stride, inputs,
                    scale, shift, slope, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                    DILATION: tl.constexpr, LOW: tl.constexpr, REACH: tl.constexpr, NORM: tl.constexpr,
                    ACTIVATION: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
                    BK: tl.constexpr):  # fmt: skip
    """As `products`, of a transposed convolution of few output channels, with the phases side by side in the columns.

    An input value is then read once for each of the REACH neighbours it has at the low side, not once for each tap. An
    infinity makes NaN of all phases of those, also where no tap reaches it, for it is multiplied by zeros there.
    phase: (BN,) of each column, one tensor a dimension. LOW: where the first neighbour is.
    """
    blocks = tl.cdiv(inputs, BK)
    for k in range(0, REACH[0] * REACH[1] * REACH[2] * blocks):
        neighbour = k // blocks
        c = neighbour % REACH[2] + LOW[2]
        b = (neighbour // REACH[2]) % REACH[1] + LOW[1]
        a = neighbour // (REACH[2] * REACH[1]) + LOW[0]
        t = place[0] + a
        h = place[1] + b
        v = place[2] + c
        read = row_ok & inside(t, h, v, size)
        channel = (k % blocks) * BK + tl.arange(0, BK)
        channel_ok = channel < inputs
        tap_t, t_ok = tap_of(phase[0] + PADDING[0] - a * STRIDE[0], KERNEL[0], DILATION[0])
        tap_h, h_ok = tap_of(phase[1] + PADDING[1] - b * STRIDE[1], KERNEL[1], DILATION[1])
        tap_v, v_ok = tap_of(phase[2] + PADDING[2] - c * STRIDE[2], KERNEL[2], DILATION[2])
        weights = column + tap_t * w_stride[0] + tap_h * w_stride[1] + tap_v * w_stride[2]
        x_ok = read[:, None]
        w_ok = (column_ok & t_ok & h_ok & v_ok)[None, :]
        if not EVEN:
            x_ok = x_ok & channel_ok[None, :]
            w_ok = w_ok & channel_ok[:, None]
        rows = x + (base + t * stride[0] + h * stride[1] + v * stride[2])
        left = tl.load(rows[:, None] + channel[None, :], x_ok, 0.0)
        right = tl.load(w + (weights[None, :] + channel[:, None] * w_in), w_ok, 0.0)
        left = loaded(left, x_ok, scale, shift, channel, channel_ok, slope, NORM, ACTIVATION)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc


@triton.jit
def split_row(row, grid):
    """A row's example and position (depth, height, width) on a grid of that size."""
    v = row % grid[2]
    row = row // grid[2]
    h = row % grid[1]
    row = row // grid[1]
    return row // grid[0], row % grid[0], h, v


@triton.jit
def write_statistics(acc, present, counts, means, m2s, part, channel, column_ok, first, channels):
    """Of the tile's rows that are present (BM, 1), and of each channel; the count is written by the `first` program."""
    here, mean, m2 = join_rows(acc, present)
    to = part.to(tl.int64) * channels + channel
    tl.store(means + to, mean, column_ok)
    tl.store(m2s + to, m2, column_ok)
    if first:
        tl.store(counts + part + tl.zeros((1,), tl.int32), here)


@triton.jit
def gather(x, w, bias, scale, shift, y, counts, means, m2s, rows, grid, x_size, y_size, x_batch, x_stride, y_batch,
           y_stride, w_group, w_out, w_in, w_stride, inputs, outputs, in_slope, slope,
           UP: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
           STEP: tl.constexpr, SHIFT: tl.constexpr, LOW: tl.constexpr, REACH: tl.constexpr, NORM: tl.constexpr,
           IN_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr, STATISTICS: tl.constexpr, FLAT: tl.constexpr,
           MERGED: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, TMA: tl.constexpr, DEEP: tl.constexpr,
           PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """activation(conv(in_activation(x · scale + shift)) + bias), and its statistics before the activation.

    Programs: (row block × phase × column block, group), column blocks fastest, so that programs that read the same rows
    run side by side. `grid` is the output's size, divided by the stride where it has phases; `inputs` and `outputs`
    are a group's. Channels are innermost in x and y. counts (P,), means and m2s (P, all outputs) of block and phase.
    """
    PHASES: tl.constexpr = STRIDE[0] * STRIDE[1] * STRIDE[2] if UP and not MERGED else 1
    group = tl.program_id(1)
    columns = outputs
    if MERGED:
        columns = outputs * STRIDE[0] * STRIDE[1] * STRIDE[2]
    column_blocks = tl.cdiv(columns, BN)
    part = tl.program_id(0) // column_blocks
    column_block = tl.program_id(0) % column_blocks
    number = part % PHASES
    n = column_block * BN + tl.arange(0, BN)
    column_ok = n < columns
    if MERGED:
        number = n // outputs
        n = n % outputs
    phase = (number // (STRIDE[1] * STRIDE[2]), number // STRIDE[2] % STRIDE[1], number % STRIDE[2])
    block = part // PHASES
    if WIDE:
        block = block.to(tl.int64)
    row = block * BM + tl.arange(0, BM)
    row_ok = row < rows
    example, t, h, v = split_row(row, grid)

    base = example * x_batch + group * inputs
    column = group * w_group + n * w_out
    if NORM:
        scale += group * inputs
        shift += group * inputs
    acc = tl.zeros((BM, BN), tl.float32)
    if MERGED:
        acc = merged_products(acc, x, base, (t, h, v), row_ok, x_size, x_stride, w, column, column_ok, phase, w_in,
                              w_stride, inputs, scale, shift, in_slope, KERNEL, STRIDE, PADDING, DILATION, LOW, REACH,
                              NORM, IN_ACTIVATION, EVEN, PRECISION, BK)  # fmt: skip
    else:
        first_t, count_t, offset_t = taps_of(phase[0], UP, KERNEL[0], STRIDE[0], PADDING[0], DILATION[0], STEP[0])
        first_h, count_h, offset_h = taps_of(phase[1], UP, KERNEL[1], STRIDE[1], PADDING[1], DILATION[1], STEP[1])
        first_v, count_v, offset_v = taps_of(phase[2], UP, KERNEL[2], STRIDE[2], PADDING[2], DILATION[2], STEP[2])
        first = (first_t, first_h, first_v)
        count = (count_t, count_h, count_v)
        offset = (offset_t, offset_h, offset_v)
        place = (t, h, v)
        if not UP:
            place = (t * STRIDE[0], h * STRIDE[1], v * STRIDE[2])
        if FLAT:
            acc = flat_products(acc, x, base, place, row_ok, x_size, x_stride, w, column, column_ok, w_in, w_stride,
                                inputs, first, count, offset, scale, shift, in_slope, STEP, SHIFT, NORM, IN_ACTIVATION,
                                PRECISION, BK)  # fmt: skip
        else:
            acc = products(acc, x, base, place, row_ok, x_size, x_stride, w, column, column_ok, w_in, w_stride, inputs,
                           first, count, offset, scale, shift, in_slope, STEP, SHIFT, NORM, IN_ACTIVATION, EVEN,
                           PRECISION, BK, TMA, DEEP, KERNEL, column_block * BN)  # fmt: skip

    channel = group * outputs + n
    if bias is not None:
        acc += tl.load(bias + channel, column_ok, 0.0).to(tl.float32)[None, :]
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
        row_ok = row_ok & (t < y_size[0]) & (h < y_size[1]) & (v < y_size[2])
    if STATISTICS:
        # Of the values as they are stored, for those are what the next norm sees.
        acc = acc.to(y.dtype.element_ty).to(tl.float32)
        write_statistics(acc, row_ok, counts, means, m2s, part, channel, column_ok, (column_block == 0) & (group == 0),
                         outputs * tl.num_programs(1))  # fmt: skip
    acc = activate(acc, slope, ACTIVATION)
    to = (example * y_batch)[:, None] + t * y_stride[0] + h * y_stride[1] + v * y_stride[2] + channel[None, :]
    tl.store(y + to, acc.to(y.dtype.element_ty), row_ok & column_ok[None, :])
