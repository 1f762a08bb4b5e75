"""Merges partial results that programs wrote apart, in a fixed order: without atomics, results are repeatable."""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from ..norm_act.following import Following
from .jit import constexpr, jit
from .math import merge, merge_tile

_AT_ONCE = 512  # parts that one program merges


class Statistics(NamedTuple):
    """Statistics in parts.

    Args:
        counts: (P,) float32, the number of values in each part.
        means: (P, C) float32.
        m2s: (P, C) float32, each part's sum of squared deviations from its own mean.
    """

    counts: Tensor
    means: Tensor
    m2s: Tensor


class Sizes(NamedTuple):
    """Sizes of a merge: the number of parts, the parts that one program merges, and the channels."""

    parts: int
    share: int
    channels: int


class NextNorm(NamedTuple):
    """The batch norm that follows, as `join_parts_kernel` takes it.

    Args:
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        scale: (C,) float32, written.
        shift: (C,) float32, written.
        running_mean: (C,), updated, or None.
        running_var: (C,), updated, or None.
        batches: () int64, counted up, or None.
        eps: added to the variance.
        momentum: weight of the batch in the running statistics.
    """

    weight: Tensor | None
    bias: Tensor | None
    scale: Tensor
    shift: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    eps: float
    momentum: float


@jit
def join_parts_kernel(
    parts, out, sizes, norm, LAST: constexpr, HAS_NORM: constexpr, BLOCK_P: constexpr, BLOCK_C: constexpr
):
    """Merge each `share` parts into one. Programs: (channel block, share).

    Args:
        parts: Statistics.
        out: Statistics of the merged parts; with LAST, the mean and biased variance of all parts, (C,).
        sizes: Sizes.
        norm: a NextNorm, which is applied with LAST, or None.
        LAST: whether one program merges all parts of a channel.
        HAS_NORM: whether `norm` is a NextNorm; Triton 3.6 does not compare a tuple that contains None with None.
        BLOCK_P: parts of a tile.
        BLOCK_C: channels of a tile.
    """
    channels = sizes.channels
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < channels
    start = tl.program_id(1) * sizes.share
    end = tl.minimum(start + sizes.share, sizes.parts)
    count = tl.zeros((BLOCK_C,), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    m2 = tl.zeros((BLOCK_C,), tl.float32)
    for first in range(start, end, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        p_ok = p < end
        at = p.to(tl.int64)[:, None] * channels + c[None, :]
        both = p_ok[:, None] & c_ok[None, :]
        n = tl.load(parts.counts + p, p_ok, 0.0)[:, None]  # [BLOCK_P]
        part_means = tl.load(parts.means + at, both, 0.0)  # [BLOCK_P, BLOCK_C]
        part_m2s = tl.load(parts.m2s + at, both, 0.0)  # [BLOCK_P, BLOCK_C]
        tile_count, tile_mean, tile_m2 = merge_tile(n, part_means, part_m2s)
        count, mean, m2 = merge(count, mean, m2, tile_count, tile_mean, tile_m2)
    if LAST:
        tl.store(out.means + c, mean, c_ok)
        tl.store(out.m2s + c, m2 / count, c_ok)
        if HAS_NORM:
            prepare_norm(c, c_ok, mean, m2, count, norm)
    else:
        to = tl.program_id(1).to(tl.int64) * channels + c
        tl.store(out.means + to, mean, c_ok)
        tl.store(out.m2s + to, m2, c_ok)
        tl.store(out.counts + tl.program_id(1), tl.max(count, 0))


@jit
def prepare_norm(c, c_ok, mean, m2, count, norm):
    """Write a batch norm's scale and shift for channels `c`, and update its running statistics."""
    s = 1.0 / tl.sqrt(m2 / count + norm.eps)
    if norm.weight is not None:
        s *= tl.load(norm.weight + c, c_ok, 1.0).to(tl.float32)  # [BLOCK_C]
    b = -mean * s
    if norm.bias is not None:
        b += tl.load(norm.bias + c, c_ok, 0.0).to(tl.float32)  # [BLOCK_C]
    tl.store(norm.scale + c, s, c_ok)
    tl.store(norm.shift + c, b, c_ok)
    if norm.running_mean is not None:
        old = tl.load(norm.running_mean + c, c_ok, 0.0).to(tl.float32)  # [BLOCK_C]
        new = old + norm.momentum * (mean - old)
        tl.store(norm.running_mean + c, new.to(norm.running_mean.dtype.element_ty), c_ok)
        old = tl.load(norm.running_var + c, c_ok, 0.0).to(tl.float32)  # [BLOCK_C]
        unbiased = m2 / (count - 1.0)
        new = old + norm.momentum * (unbiased - old)
        tl.store(norm.running_var + c, new.to(norm.running_var.dtype.element_ty), c_ok)
    if norm.batches is not None:
        if tl.program_id(0) == 0:
            tl.store(norm.batches, tl.load(norm.batches) + 1)  # []


@jit
def add_parts_kernel(parts, out, other, count, size, BLOCK_P: constexpr, BLOCK: constexpr):
    """out, other (size,) = the sums of parts (count, 1 or 2, size). Programs: (block of elements, first or second)."""
    which = tl.program_id(1)
    row = tl.num_programs(1).to(tl.int64) * size
    parts += which * size
    if which == 1:
        out = other
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        at = p[:, None] * row + i[None, :]
        ok = (p < count)[:, None] & (i < size)[None, :]
        total += tl.sum(tl.load(parts + at, ok, 0.0), 0)  # [BLOCK_P, BLOCK]
    tl.store(out + i, total.to(out.dtype.element_ty), i < size)


def join_parts(
    counts: Tensor, means: Tensor, m2s: Tensor, following: Following | None = None, update: bool = True
) -> tuple[Tensor, ...]:
    """Merge statistics in parts.

    Args:
        counts: (P,) float32, the number of values in each part.
        means: (P, C) float32.
        m2s: (P, C) float32, each part's sum of squared deviations from its own mean.
        following: the batch norm that follows, or None.
        update: whether the running statistics of `following` are updated.

    Returns:
        The mean and biased variance, (C,) float32, and with `following` the scale and shift of its norm, (C,) float32.
    """
    count, channels = means.shape
    blocks = -(-channels // 16)
    parts = Statistics(counts, means, m2s)
    while count > _AT_ONCE:
        fewer = -(-count // _AT_ONCE)
        out = Statistics(
            means.new_empty(fewer), means.new_empty((fewer, channels)), means.new_empty((fewer, channels))
        )  # fmt: skip
        _join(blocks, fewer, parts, out, Sizes(count, _AT_ONCE, channels), None, False)
        parts, count = out, fewer
    made = means.new_empty((4 if following else 2, channels)).unbind()
    norm = None
    if following:
        f = following
        weight, bias = (None if v is None else v.contiguous() for v in (f.weight, f.bias))
        running = (f.running_mean, f.running_var, f.batches) if update else (None, None, None)
        norm = NextNorm(weight, bias, made[2], made[3], *running, f.eps, f.momentum)
    out = Statistics(counts, made[0], made[1])
    _join(blocks, 1, parts, out, Sizes(count, count, channels), norm, True)
    return made


def _join(
    blocks: int, shares: int, parts: Statistics, out: Statistics, sizes: Sizes, norm: NextNorm | None, is_last: bool
) -> None:
    join_parts_kernel[blocks, shares](
        parts, out, sizes, norm, LAST=is_last, HAS_NORM=norm is not None, BLOCK_P=64, BLOCK_C=16, num_warps=4
    )


def add_parts(parts: Tensor, *outs: Tensor) -> None:
    """Add up parts of one or two results.

    Args:
        parts: (P, number of results, elements of a result) float32.
        outs: the results, dense in any layout, of one shape and dtype.
    """
    count, size = parts.shape[0], outs[0].numel()
    together, block = _tile(count, size)
    grid = -(-size // block), len(outs)
    add_parts_kernel[grid](parts, outs[0], outs[-1], count, size, BLOCK_P=together, BLOCK=block, num_warps=4)


def _tile(count: int, size: int) -> tuple[int, int]:
    """The parts and elements that a program of add_parts_kernel loads at once: 2048 values, few of them masked off.

    Many parts of few elements, as a norm leaves them, are loaded more at once: a program's time is its number of waits.
    """
    together = min(1 << max(count - 1, 0).bit_length(), 64 if size > 1024 else 256)
    return together, 2048 // together
