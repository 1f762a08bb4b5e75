"""The device code of batch normalisation and activation.

x is rows of channels: row r = (example, position). With LAST a row's channels lie side by side, at r·C + c; otherwise
positions do, at (example·C + c)·space + position. Every program takes a block of channels and, of the reductions, a
share of the rows, of which it leaves one part; triton_parts joins those.
"""

import triton
import triton.language as tl

from ..triton.math import activate, merge_tile, slope_at


@triton.jit
def address(row, channel, channels, space, LAST: tl.constexpr, WIDE: tl.constexpr):
    """(R, C) offsets of the elements of some rows and channels."""
    if WIDE:
        row = row.to(tl.int64)
        channel = channel.to(tl.int64)
    if LAST:
        return row[:, None] * channels + channel[None, :]
    example = row // space
    return (example * channels * space + row % space)[:, None] + channel[None, :] * space


@triton.jit
def own_share(rows, share, channels, WIDE: tl.constexpr, BC: tl.constexpr):
    """Of a program of (channel block, part): its channels, its part, and the rows from which to which that goes."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    part = tl.program_id(1)
    if WIDE:
        part = part.to(tl.int64)
    start = part * share
    return c, c < channels, part, start, tl.minimum(start + share, rows)


@triton.jit
def own_tile(rows, channels, space, LAST: tl.constexpr, WIDE: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Of a program of row block × channel block, these fastest: its channels, and where its elements are."""
    blocks = tl.cdiv(channels, BC)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)
    c_ok = c < channels
    block = tl.program_id(0) // blocks
    if WIDE:
        block = block.to(tl.int64)
    row = block * BR + tl.arange(0, BR)
    return c, c_ok, address(row, c, channels, space, LAST, WIDE), (row < rows)[:, None] & c_ok[None, :]


@triton.jit
def statistics(x, counts, means, m2s, rows, share, channels, space, LAST: tl.constexpr, WIDE: tl.constexpr,
               BR: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """One pass: count, mean and squared deviations of each channel. Programs: (channel block, part)."""
    c, c_ok, part, start, end = own_share(rows, share, channels, WIDE, BC)
    # Each element of the tile has its own statistics until the end: a loop without a word between threads.
    count = tl.zeros((BR, 1), tl.float32)
    mean = tl.zeros((BR, BC), tl.float32)
    m2 = tl.zeros((BR, BC), tl.float32)
    for first in range(start, end, BR):
        row = first + tl.arange(0, BR)
        row_ok = (row < end)[:, None]
        values = tl.load(x + address(row, c, channels, space, LAST, WIDE), row_ok & c_ok[None, :], 0.0).to(tl.float32)
        count += row_ok.to(tl.float32)
        delta = tl.where(row_ok, values - mean, 0.0)
        mean += delta / tl.maximum(count, 1.0)
        m2 += delta * (values - mean)
    count, mean, m2 = merge_tile(count, mean, m2)
    tl.store(means + part * channels + c, mean, c_ok)
    tl.store(m2s + part * channels + c, m2, c_ok)
    if tl.program_id(0) == 0:
        tl.store(counts + part, tl.max(count, 0))


@triton.jit
def affine(weight, bias, mean, var, eps, c, c_ok):
    """Mean, 1/√(var + eps), weight and bias of some channels."""
    m = tl.load(mean + c, c_ok, 0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.load(var + c, c_ok, 1.0).to(tl.float32) + eps)
    w = tl.full(m.shape, 1.0, tl.float32)
    b = tl.zeros(m.shape, tl.float32)
    if weight is not None:
        w = tl.load(weight + c, c_ok, 1.0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + c, c_ok, 0.0).to(tl.float32)
    return m, inverse, w, b


@triton.jit
def forward(x, y, weight, bias, mean, var, rows, channels, space, eps, slope, ACTIVATION: tl.constexpr,
            LAST: tl.constexpr, WIDE: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, residual=None):  # fmt: skip
    """y = activation((x - mean) / √(var + eps) · weight + bias + residual).

    Programs: row block × channel block, these fastest.
    """
    c, c_ok, at, ok = own_tile(rows, channels, space, LAST, WIDE, BR, BC)
    m, inverse, w, b = affine(weight, bias, mean, var, eps, c, c_ok)
    values = tl.load(x + at, ok, 0.0).to(tl.float32)
    z = (values - m[None, :]) * (inverse * w)[None, :] + b[None, :]
    if residual is not None:
        z += tl.load(residual + at, ok, 0.0).to(tl.float32)
    tl.store(y + at, activate(z, slope, ACTIVATION).to(y.dtype.element_ty), ok)


@triton.jit
def before_activation(dy, x, residual, at, ok, m, inverse, w, b, slope, ACTIVATION: tl.constexpr):
    """The gradient before the activation, computed again from x, and the normalised x."""
    d = tl.load(dy + at, ok, 0.0).to(tl.float32)
    normalised = (tl.load(x + at, ok, 0.0).to(tl.float32) - m[None, :]) * inverse[None, :]
    z = normalised * w[None, :] + b[None, :]
    if residual is not None:
        z += tl.load(residual + at, ok, 0.0).to(tl.float32)
    return d * slope_at(z, slope, ACTIVATION), normalised


@triton.jit
def backward_sums(dy, x, parts, weight, bias, mean, var, rows, share, channels, space, eps, slope,
                  ACTIVATION: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BR: tl.constexpr,
                  BC: tl.constexpr, residual=None, d_residual=None):  # fmt: skip
    """The gradients of weight and bias: parts (P, 2, C); and the residual's, where there is one.

    Programs: (channel block, part).
    """
    c, c_ok, part, start, end = own_share(rows, share, channels, WIDE, BC)
    m, inverse, w, b = affine(weight, bias, mean, var, eps, c, c_ok)
    dw = tl.zeros((BR, BC), tl.float32)
    db = tl.zeros((BR, BC), tl.float32)
    for first in range(start, end, BR):
        row = first + tl.arange(0, BR)
        ok = (row < end)[:, None] & c_ok[None, :]
        at = address(row, c, channels, space, LAST, WIDE)
        dz, normalised = before_activation(dy, x, residual, at, ok, m, inverse, w, b, slope, ACTIVATION)
        if d_residual is not None:
            tl.store(d_residual + at, dz.to(d_residual.dtype.element_ty), ok)
        dw += dz * normalised
        db += dz
    to = parts + part * 2 * channels + c
    tl.store(to, tl.sum(dw, 0), c_ok)
    tl.store(to + channels, tl.sum(db, 0), c_ok)


@triton.jit
def backward(dy, x, dx, weight, bias, mean, var, dweight, dbias, rows, channels, space, eps, slope,
             ACTIVATION: tl.constexpr, TRAINING: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
             BR: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """The gradient of x, in training also through the statistics. Programs: as those of `forward`."""
    c, c_ok, at, ok = own_tile(rows, channels, space, LAST, WIDE, BR, BC)
    m, inverse, w, b = affine(weight, bias, mean, var, eps, c, c_ok)
    dz, normalised = before_activation(dy, x, None, at, ok, m, inverse, w, b, slope, ACTIVATION)
    if TRAINING:
        dw = tl.load(dweight + c, c_ok, 0.0) / rows
        db = tl.load(dbias + c, c_ok, 0.0) / rows
        dz = dz - db[None, :] - normalised * dw[None, :]
    tl.store(dx + at, (dz * (inverse * w)[None, :]).to(dx.dtype.element_ty), ok)
