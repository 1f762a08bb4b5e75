"""Joins what programs wrote apart, in a fixed order: there are no atomics, so that results can be repeated."""

import torch
import triton
import triton.language as tl

from .triton_math import join, join_tile

_AT_ONCE = 512  # parts that one program joins


@triton.jit
def join_parts(counts, means, m2s, out_counts, out_means, out_m2s, parts, share, channels, LAST: tl.constexpr,
               BP: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """Of each `share` parts one. Programs: (channel block, share). With LAST, of all parts mean and biased variance.

    counts (P,), means and m2s (P, C); a part's m2 is its sum of squared deviations from its own mean.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    c_ok = c < channels
    start = tl.program_id(1) * share
    end = tl.minimum(start + share, parts)
    count = tl.zeros((BC,), tl.float32)
    mean = tl.zeros((BC,), tl.float32)
    m2 = tl.zeros((BC,), tl.float32)
    for first in range(start, end, BP):
        p = first + tl.arange(0, BP)
        p_ok = p < end
        at = p.to(tl.int64)[:, None] * channels + c[None, :]
        both = p_ok[:, None] & c_ok[None, :]
        n = tl.load(counts + p, p_ok, 0.0)[:, None]
        part_means = tl.load(means + at, both, 0.0)
        part_m2s = tl.load(m2s + at, both, 0.0)
        here, mean_here, m2_here = join_tile(n, part_means, part_m2s)
        count, mean, m2 = join(count, mean, m2, here, mean_here, m2_here)
    if LAST:
        tl.store(out_means + c, mean, c_ok)
        tl.store(out_m2s + c, m2 / count, c_ok)
    else:
        to = tl.program_id(1).to(tl.int64) * channels + c
        tl.store(out_means + to, mean, c_ok)
        tl.store(out_m2s + to, m2, c_ok)
        tl.store(out_counts + tl.program_id(1), tl.max(count, 0))


@triton.jit
def add_parts(parts, out, other, count, size, BP: tl.constexpr, BLOCK: tl.constexpr):
    """out, other (size,) = the sums of parts (count, 1 or 2, size). Programs: (block of elements, which of the two)."""
    which = tl.program_id(1)
    row = tl.num_programs(1).to(tl.int64) * size
    parts += which * size
    if which == 1:
        out = other
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BP):
        p = first + tl.arange(0, BP)
        at = p[:, None] * row + i[None, :]
        total += tl.sum(tl.load(parts + at, (p < count)[:, None] & (i < size)[None, :], 0.0), 0)
    tl.store(out + i, total.to(out.dtype.element_ty), i < size)


def joined(counts: torch.Tensor, means: torch.Tensor, m2s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance, (C,) float32, of parts with counts (P,), means (P, C) and squared deviations (P, C)."""
    parts, channels = means.shape
    blocks, options = -(-channels // 16), {"BP": 64, "BC": 16, "num_warps": 4}
    while parts > _AT_ONCE:
        fewer = -(-parts // _AT_ONCE)
        out = means.new_empty(fewer), means.new_empty((fewer, channels)), means.new_empty((fewer, channels))
        join_parts[blocks, fewer](counts, means, m2s, *out, parts, _AT_ONCE, channels, LAST=False, **options)
        (counts, means, m2s), parts = out, fewer
    mean, var = means.new_empty(channels), means.new_empty(channels)
    join_parts[blocks, 1](counts, means, m2s, counts, mean, var, parts, parts, channels, LAST=True, **options)
    return mean, var


def added(parts: torch.Tensor, *outs: torch.Tensor) -> None:
    """One or two outs, dense in any layout and of one size and dtype, = the sums of parts (P, as many, their size)."""
    grid = -(-outs[0].numel() // 32), len(outs)
    add_parts[grid](parts, outs[0], outs[-1], parts.shape[0], outs[0].numel(), BP=64, BLOCK=32, num_warps=4)
