"""The projection of weights in Triton: one launch per weight, which is read and written once."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.support import on_its_device
from . import reference
from .protocol import UpsamplingKernel

_ELEMENTS = 2048  # of a program


class Weight(NamedTuple):
    """A weight (pairs of channels, *kernel) as the kernel sees it.

    Args:
        memory: its first element.
        pairs: C_in · C_out.
        outputs: C_out.
        size: the three sizes of the kernel.
        strides: of C_in, C_out and the three dimensions of the kernel.
    """

    memory: Tensor
    pairs: int
    outputs: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


@jit
def subtract_excess(x, taps, size, AXIS: constexpr):
    """x less the part of it that alternates along an axis; taps are that axis' numbers, broadcast."""
    signs = 1.0 - 2.0 * (taps % 2).to(tl.float32)
    return x - signs * (tl.sum(x * signs, AXIS, keep_dims=True) / size)


@jit
def project_kernel(weight, unless, FIRST: constexpr, SECOND: constexpr, THIRD: constexpr, TILE: constexpr):
    """Project a weight along the dimensions of the kernel whose flags are set. Programs: (block of pairs).

    Args:
        weight: a Weight.
        unless: () above 0 if nothing must change, or None.
        FIRST: whether to project along the first dimension of the kernel.
        SECOND: whether to project along the second one.
        THIRD: whether to project along the third one.
        TILE: (pairs, *kernel) of a program, powers of 2.
    """
    is_due = True
    if unless is not None:
        is_due = tl.load(unless) == 0
    if is_due:
        pair = tl.program_id(0) * TILE[0] + tl.arange(0, TILE[0])[:, None, None, None]
        t = tl.arange(0, TILE[1])[None, :, None, None]
        h = tl.arange(0, TILE[2])[None, None, :, None]
        w = tl.arange(0, TILE[3])[None, None, None, :]
        size, strides = weight.size, weight.strides
        ok = (pair < weight.pairs) & (t < size[0]) & (h < size[1]) & (w < size[2])
        at = (pair // weight.outputs).to(tl.int64) * strides[0] + (pair % weight.outputs) * strides[1]
        at = weight.memory + at + t * strides[2] + h * strides[3] + w * strides[4]
        x = tl.load(at, ok, 0.0).to(tl.float32)  # [pairs, *kernel]
        if FIRST:
            x = subtract_excess(x, t, size[0], 1)
        if SECOND:
            x = subtract_excess(x, h, size[1], 2)
        if THIRD:
            x = subtract_excess(x, w, size[2], 3)
        tl.store(at, x.to(weight.memory.dtype.element_ty), ok)


@on_its_device
def _project(weight: Tensor, dims: Collection[int], tile: tuple[int, ...], unless: Tensor | None) -> None:
    inputs, outputs, *size = weight.shape
    grid = (-(-inputs * outputs // tile[0]),)
    project_kernel[grid](
        Weight(weight, inputs * outputs, outputs, tuple(size), weight.stride()),
        unless,
        FIRST=2 in dims,
        SECOND=3 in dims,
        THIRD=4 in dims,
        TILE=tile,
    )


def project(kernels: Sequence[UpsamplingKernel], unless: Tensor | None) -> None:
    """Replace each weight, in place, by the nearest whose alternating sums are 0, unless `unless` () is above 0."""
    for kernel in kernels:
        weight, signs = kernel
        taps = [1 << max(size - 1, 0).bit_length() for size in weight.shape[2:]]
        pairs = _ELEMENTS // math.prod(taps)
        if not pairs or weight.dtype == torch.float64:
            reference.project([kernel], unless)
        elif weight.numel():
            _project(weight, signs, (pairs, *taps), unless)
