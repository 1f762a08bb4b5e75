"""The guards against non-finite values in Triton, with one program each."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.support import on_its_device

_BLOCK = 1024


@jit
def check_norms_kernel(norms, loss, found, in_a_row, steps, norm, sizes, BLOCK: constexpr):
    """The norm of norms, and 1 if it or the loss is not finite, else 0, with counters; sizes: of norms and steps."""
    count, step_count = sizes
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        each = tl.load(norms + i, i < count, 0.0)  # [BLOCK]
        squares += each * each
    total = tl.sqrt(tl.sum(squares, 0))
    tl.store(norm, total)
    both = (total + tl.load(loss)) * 0.0
    tl.store(found, tl.where(both == 0.0, 0.0, 1.0))
    if in_a_row is not None:
        tl.store(in_a_row, tl.where(both == 0.0, 0, tl.load(in_a_row) + 1))
    if steps is not None:
        for first in range(0, step_count, BLOCK):
            i = first + tl.arange(0, BLOCK)
            done = tl.load(steps + i, i < step_count, 0.0)  # [BLOCK]
            tl.store(steps + i, done + tl.where(both == 0.0, 1.0, 0.0), i < step_count)


@jit
def add_finite_kernel(values, out, totals, BLOCK: constexpr):
    """Store the scalars `values`, add the finite ones to their totals, and count them."""
    i = tl.arange(0, BLOCK)
    ok = i < len(values)
    value = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(len(values)):
        value = tl.where(i == k, tl.load(values[k]).to(tl.float32), value)
    tl.store(out + i, value, ok)
    finite = value * 0.0 == 0.0
    tl.store(totals + i, tl.load(totals + i, ok, 0.0) + tl.where(finite, value, 0.0), ok)
    at = totals + len(values) + i
    tl.store(at, tl.load(at, ok, 0.0) + finite.to(tl.float32), ok)


@on_its_device
def check_norms(norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None, steps: Tensor | None) -> Tensor:
    """Return the norm () of norms (K,); `found` () becomes 1 if it or the loss () is not finite, else 0."""
    norm, count, step_count = torch.empty_like(found), norms.numel(), 0 if steps is None else steps.numel()
    sizes = count, step_count
    check_norms_kernel[(1,)](norms.contiguous(), loss, found, in_a_row, steps, norm, sizes, BLOCK=_BLOCK)
    return norm


@on_its_device
def _add_finite(out: Tensor, values: tuple[Tensor, ...], totals: Tensor) -> None:
    add_finite_kernel[(1,)](values, out, totals, BLOCK=triton.next_power_of_2(len(values)))


def add_finite(values: Sequence[Tensor], out: Tensor, totals: Tensor) -> None:
    """Set out (n,) to the scalars (), add the finite ones to totals[0] and 1 for each to totals[1], (2, n)."""
    _add_finite(out, tuple(values), totals)
