"""Operations on lists of tensors in Triton: one launch per 64 tensors, whose addresses are arguments of the kernel."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.math import sigmoid
from ..triton.support import on_its_device
from . import reference

_TENSORS = 64  # of a launch
_PROGRAMS = 2048  # about 16 per multiprocessor
_BLOCK = 1024
_LOGITS = 512  # of a tile of sigmoids; 1024 need more registers than sm_100 has
_LARGEST = 2**30  # elements of a tensor, which are counted in int32


class Shares(NamedTuple):
    """Which program does what: program p has `each` elements of the last tensor whose first program is at most p.

    Args:
        firsts: the first program of each tensor.
        sizes: the number of elements of each tensor.
        each: elements per program.
    """

    firsts: tuple[int, ...]
    sizes: tuple[int, ...]
    each: int


class Order(NamedTuple):
    """Where in a tensor's memory the elements of its copy are, which are matrices (rows, columns) side by side.

    Args:
        rows, columns: the size of a matrix; a single column has the tensor's order.
        matrix, row, column: strides of the tensor from one to the next.
    """

    rows: int
    columns: int
    matrix: int
    row: int
    column: int


@jit
def select(values, which):
    """The value of number `which` in a tuple of numbers or of addresses of one dtype."""
    found = values[0]
    for i in tl.static_range(1, len(values)):
        found = tl.where(which == i, values[i], found)
    return found


@jit
def find_share(shares):
    """The number of this program's tensor, and the first element and the end of its share."""
    p = tl.program_id(0)
    which = p * 0
    for i in tl.static_range(1, len(shares.firsts)):
        which += (p >= shares.firsts[i]).to(tl.int32)
    start = (p - select(shares.firsts, which)) * shares.each
    return which, start, tl.minimum(start + shares.each, select(shares.sizes, which))


@jit
def list_norms_kernel(tensors, norms, shares, BLOCK: constexpr):
    """norms[p] = the Euclidean norm of program p's share."""
    which, start, end = find_share(shares)
    x = select(tensors, which)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(start, end, BLOCK):
        i = first + tl.arange(0, BLOCK)
        value = tl.load(x + i, i < end, 0.0).to(tl.float32)  # [BLOCK]
        total += value * value
    tl.store(norms + tl.program_id(0), tl.sqrt(tl.sum(total, 0)))


@jit
def list_restore_kernel(bad, tensors, before, shares, BLOCK: constexpr):
    """Copy `before` to `tensors` if `bad` is not 0."""
    if tl.load(bad) != 0:
        which, start, end = find_share(shares)
        x, old = select(tensors, which), select(before, which)
        for first in range(start, end, BLOCK):
            i = first + tl.arange(0, BLOCK)
            tl.store(x + i, tl.load(old + i, i < end, 0), i < end)  # [BLOCK]


@jit
def list_average_kernel(means, new, share, shares, BLOCK: constexpr):
    """mean += (new - mean) · share."""
    which, start, end = find_share(shares)
    mean, other = select(means, which), select(new, which)
    weight = tl.load(share).to(tl.float32)
    for first in range(start, end, BLOCK):
        i = first + tl.arange(0, BLOCK)
        old = tl.load(mean + i, i < end, 0.0).to(tl.float32)  # [BLOCK]
        change = tl.load(other + i, i < end, 0.0).to(tl.float32) - old  # [BLOCK]
        tl.store(mean + i, (old + change * weight).to(mean.dtype.element_ty), i < end)


@jit
def list_copy_kernel(copies, tensors, orders, shares, BLOCK: constexpr):
    """Copy each tensor, element by element of the copy's memory.

    Args:
        copies: written.
        tensors: of the copies' shapes.
        orders: the fields of an Order, each as a tuple of all tensors' values.
        shares: Shares.
        BLOCK: elements of a tile.
    """
    which, start, end = find_share(shares)
    copy, x = select(copies, which), select(tensors, which)
    rows, columns = select(orders[0], which), select(orders[1], which)
    matrix, row, column = select(orders[2], which), select(orders[3], which), select(orders[4], which)
    for first in range(start, end, BLOCK):
        i = first + tl.arange(0, BLOCK)
        at = i
        # Four divisions for each element take longer than the memory does.
        if (columns > 1) | (row > 1) | (matrix != rows):
            r = i // columns
            at = r // rows * matrix + r % rows * row + i % columns * column
        value = tl.load(x + at, i < end, 0.0)  # [BLOCK]
        tl.store(copy + i, value.to(copy.dtype.element_ty), i < end)


@jit
def list_sigmoids_kernel(tensors, sizes, out, each, BLOCK: constexpr):
    """out[p] = the mean over tensors p each ... p each + each - 1 of their mean sigmoid. Programs: (group)."""
    mean = 0.0
    for k in range(each):
        which = tl.program_id(0) * each + k
        x, size = select(tensors, which), select(sizes, which)
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, size, BLOCK):
            i = first + tl.arange(0, BLOCK)
            value = tl.load(x + i, i < size, 0.0).to(tl.float32)  # [BLOCK]
            total += tl.where(i < size, sigmoid(value), 0.0)
        mean += tl.sum(total, 0) / size
    tl.store(out + tl.program_id(0), mean / each)


