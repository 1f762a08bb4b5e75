"""Joins what programs wrote apart, in a fixed order: there are no atomics, so that results can be repeated."""

import torch
import triton
import triton.language as tl

from ..norm_act.following import Following
from .math import join, join_tile

_AT_ONCE = 512  # parts that one program joins


@triton.jit
def join_parts(counts, means, m2s, out_counts, out_means, out_m2s, parts, share, channels, weight, bias, scale, shift,
               running_mean, running_var, batches, eps, momentum, LAST: tl.constexpr, FOLLOWED: tl.constexpr,
               BP: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """Of each `share` parts one. Programs: (channel block, share). With LAST, of all parts mean and biased variance.

    counts (P,), means and m2s (P, C); a part's m2 is its sum of squared deviations from its own mean. With FOLLOWED
    also what a batch norm makes of these: scale and shift, and its running statistics, where they are given.
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
        if FOLLOWED:
            follow(
                c, c_ok, mean, m2, count, weight, bias, scale, shift, running_mean, running_var, batches, eps, momentum
            )
    else:
        to = tl.program_id(1).to(tl.int64) * channels + c
        tl.store(out_means + to, mean, c_ok)
        tl.store(out_m2s + to, m2, c_ok)
        tl.store(out_counts + tl.program_id(1), tl.max(count, 0))


@triton.jit
def follow(c, c_ok, mean, m2, count, weight, bias, scale, shift, running_mean, running_var, batches, eps, momentum):
    """What a batch norm in training does with the statistics of some channels."""
    s = 1.0 / tl.sqrt(m2 / count + eps)
    if weight is not None:
        s *= tl.load(weight + c, c_ok, 1.0).to(tl.float32)
    b = -mean * s
    if bias is not None:
        b += tl.load(bias + c, c_ok, 0.0).to(tl.float32)
    tl.store(scale + c, s, c_ok)
    tl.store(shift + c, b, c_ok)
    if running_mean is not None:
        old = tl.load(running_mean + c, c_ok, 0.0).to(tl.float32)
        tl.store(running_mean + c, (old + momentum * (mean - old)).to(running_mean.dtype.element_ty), c_ok)
        old = tl.load(running_var + c, c_ok, 0.0).to(tl.float32)
        unbiased = m2 / (count - 1.0)
        tl.store(running_var + c, (old + momentum * (unbiased - old)).to(running_var.dtype.element_ty), c_ok)
    if batches is not None:
        if tl.program_id(0) == 0:
            tl.store(batches, tl.load(batches) + 1)


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


def joined(
    counts: torch.Tensor,
    means: torch.Tensor,
    m2s: torch.Tensor,
    following: Following | None = None,
    update: bool = True,
) -> tuple[torch.Tensor, ...]:
    """Mean and biased variance, (C,) float32, of parts with counts (P,), means (P, C) and squared deviations (P, C).

    With `following` also the scale and shift that a batch norm makes of them, (C,) float32, and with `update` its
    running statistics are updated.
    """
    parts, channels = means.shape
    blocks, options = -(-channels // 16), {"BP": 64, "BC": 16, "num_warps": 4}
    none = (None,) * 7
    while parts > _AT_ONCE:
        fewer = -(-parts // _AT_ONCE)
        out = means.new_empty(fewer), means.new_empty((fewer, channels)), means.new_empty((fewer, channels))
        sizes = parts, _AT_ONCE, channels
        join_parts[blocks, fewer](
            counts, means, m2s, *out, *sizes, *none, 0.0, 0.0, LAST=False, FOLLOWED=False, **options
        )
        (counts, means, m2s), parts = out, fewer
    made = means.new_empty((4 if following else 2, channels)).unbind()
    vectors, eps, momentum = none, 0.0, 0.0
    if following:
        f = following
        running = (f.running_mean, f.running_var, f.batches) if update else none[:3]
        affine = (None if v is None else v.contiguous() for v in (f.weight, f.bias))
        vectors, eps, momentum = (*affine, *made[2:], *running), f.eps, f.momentum
    join_parts[blocks, 1](
        counts, means, m2s, counts, *made[:2], parts, parts, channels, *vectors, eps, momentum,
        LAST=True, FOLLOWED=following is not None, **options,
    )  # fmt: skip
    return made


def added(parts: torch.Tensor, *outs: torch.Tensor) -> None:
    """One or two outs, dense in any layout and of one size and dtype, = the sums of parts (P, as many, their size)."""
    count, size = parts.shape[0], outs[0].numel()
    together, block = _tile(count, size)
    grid = -(-size // block), len(outs)
    add_parts[grid](parts, outs[0], outs[-1], count, size, BP=together, BLOCK=block, num_warps=4)


def _tile(count: int, size: int) -> tuple[int, int]:
    """How many parts and elements a program of add_parts loads at once: 2048 values, as few as can be masked off.

    Of many parts of few elements, as a norm leaves them, more at once: it is how often a program waits that takes time.
    """
    together = min(1 << max(count - 1, 0).bit_length(), 64 if size > 1024 else 256)
    return together, 2048 // together
