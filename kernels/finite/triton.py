"""The guards against non-finite values in Triton, with one program each."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.support import on_its_device


@jit
def check_norms_kernel(norms, loss, found, in_a_row, norm, count, BLOCK: constexpr):
    """The norm of `count` norms, and 1 if it or the loss is not finite, else 0."""
    i = tl.arange(0, BLOCK)
    each = tl.load(norms + i, i < count, 0.0)  # [BLOCK]
    total = tl.sqrt(tl.sum(each * each, 0))
    tl.store(norm, total)
    both = (total + tl.load(loss)) * 0.0
    tl.store(found, tl.where(both == 0.0, 0.0, 1.0))
    if in_a_row is not None:
        tl.store(in_a_row, tl.where(both == 0.0, 0, tl.load(in_a_row) + 1))


@jit
def add_finite_kernel(values, totals, count, BLOCK: constexpr):
    """Add finite values to their totals, and count them."""
    i = tl.arange(0, BLOCK)
    ok = i < count
    value = tl.load(values + i, ok, 0.0)  # [BLOCK]
    finite = value * 0.0 == 0.0
    tl.store(totals + i, tl.load(totals + i, ok, 0.0) + tl.where(finite, value, 0.0), ok)
    tl.store(totals + count + i, tl.load(totals + count + i, ok, 0.0) + finite.to(tl.float32), ok)


@on_its_device
def check_norms(norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None) -> Tensor:
    """Return the norm () of norms (K,); `found` () becomes 1 if it or the loss () is not finite, else 0."""
    norm = torch.empty_like(found)
    block = triton.next_power_of_2(max(norms.numel(), 1))
    check_norms_kernel[(1,)](norms.contiguous(), loss, found, in_a_row, norm, norms.numel(), BLOCK=block)
    return norm


@on_its_device
def add_finite(values: Tensor, totals: Tensor) -> None:
    """Add the finite ones of values (K,) to totals[0] (K,), and 1 for each of them to totals[1] (K,)."""
    add_finite_kernel[(1,)](values, totals, values.numel(), BLOCK=triton.next_power_of_2(values.numel()))