def _shares(tensors: Sequence[Tensor]) -> tuple[Shares, int]:
    """Return the shares of the programs for dense tensors, and how many programs there are."""
    sizes = tuple(x.numel() for x in tensors)
    blocks = -(-sum(sizes) // _BLOCK)
    each = _BLOCK * max(1, -(-blocks // _PROGRAMS))
    firsts = list(itertools.accumulate((-(-size // each) for size in sizes), initial=0))
    return Shares(tuple(firsts[:-1]), sizes, each), firsts[-1]


def _launches(*lists: Sequence[Tensor]) -> Iterator[tuple[tuple[Tensor, ...], ...]]:
    """Yield up to 64 of each list at a time, without empty tensors."""
    rows = [row for row in zip(*lists, strict=True) if row[0].numel()]
    for start in range(0, len(rows), _TENSORS):
        yield tuple(zip(*rows[start : start + _TENSORS], strict=True))


def _are_alike(*lists: Sequence[Tensor]) -> bool:
    """Whether the tensors of each list have one dtype, and those at each place are dense with the same strides."""
    if any(x.dtype != tensors[0].dtype for tensors in lists for x in tensors):
        return False
    return all(
        _is_dense(row[0]) and all(x.stride() == row[0].stride() for x in row) for row in zip(*lists, strict=True)
    )


def _is_dense(x: Tensor) -> bool:
    """Whether a tensor of at most 2^30 elements has them side by side, in any order."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.numel() <= _LARGEST and x.permute(order).is_contiguous()


@on_its_device
def _norms(first: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    parts = []
    for (some,) in _launches(tensors):
        shares, programs = _shares(some)
        parts.append(first.new_empty(programs, dtype=torch.float32))
        list_norms_kernel[(programs,)](some, parts[-1], shares, BLOCK=_BLOCK)
    return parts[0] if len(parts) == 1 else torch.cat([first.new_zeros(0, dtype=torch.float32), *parts])


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of each program's share of tensors of any shape, (number of programs,) float32."""
    return _norms(tensors[0], tensors) if _are_alike(tensors) else reference.norms(tensors)


@on_its_device
def restore_where(bad: Tensor, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Restore tensors, uint8 (number of bytes,), where `bad` () is not 0."""
    if any(x.numel() > _LARGEST for x in tensors):
        reference.restore_where(bad, tensors, before)
        return
    for now, old in _launches(tensors, before):
        shares, programs = _shares(now)
        list_restore_kernel[(programs,)](bad, now, old, shares, BLOCK=_BLOCK)


@on_its_device
def _average_into(share: Tensor, means: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    for old, values in _launches(means, new):
        shares, programs = _shares(old)
        list_average_kernel[(programs,)](old, values, share, shares, BLOCK=_BLOCK)


def average_into(means: Sequence[Tensor], new: Sequence[Tensor], share: Tensor) -> None:
    """Update running means in place: mean + (new - mean) · share ()."""
    if _are_alike(means, new):
        _average_into(share, means, new)
    else:
        reference.average_into(means, new, share)


@on_its_device
def _copy_into(first: Tensor, copies: Sequence[Tensor], tensors: Sequence[Tensor], orders: Sequence[Order]) -> None:
    for start in range(0, len(copies), _TENSORS):
        these = slice(start, start + _TENSORS)
        shares, programs = _shares(copies[these])
        order = tuple(zip(*orders[these], strict=True))
        list_copy_kernel[(programs,)](tuple(copies[these]), tuple(tensors[these]), order, shares, BLOCK=_BLOCK)


def copy_into(copies: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors to others of their shapes, casting them."""
    mine, rest = [], []
    for copy, x in zip(copies, tensors, strict=True):
        order = _order(copy, x) if copy.dtype == copies[0].dtype and x.dtype == tensors[0].dtype else None
        if order is None:
            rest.append((copy, x))
        elif x.numel():
            mine.append((copy, x, order))
    if mine:
        _copy_into(copies[0], *zip(*mine, strict=True))
    if rest:
        reference.copy_into(*map(list, zip(*rest, strict=True)))


@on_its_device
def _mean_sigmoids(first: Tensor, tensors: tuple[Tensor, ...], groups: int) -> Tensor:
    out, sizes = first.new_empty(groups, dtype=torch.float32), tuple(x.numel() for x in tensors)
    list_sigmoids_kernel[(groups,)](tensors, sizes, out, len(tensors) // groups, BLOCK=_LOGITS)
    return out


def mean_sigmoids(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the mean over a group's tensors, of any shape, of their mean sigmoid, (number of groups,) float32."""
    tensors = tuple(x.contiguous() for group in groups for x in group)
    if len(tensors) > _TENSORS or not _are_alike(tensors):
        return reference.mean_sigmoids(groups)
    return _mean_sigmoids(tensors[0], tensors, len(groups))


def _order(copy: Tensor, x: Tensor) -> Order | None:
    """Return where in `x` the elements of a copy are, if they are matrices of it; else None.

    They are a column in x's order, or x is (C, C', *rest), and C or C' is innermost in the copy.
    """
    if not _is_dense(copy):
        return None
    if copy.stride() == x.stride():
        return Order(x.numel(), 1, x.numel(), 1, 0)
    for inner, outer in (0, 1), (1, 0):
        if copy.dim() < 2 or not copy.movedim(inner, -1).is_contiguous():
            continue
        row = _stride_of_rest(x)
        if row is not None:
            columns = x.shape[inner]
            return Order(x[:1, :1].numel(), columns, x.stride(outer), row, x.stride(inner))
    return None


def _stride_of_rest(x: Tensor) -> int | None:
    """Return the stride from one to the next element of *rest in x (C, C', *rest), if it is the same for all."""
    rest = [(size, stride) for size, stride in zip(x.shape[2:], x.stride()[2:], strict=True) if size > 1]
    for (_, stride), (size, inner) in zip(rest, rest[1:], strict=False):
        if stride != size * inner:
            return None
    return rest[-1][1] if rest else 0
