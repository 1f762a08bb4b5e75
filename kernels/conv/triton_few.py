"""Convolutions with few channels on one side in Triton: which they are, and what is launched for them.

Called by triton.py, whose conventions hold: five-dimensional tensors with channels innermost, three integers a size.
"""

import math
import os
from dataclasses import dataclass

import torch

from .. import choice
from ..activations import CODES
from ..measured import rules
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.launch import elements, precision, reach, side_by_side_weight
from .fusion import Fusion
from .triton_few_kernels import (
    down_few_kernel,
    fold_parts_kernel,
    grad_few_kernel,
    up_few_kernel,
)

FEW = 4  # channels, at most; of a transposed convolution the phases make more of them
_COLUMNS = 64  # phases × channels of a transposed convolution, at most
_LARGE = 2**31
_SPLITS = 512  # of a sum, at most


@dataclass(frozen=True)
class Geometry:
    """Of a convolution without groups and dilation; three integers each.

    flip: the weight's taps are counted backwards and its first two dimensions are exchanged, by which a convolution of
    stride 1 is a transposed one and the other way round.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    flip: bool = False

    def mirrored(self) -> "Geometry | None":
        """The same computation as the opposite kind of convolution, where there is one."""
        padding = tuple(k - 1 - p for k, p in zip(self.kernel, self.padding, strict=True))
        if max(self.stride) > 1 or min(padding) < 0:
            return None
        return Geometry(self.kernel, self.stride, padding, not self.flip)


@dataclass(frozen=True)
class Window:
    """What a cell of positions reads of a line of x, in elements.

    lead: loaded before what is needed, so that windows begin at multiples of `align`, which as many are loaded at once.
    used: with the lead, a multiple of `align`. line: `used` rounded up to a power of two, as columns are laid out.
    step, first: from a cell to the next and before the first one, in units of `align`.
    """

    lead: int
    used: int
    line: int
    align: int
    step: int
    first: int


def window_of(x: torch.Tensor, geometry: Geometry, cell: int) -> Window:
    """The window of the widest loads that take no more columns than single elements do."""
    channels, bytes_ = x.shape[1], x.element_size()
    kernel, stride, padding = (values[2] for values in (geometry.kernel, geometry.stride, geometry.padding))
    step, before = cell * stride * channels, padding * channels
    needed = ((cell - 1) * stride + kernel) * channels
    for align in (8, 4, 2, 1):
        apart = step, x.shape[4] * channels, x.stride(0), x.stride(2), x.stride(3)
        lead = -before % align
        used = -(-(lead + needed) // align) * align
        even = not any(n % align for n in apart) and x.data_ptr() % (align * bytes_) == 0
        if even and align * bytes_ <= 16 and _power_of_two(used) == _power_of_two(needed):
            return Window(lead, used, _power_of_two(used), align, step // align, -(before + lead) // align)
    raise AssertionError("single elements are always aligned")


def up_serves(x: torch.Tensor, y: torch.Tensor, geometry: Geometry) -> bool:
    """Whether `up` is for the transposed convolution that takes x to y."""
    phases = math.prod(geometry.stride)
    few = (y.shape[1] <= FEW or phases > 1) and phases * y.shape[1] <= _COLUMNS
    taken = x.shape[1] > 0 and math.prod(geometry.kernel) > 1 and _has_dense_lines(y)
    return few and taken and _is_chosen("up_few", x.device)


def down_serves(x: torch.Tensor, geometry: Geometry) -> bool:
    """Whether `down` is for a convolution of x."""
    return _reads_few(x, geometry) and _is_chosen("down_few", x.device)


def weight_grad_serves(x: torch.Tensor, small: torch.Tensor, geometry: Geometry) -> bool:
    """Whether `weight_grad` is for the convolution that takes x to `small`."""
    return _reads_few(x, geometry) and _has_dense_lines(small) and _is_chosen("grad_few", x.device)


def _reads_few(x, geometry):
    return 0 < x.shape[1] <= FEW and math.prod(geometry.kernel) > 1 and _has_dense_lines(x)


def _is_chosen(kernel, device):
    """auto goes by times of the general kernels until this one was measured."""
    return device.type != "cuda" or os.environ.get(choice.ENVIRONMENT) == "triton" or rules.has_tiles(kernel)


def up(x, weight, bias, geometry: Geometry, fusion: Fusion, y) -> None:
    """y = the transposed convolution with what `fusion` says, but for statistics.

    Args:
        x, y: (N, C, T, H, W). weight: (C_in, C_out, *kernel), or (C_out, C_in, *kernel) where flipped. bias: or None.
    """
    g, inputs, outputs = geometry, x.shape[1], y.shape[1]
    nearest = tuple(-(-k // s) for k, s in zip(g.kernel, g.stride, strict=True))
    first = tuple(p // s for p, s in zip(g.padding, g.stride, strict=True))
    q = [-(-(n + p) // s) - f for n, p, s, f in zip(y.shape[2:], g.padding, g.stride, first, strict=True)]
    product, norm = precision(x), fusion.scale is not None
    phases = math.prod(g.stride)
    weight, weight_layout = _from_first_tap(side_by_side_weight(weight, x.dtype, int(g.flip)), g, (0, 1))

    def run(config):
        cell, depth = config.cell, elements(config, x)
        grid = *q[:2], -(-q[2] // cell)
        rows, columns = x.shape[0] * math.prod(grid), phases * cell * outputs
        up_few_kernel[-(-rows // config.rows) * -(-columns // config.columns),](
            x, weight, bias, fusion.scale, fusion.shift, y, rows, grid, first, tuple(x.shape[2:]), tuple(y.shape[2:]),
            x.stride(0), x.stride()[2:], y.stride(0), y.stride()[2:], *weight_layout, inputs, outputs, fusion.in_slope,
            fusion.slope, KERNEL=g.kernel, STRIDE=g.stride, PADDING=g.padding, REACH=nearest, CELL=cell, NORM=norm,
            IN_ACTIVATION=CODES[fusion.in_activation], ACTIVATION=CODES[fusion.activation],
            EVEN=inputs % depth == 0, WIDE=max(reach(x), reach(y), rows * columns) >= _LARGE,
            PRECISION=product, BM=config.rows, BN=config.columns, BK=depth, **config.launch(),
        )  # fmt: skip

    terms = inputs * math.prod(nearest)
    flags = f"{g.kernel}{g.stride}{product}{'n' * norm}"
    sizes = x.shape[0] * math.prod(q), phases * outputs, terms
    problem = tuning.Problem("up_few", x.device, x.dtype, *sizes, flags)
    run(tuning.choose(problem, triton_configs.of("up_few", product, x), run))


def down(x, weight, bias, geometry: Geometry, fusion: Fusion, y) -> None:
    """y = the convolution with what `fusion` says, but for statistics and a norm of x.

    Args:
        x: (N, C, T, H, W) of dense lines. y: dense. weight: (C_out, C_in, *kernel), or (C_in, C_out, *kernel) where
            flipped. bias: or None.
    """
    g, inputs, outputs = geometry, x.shape[1], y.shape[1]
    product = precision(x)
    weight, weight_layout = _from_first_tap(side_by_side_weight(weight, x.dtype, int(g.flip)), g, (1, 0))
    vector = _vector(weight, outputs, weight_layout)

    def run(config):
        cell, depth, window = config.cell, elements(config, x), window_of(x, g, config.cell)
        grid = *y.shape[2:4], -(-y.shape[4] // cell)
        rows, columns = y.shape[0] * math.prod(grid), cell * outputs
        down_few_kernel[-(-rows // config.rows) * -(-columns // config.columns),](
            x, weight, bias, y, rows, grid, *_in_groups(x, window), y.shape[4] * outputs, *weight_layout, outputs,
            fusion.slope, INPUTS=inputs, KERNEL=g.kernel, STRIDE=g.stride, PADDING=g.padding, CELL=cell,
            LEAD=window.lead, LINE=window.line, WINDOW=window.used, ALIGN=window.align, STEP=window.step,
            FIRST=window.first, VECTOR=vector, ACTIVATION=CODES[fusion.activation],
            WIDE=max(reach(x), y.numel()) >= _LARGE, PRECISION=product, BM=config.rows, BN=config.columns, BK=depth,
            **config.launch(),
        )  # fmt: skip

    positions = y.shape[0] * math.prod(y.shape[2:])
    sizes = positions, outputs, inputs * math.prod(g.kernel)
    problem = tuning.Problem("down_few", x.device, x.dtype, *sizes, f"{g.kernel}{g.stride}{product}")
    run(tuning.choose(problem, triton_configs.of("down_few", product, x), run))


def weight_grad(x, small, geometry: Geometry, grad) -> None:
    """grad = the weight gradient of the convolution that takes x, of few channels, to `small`.

    Args:
        x, small: (N, C, T, H, W) of dense lines. grad: (C_small, C_x, *kernel), or (C_x, C_small, *kernel) where
            flipped, dense with its channels innermost.
    """
    g, inputs, outputs = geometry, x.shape[1], small.shape[1]
    product = precision(x)
    lines = g.kernel[0] * g.kernel[1]

    def run(config):
        cell, depth, window = config.cell, elements(config, x), window_of(x, g, config.cell)
        grid = *small.shape[2:4], -(-small.shape[4] // cell)
        rows, part = small.shape[0] * math.prod(grid), cell * outputs * lines * window.line
        tiles = -(-cell * outputs // config.rows) * -(-lines * window.line // config.columns)
        splits = max(1, min(-(-2 * tuning.processors(x.device) // tiles), rows // (8 * depth), _SPLITS))
        share = -(-rows // (splits * depth)) * depth
        splits = -(-rows // share)
        parts = x.new_empty((splits, part), dtype=torch.float32)
        grad_few_kernel[tiles, splits](
            x, small, parts, rows, share, grid, *_in_groups(x, window), small.stride(0), small.stride()[2:],
            small.shape[4] * outputs, outputs, part, inputs, KERNEL=g.kernel, STRIDE=g.stride, PADDING=g.padding,
            CELL=cell, LINE=window.line, WINDOW=window.used, ALIGN=window.align, STEP=window.step, FIRST=window.first,
            LEAD=window.lead, WIDE=max(reach(x), reach(small), parts.numel(), rows + share) >= _LARGE,
            PRECISION=product, BM=config.rows, BN=config.columns, BK=depth, **config.launch(),
        )  # fmt: skip
        fold_parts_kernel[-(-grad.numel() // 32),](
            parts, grad, splits * cell, part, grad.numel(), outputs, inputs, KERNEL=g.kernel, STRIDE=g.stride,
            CELL=cell, LINE=window.line, LEAD=window.lead, FLIP=g.flip, BP=64, BLOCK=32, num_warps=4,
        )  # fmt: skip

    positions = small.shape[0] * math.prod(small.shape[2:])
    sizes = outputs, inputs * math.prod(g.kernel), positions
    flags = f"{g.kernel}{g.stride}{product}"
    problem = tuning.Problem("grad_few", x.device, x.dtype, *sizes, flags, splits=_SPLITS, cells_in_rows=True)
    run(tuning.choose(problem, triton_configs.of("grad_few", product, x), run))


def _from_first_tap(weight, g, dims):
    """The weight and its layout: where the first tap is, and the strides of inputs, outputs and space."""
    inputs, outputs = dims[::-1] if g.flip else dims
    first, space = 0, weight.stride()[2:]
    if g.flip:
        first, space = sum((k - 1) * s for k, s in zip(g.kernel, space, strict=True)), tuple(-s for s in space)
    return weight, (first, weight.stride(inputs), weight.stride(outputs), space)


def _vector(weight, outputs, layout):
    """How many outputs at a time lie side by side in the weight, in whole loads."""
    first, w_in, w_out, space = layout
    vector = 16 // weight.element_size()
    apart = outputs, first, w_in, *space
    aligned = weight.data_ptr() % 16 == 0 and not any(n % vector for n in apart)
    return vector if w_out == 1 and aligned else 1


def _in_groups(x, window):
    """x's size, the groups of one of its lines, and its strides in groups."""
    strides = [s // window.align for s in x.stride()]
    return tuple(x.shape[2:]), x.shape[4] * x.shape[1] // window.align, strides[0], tuple(strides[2:4])


def _has_dense_lines(x):
    """Whether neighbouring positions in width lie side by side, with their channels."""
    return (x.stride(1) == 1 or x.shape[1] == 1) and (x.stride(4) == x.shape[1] or x.shape[4] == 1)


def _power_of_two(size):
    return 1 << max(size - 1, 0).bit_length()
