"""Arguments of Triton kernels in NamedTuples, whose fields kernels read by the same names.

Fields of an argument are pointers and numbers known at the launch; as with single arguments, Triton compiles None and 1
as constants. Fields of a Plan are constants at compile time. Triton takes no tensor descriptor in a tuple, so kernels
have a separate parameter for it. Triples have one value per dimension: depth, height, width.

Where a loop begins, Triton 3.6 loses the constants None and 1 of a tuple inside a tuple, because the outer tuple's type
is out of date. A kernel that reads such a tuple in or after a loop therefore rebuilds the outer tuple before it.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

Triple = tuple[int, ...]


class Volume(NamedTuple):
    """A tensor (N, C, T, H, W) with channels innermost.

    Args:
        data: the tensor.
        batch: stride from one example to the next, in elements.
        space: strides of depth, height and width, in elements.
        size: T, H and W.
    """

    data: torch.Tensor
    batch: int
    space: Triple
    size: Triple


def volume(x: torch.Tensor) -> Volume:
    """The Volume of a tensor (N, C, T, H, W)."""
    strides = x.stride()
    return Volume(x, strides[0], strides[2:], tuple(x.shape[2:]))


class Weight(NamedTuple):
    """A convolution's weight.

    Args:
        data: the weight.
        group: stride from the weights of one group to those of the next, in elements.
        output: stride from one output channel to the next.
        input: stride from one input channel to the next.
        taps: strides of depth, height and width.
    """

    data: torch.Tensor
    group: int
    output: int
    input: int
    taps: Triple


class Prologue(NamedTuple):
    """What is applied to the input as it is loaded: activation(x · scale + shift).

    Args:
        scale: (C_in,) float32, or None.
        shift: (C_in,) float32, None where scale is.
        slope: leaky_relu's slope below 0.
    """

    scale: torch.Tensor | None
    shift: torch.Tensor | None
    slope: float


class Epilogue(NamedTuple):
    """What is applied to a tile before it is stored, and where its statistics are written.

    Args:
        bias: (C_out,), or None.
        slope: leaky_relu's slope below 0.
        counts: (P,) float32, the number of values in each part, or None without statistics.
        means: (P, C_out) float32.
        m2s: (P, C_out) float32, sums of squared deviations from the part's own mean.
    """

    bias: torch.Tensor | None
    slope: float
    counts: torch.Tensor | None = None
    means: torch.Tensor | None = None
    m2s: torch.Tensor | None = None


class Product(NamedTuple):
    """Sizes of a gathered product.

    Args:
        rows: output positions of all examples.
        grid: size of the output, divided by the stride where it has phases.
        inputs: input channels of a group.
        outputs: output channels of a group.
    """

    rows: int
    grid: Triple
    inputs: int
    outputs: int


class TapGeometry(NamedTuple):
    """Which inputs the taps of a convolution read, constant at compile time.

    Args:
        up: whether the convolution is transposed.
        kernel: its size.
        stride: its stride.
        padding: of the large side.
        dilation: of the kernel.
        step: from one tap of a phase to the next.
        shift: of the position read, from one tap of a phase to the next.
        low: offset of the first input that a transposed convolution's phases read; only read with `Plan.merged`.
        reach: number of inputs that they read together; only read with `Plan.merged`.
    """

    up: bool
    kernel: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    step: Triple
    shift: Triple
    low: Triple
    reach: Triple


class Share(NamedTuple):
    """Sizes of a weight gradient whose sum is split over programs.

    Args:
        total: positions of the small side, of all examples.
        share: positions of one program, a multiple of block_k.
        part_size: elements of the gradient.
        inputs: channels of the large side in a group.
        outputs: channels of the small side in a group.
    """

    total: int
    share: int
    part_size: int
    inputs: int
    outputs: int


@lru_cache(maxsize=1024)
def tap_geometry(up: bool, kernel: Triple, stride: Triple, padding: Triple, dilation: Triple) -> TapGeometry:
    """The taps of a convolution, or of a transposed one, in three dimensions."""
    step, shift, low, reach = [], [], [], []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        common = math.gcd(s, d)
        step.append(s // common if up else 1)
        shift.append(-(d // common) if up else d)
        low.append(-((d * (k - 1) - p) // s))
        reach.append((p + s - 1) // s - low[-1] + 1)
    return TapGeometry(up, kernel, stride, padding, dilation, tuple(step), tuple(shift), tuple(low), tuple(reach))


class Plan(NamedTuple):
    """The compile-time constants of a gathered product.

    Args:
        geometry: the convolution.
        block_m: rows of a tile.
        block_n: columns of a tile.
        block_k: terms of the sum that are loaded at once.
        precision: how tl.dot multiplies float32.
        even: whether the number of input channels is a multiple of block_k.
        wide: whether offsets need 64 bits.
        norm: whether the input is normalised as it is loaded.
        in_activation: code of the activation of the input.
        activation: code of the activation of the output.
        statistics: whether statistics of the output are written.
        flat: whether taps and input channels lie in one dimension of the sum.
        merged: whether the phases of a transposed convolution lie side by side in a tile's columns.
        deep: whether the weight's input channels are innermost.
    """

    geometry: TapGeometry
    block_m: int
    block_n: int
    block_k: int
    precision: str
    even: bool = False
    wide: bool = False
    norm: bool = False
    in_activation: int = 0
    activation: int = 0
    statistics: bool = False
    flat: bool = False
    merged: bool = False
    deep: bool = False


class Rows(NamedTuple):
    """The rows of a tile, in device code.

    Args:
        base: (BLOCK_M,) offset of each row's example.
        place: (BLOCK_M,) per dimension, the row's position times the scale of its geometry.
        ok: (BLOCK_M,) whether there is such a row.
    """

    base: Any
    place: Any
    ok: Any


class Columns(NamedTuple):
    """The columns of a tile and their weights, in device code.

    Args:
        data: pointer to the weight.
        descriptor: of the weight, where the copy engine loads it, else None.
        at: (BLOCK_N,) offset of each column's weights.
        ok: (BLOCK_N,) whether there is such a column.
        first: number of the tile's first column.
        inputs: number of input channels.
        input: the weight's stride from one input channel to the next.
        taps: its strides of depth, height and width.
    """

    data: Any
    descriptor: Any
    at: Any
    ok: Any
    first: Any
    inputs: Any
    input: Any
    taps: Any


class Taps(NamedTuple):
    """The taps of a phase, in device code: the first one, their number, and where the first one reads."""

    first: Any
    number: Any
    offset: Any
