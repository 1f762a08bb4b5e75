"""Arguments of the kernels for few channels, in NamedTuples; see ../triton/arguments.py."""

from typing import Any, NamedTuple

import torch

from ..triton.arguments import Triple


class FewWeight(NamedTuple):
    """A convolution's weight that is read from its first tap on; strides may be negative.

    Args:
        data: the weight.
        first: offset of the first tap, in elements.
        input: stride from one input channel to the next.
        output: stride from one output channel to the next.
        taps: strides of depth, height and width.
    """

    data: torch.Tensor
    first: int
    input: int
    output: int
    taps: Triple


class Lines(NamedTuple):
    """A tensor (N, C, T, H, W) of dense lines, that is widths of channels, in groups of `Window.align` elements.

    In groups of elements, strides say that so many can be loaded at once.

    Args:
        data: the tensor.
        batch: stride from one example to the next, in groups.
        space: strides of depth and height, in groups.
        size: T, H and W.
        groups: groups per line.
    """

    data: torch.Tensor
    batch: int
    space: tuple[int, ...]
    size: Triple
    groups: int


class UpSizes(NamedTuple):
    """Sizes of `up_few_kernel`.

    Args:
        rows: cells of all examples.
        grid: number of q in depth and in height, and of cells in width.
        first: the first q of each dimension.
        inputs: input channels.
        outputs: output channels.
    """

    rows: int
    grid: Triple
    first: Triple
    inputs: int
    outputs: int


class DownSizes(NamedTuple):
    """Sizes of `down_few_kernel`.

    Args:
        rows: cells of all examples.
        grid: the output's depth and height, and the cells of its width.
        line: elements of a line of the output.
        outputs: output channels.
    """

    rows: int
    grid: Triple
    line: int
    outputs: int


class GradSizes(NamedTuple):
    """Sizes of `grad_few_kernel`.

    Args:
        rows: cells of all examples.
        share: cells of one split, a multiple of block_k.
        grid: the small side's depth and height, and the cells of its width.
        line: elements of a line of the small side.
        inputs: channels of the large side.
        outputs: channels of the small side.
        part_size: elements of a split's part.
    """

    rows: int
    share: int
    grid: Triple
    line: int
    inputs: int
    outputs: int
    part_size: int


class FoldSizes(NamedTuple):
    """Sizes of `fold_parts_kernel`.

    Args:
        terms: splits × places in a cell, which are added up.
        part_size: elements of a split's part.
        size: elements of the gradient.
        inputs: channels of the large side.
        outputs: channels of the small side.
    """

    terms: int
    part_size: int
    size: int
    inputs: int
    outputs: int


class Window(NamedTuple):
    """The part of a line of x that a cell of positions reads, in elements.

    Args:
        lead: elements loaded before those needed, so that windows begin at multiples of `align`.
        used: elements loaded, a multiple of `align`; the first `lead` are multiplied by zeros.
        line: `used` rounded up to a power of two: the columns of one of the kernel's lines.
        align: elements that are loaded at once.
        step: from one cell to the next, in units of `align`.
        first: from the line's beginning to the first cell's window, in units of `align`.
    """

    lead: int
    used: int
    line: int
    align: int
    step: int
    first: int


class FewPlan(NamedTuple):
    """The compile-time constants of a convolution with few channels on one side.

    Args:
        kernel: the convolution's kernel.
        stride: its stride.
        padding: its padding.
        cell: positions side by side in width that are one row.
        block_m: rows of a tile.
        block_n: columns of a tile.
        block_k: terms of the sum that are loaded at once.
        precision: how tl.dot multiplies float32.
        wide: whether offsets need 64 bits.
        even: whether the number of input channels is a multiple of block_k.
        norm: whether the input is normalised as it is loaded.
        in_activation: code of the activation of the input.
        activation: code of the activation of the output.
        inputs: input channels of `down_few_kernel`.
        vector: output channels of the weight that are loaded at once, by `down_few_kernel`.
        window: of the lines of x, where it has few channels.
    """

    kernel: Triple
    stride: Triple
    padding: Triple
    cell: int
    block_m: int
    block_n: int
    block_k: int
    precision: str
    wide: bool
    even: bool = False
    norm: bool = False
    in_activation: int = 0
    activation: int = 0
    inputs: int = 0
    vector: int = 1
    window: Window | None = None


class FoldPlan(NamedTuple):
    """The compile-time constants of `fold_parts_kernel`; see FewPlan and Window. flip: see triton_few.Geometry."""

    kernel: Triple
    stride: Triple
    cell: int
    line: int
    lead: int
    flip: bool


class Cells(NamedTuple):
    """Rows of a tile, in device code: whether there is such a row, its example, and its place. One dimension each."""

    ok: Any
    example: Any
    t: Any
    h: Any
    cell: Any


class Elements(NamedTuple):
    """Columns of a tile, in device code: elements of the windows of the kernel's lines.

    Args:
        t: (COLUMNS,) depth of the element's line in the kernel.
        h: (COLUMNS,) height of the element's line in the kernel.
        group: (COLUMNS,) the element's group in its window.
        ok: (COLUMNS,) whether there is such an element.
        offset: (COLUMNS,) from the beginning of a row's window.
    """

    t: Any
    h: Any
    group: Any
    ok: Any
    offset: Any
