"""The guards in Triton: one program each."""

import torch
import triton
import triton.language as tl

from ..triton.support import on_its_device


@triton.jit
def check_norms_kernel(norms, loss, found, in_a_row, norm, count, BLOCK: tl.constexpr):
    """The norm of `count` norms, and 1 or 0 for whether that or the loss is not finite."""
    i = tl.arange(0, BLOCK)
    each = tl.load(norms + i, i < count, 0.0)  # [BLOCK]
    total = tl.sqrt(tl.sum(each * each, 0))
    tl.store(norm, total)
    both = (total + tl.load(loss)) * 0.0
    tl.store(found, tl.where(both == 0.0, 0.0, 1.0))
    if in_a_row is not None:
        tl.store(in_a_row, tl.where(both == 0.0, 0, tl.load(in_a_row) + 1))


@triton.jit
def add_finite_kernel(values, totals, count, BLOCK: tl.constexpr):
    """Sums of finite values, and their number."""
    i = tl.arange(0, BLOCK)
    ok = i < count
    value = tl.load(values + i, ok, 0.0)  # [BLOCK]
    finite = value * 0.0 == 0.0
    tl.store(totals + i, tl.load(totals + i, ok, 0.0) + tl.where(finite, value, 0.0), ok)
    tl.store(totals + count + i, tl.load(totals + count + i, ok, 0.0) + finite.to(tl.float32), ok)


@on_its_device
def check_norms(norms, loss, found, in_a_row):
    """The norm (); `found` becomes 1 where it or the loss is not finite."""
    norm = torch.empty_like(found)
    block = triton.next_power_of_2(max(norms.numel(), 1))
    check_norms_kernel[(1,)](norms.contiguous(), loss, found, in_a_row, norm, norms.numel(), BLOCK=block)
    return norm


@on_its_device
def add_finite(values, totals):
    """Add the finite values to totals[0], and their number to totals[1]."""
    add_finite_kernel[(1,)](values, totals, values.numel(), BLOCK=triton.next_power_of_2(values.numel()))
