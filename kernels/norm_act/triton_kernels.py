"""Device code of batch normalisation and activation.

x is rows of channels: row r = (example, position). With PLAN.last a row's channels lie side by side, at r·C + c;
otherwise positions do, at (example·C + c)·space + position. Each program takes a block of channels and, in reductions,
a share of the rows, for which it writes one part; triton/parts.py merges these.
"""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.math import activate, merge_tile, slope_at


class Sizes(NamedTuple):
    """Sizes of x: rows, channels, and positions of an example."""

    rows: int
    channels: int
    space: int


class Affine(NamedTuple):
    """A batch norm with an activation.

    Args:
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        mean: (C,).
        var: (C,), biased.
        eps: added to the variance.
        slope: leaky_relu's slope below 0.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float
    slope: float


class Plan(NamedTuple):
    """The compile-time constants of a kernel.

    Args:
        last: whether channels are innermost in x.
        wide: whether offsets need 64 bits.
        block_r: rows of a tile.
        block_c: channels of a tile.
        activation: code of the activation.
        training: whether gradients pass through the statistics.
    """

    last: bool
    wide: bool
    block_r: int
    block_c: int
    activation: int = 0
    training: bool = False


@jit
def offsets(row, channel, sizes, PLAN: constexpr):
    """(BLOCK_R, BLOCK_C) offsets of the elements of rows and channels."""
    if PLAN.wide:
        row = row.to(tl.int64)
        channel = channel.to(tl.int64)
    if PLAN.last:
        return row[:, None] * sizes.channels + channel[None, :]
    example = row // sizes.space
    first = example * sizes.channels * sizes.space + row % sizes.space
    return first[:, None] + channel[None, :] * sizes.space


@jit
def find_share(share, sizes, PLAN: constexpr):
    """A program's channels, its part, and its first and last row, for programs of (channel block, part)."""
    BLOCK_C: constexpr = PLAN.block_c
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.program_id(1)
    if PLAN.wide:
        part = part.to(tl.int64)
    start = part * share
    return c, c < sizes.channels, part, start, tl.minimum(start + share, sizes.rows)


@jit
def find_tile(sizes, PLAN: constexpr):
    """A program's channels and its elements' offsets, for programs of row block × channel block, these fastest."""
    BLOCK_R: constexpr = PLAN.block_r
    BLOCK_C: constexpr = PLAN.block_c
    blocks = tl.cdiv(sizes.channels, BLOCK_C)
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < sizes.channels
    block = tl.program_id(0) // blocks
    if PLAN.wide:
        block = block.to(tl.int64)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    return c, c_ok, offsets(row, c, sizes, PLAN), (row < sizes.rows)[:, None] & c_ok[None, :]


@jit
def statistics_kernel(x, parts, share, sizes, PLAN: constexpr):
    """Count, mean and squared deviations of each channel in one pass. Programs: (channel block, part).

    Args:
        x: rows of channels.
        parts: Statistics, written.
        share: rows of a part.
        sizes: Sizes.
        PLAN: a Plan.
    """
    BLOCK_R: constexpr = PLAN.block_r
    BLOCK_C: constexpr = PLAN.block_c
    c, c_ok, part, start, end = find_share(share, sizes, PLAN)
    # Each element of the tile keeps statistics until the end, so threads exchange nothing in the loop.
    count = tl.zeros((BLOCK_R, 1), tl.float32)
    mean = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(start, end, BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        row_ok = (row < end)[:, None]
        at = x + offsets(row, c, sizes, PLAN)
        values = tl.load(at, row_ok & c_ok[None, :], 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
        count += row_ok.to(tl.float32)
        delta = tl.where(row_ok, values - mean, 0.0)
        mean += delta / tl.maximum(count, 1.0)
        m2 += delta * (values - mean)
    count, mean, m2 = merge_tile(count, mean, m2)
    tl.store(parts.means + part * sizes.channels + c, mean, c_ok)
    tl.store(parts.m2s + part * sizes.channels + c, m2, c_ok)
    if tl.program_id(0) == 0:
        tl.store(parts.counts + part, tl.max(count, 0))


@jit
def load_affine(norm, c, c_ok):
    """Mean, 1/√(var + eps), weight and bias of channels `c`."""
    m = tl.load(norm.mean + c, c_ok, 0.0).to(tl.float32)  # [BLOCK_C]
    inverse = 1.0 / tl.sqrt(tl.load(norm.var + c, c_ok, 1.0).to(tl.float32) + norm.eps)  # [BLOCK_C]
    w = tl.full(m.shape, 1.0, tl.float32)
    b = tl.zeros(m.shape, tl.float32)
    if norm.weight is not None:
        w = tl.load(norm.weight + c, c_ok, 1.0).to(tl.float32)  # [BLOCK_C]
    if norm.bias is not None:
        b = tl.load(norm.bias + c, c_ok, 0.0).to(tl.float32)  # [BLOCK_C]
    return m, inverse, w, b


@jit
def forward_kernel(x, y, residual, norm, sizes, PLAN: constexpr):
    """y = activation((x - mean) / √(var + eps) · weight + bias + residual).

    Programs: row block × channel block, these fastest.
    """
    c, c_ok, at, ok = find_tile(sizes, PLAN)
    m, inverse, w, b = load_affine(norm, c, c_ok)
    values = tl.load(x + at, ok, 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
    z = (values - m[None, :]) * (inverse * w)[None, :] + b[None, :]
    if residual is not None:
        z += tl.load(residual + at, ok, 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
    tl.store(y + at, activate(z, norm.slope, PLAN.activation).to(y.dtype.element_ty), ok)


@jit
def load_gradient(dy, x, residual, at, ok, affine, slope, ACTIVATION: constexpr):
    """The gradient before the activation, recomputed from x, and the normalised x."""
    m, inverse, w, b = affine
    d = tl.load(dy + at, ok, 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
    values = tl.load(x + at, ok, 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
    normalised = (values - m[None, :]) * inverse[None, :]
    z = normalised * w[None, :] + b[None, :]
    if residual is not None:
        z += tl.load(residual + at, ok, 0.0).to(tl.float32)  # [BLOCK_R, BLOCK_C]
    return d * slope_at(z, slope, ACTIVATION), normalised


@jit
def backward_sums_kernel(dy, x, residuals, parts, norm, share, sizes, PLAN: constexpr):
    """The gradients of weight and bias, in parts, and the residual's, where there is one.

    Programs: (channel block, part).

    Args:
        dy: rows of channels.
        x: rows of channels.
        residuals: the residual and its gradient, which is written, or None and None.
        parts: (P, 2, C) float32, written.
        norm: an Affine.
        share: rows of a part.
        sizes: Sizes.
        PLAN: a Plan.
    """
    BLOCK_R: constexpr = PLAN.block_r
    BLOCK_C: constexpr = PLAN.block_c
    residual = residuals[0]
    d_residual = residuals[1]
    channels = sizes.channels
    c, c_ok, part, start, end = find_share(share, sizes, PLAN)
    affine = load_affine(norm, c, c_ok)
    dw = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(start, end, BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        ok = (row < end)[:, None] & c_ok[None, :]
        at = offsets(row, c, sizes, PLAN)
        dz, normalised = load_gradient(dy, x, residual, at, ok, affine, norm.slope, PLAN.activation)
        if d_residual is not None:
            tl.store(d_residual + at, dz.to(d_residual.dtype.element_ty), ok)
        dw += dz * normalised
        db += dz
    to = parts + part * 2 * channels + c
    tl.store(to, tl.sum(dw, 0), c_ok)
    tl.store(to + channels, tl.sum(db, 0), c_ok)


@jit
def backward_kernel(dy, x, dx, norm, sums, sizes, PLAN: constexpr):
    """The gradient of x, in training also through the statistics. Programs: as for `forward_kernel`.

    Args:
        dy: rows of channels.
        x: rows of channels.
        dx: written.
        norm: an Affine.
        sums: the gradients of weight and bias, (C,) float32.
        sizes: Sizes.
        PLAN: a Plan.
    """
    c, c_ok, at, ok = find_tile(sizes, PLAN)
    affine = load_affine(norm, c, c_ok)
    m, inverse, w, b = affine
    dz, normalised = load_gradient(dy, x, None, at, ok, affine, norm.slope, PLAN.activation)
    if PLAN.training:
        dw = tl.load(sums[0] + c, c_ok, 0.0) / sizes.rows  # [BLOCK_C]
        db = tl.load(sums[1] + c, c_ok, 0.0) / sizes.rows  # [BLOCK_C]
        dz = dz - db[None, :] - normalised * dw[None, :]
    tl.store(dx + at, (dz * (inverse * w)[None, :]).to(dx.dtype.element_ty), ok)
