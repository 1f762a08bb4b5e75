"""Choice and launch of the Triton kernels for convolutions with few channels on one side.

triton.py calls these, and its conventions hold: five-dimensional tensors with channels innermost, three integers per
size.
"""

import math
import os
from typing import NamedTuple

import torch
from torch import Tensor

from .. import choice
from ..activations import CODES
from ..measured import rules
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.arguments import Epilogue, Prologue, Triple, volume
from ..triton.launch import elements, extent, precision, with_innermost_channels
from .fusion import Fusion
from .triton_few_arguments import (
    DownSizes,
    FewPlan,
    FewWeight,
    FoldPlan,
    FoldSizes,
    GradSizes,
    Lines,
    UpSizes,
    Window,
)
from .triton_few_kernels import down_few_kernel, fold_parts_kernel, grad_few_kernel, up_few_kernel

FEW = 4  # channels, at most; the phases of a transposed convolution multiply them
_COLUMNS = 64  # phases × channels of a transposed convolution, at most
_LARGE = 2**31
_SPLITS = 512  # parts of a sum, at most


class Geometry(NamedTuple):
    """A convolution without groups and dilation; three integers per size.

    Args:
        kernel: of the convolution.
        stride: of the convolution.
        padding: of the large side.
        flip: whether the weight's taps are counted backwards and its first two dimensions exchanged, which turns a
            convolution of stride 1 into a transposed one and the other way round.
    """

    kernel: Triple
    stride: Triple
    padding: Triple
    flip: bool = False

    def mirror(self) -> "Geometry | None":
        """The same computation as the opposite kind of convolution, where there is one."""
        padding = tuple(k - 1 - p for k, p in zip(self.kernel, self.padding, strict=True))
        if max(self.stride) > 1 or min(padding) < 0:
            return None
        return Geometry(self.kernel, self.stride, padding, not self.flip)


def find_window(x: Tensor, geometry: Geometry, cell: int) -> Window:
    """The window with the widest loads that take no more columns than single elements do.

    Args:
        x: (N, C, T, H, W) of dense lines.
        geometry: of the convolution that reads x.
        cell: positions that share a window.
    """
    channels, bytes_ = x.shape[1], x.element_size()
    kernel, stride, padding = (values[2] for values in geometry[:3])
    step, before = cell * stride * channels, padding * channels
    needed = ((cell - 1) * stride + kernel) * channels
    for align in (8, 4, 2, 1):
        distances = step, x.shape[4] * channels, x.stride(0), x.stride(2), x.stride(3)
        lead = -before % align
        used = -(-(lead + needed) // align) * align
        is_aligned = not any(n % align for n in distances) and x.data_ptr() % (align * bytes_) == 0
        if is_aligned and align * bytes_ <= 16 and _power_of_two(used) == _power_of_two(needed):
            return Window(lead, used, _power_of_two(used), align, step // align, -(before + lead) // align)
    raise AssertionError("single elements are always aligned")


def up_serves(x: Tensor, y: Tensor, geometry: Geometry) -> bool:
    """Whether `up` serves the transposed convolution from x to y, (N, C, T, H, W)."""
    phases = math.prod(geometry.stride)
    is_few = (y.shape[1] <= FEW or phases > 1) and phases * y.shape[1] <= _COLUMNS
    is_served = x.shape[1] > 0 and math.prod(geometry.kernel) > 1 and _has_dense_lines(y)
    return is_few and is_served and _is_chosen("up_few", x.device)


def down_serves(x: Tensor, geometry: Geometry) -> bool:
    """Whether `down` serves a convolution of x (N, C, T, H, W)."""
    return _reads_few(x, geometry) and _is_chosen("down_few", x.device)


def weight_grad_serves(x: Tensor, small: Tensor, geometry: Geometry) -> bool:
    """Whether `weight_grad` serves the convolution from x to `small`, (N, C, T, H, W)."""
    return _reads_few(x, geometry) and _has_dense_lines(small) and _is_chosen("grad_few", x.device)


def _reads_few(x: Tensor, geometry: Geometry) -> bool:
    return 0 < x.shape[1] <= FEW and math.prod(geometry.kernel) > 1 and _has_dense_lines(x)


def _is_chosen(kernel: str, device: torch.device) -> bool:
    """Whether impl="auto" may take the kernel: on a GPU it takes the general ones until this one was measured."""
    return device.type != "cuda" or os.environ.get(choice.ENVIRONMENT) == "triton" or rules.has_tiles(kernel)


def up(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, fusion: Fusion, y: Tensor) -> None:
    """Write to y the transposed convolution of x with its fusion, except for statistics.

    Args:
        x: (N, C_in, T, H, W).
        weight: (C_in, C_out, *kernel), or (C_out, C_in, *kernel) where flipped.
        bias: (C_out,) or None.
        geometry: of the convolution.
        fusion: the operations computed along with it.
        y: (N, C_out, T, H, W).
    """
    g, inputs, outputs = geometry, x.shape[1], y.shape[1]
    nearest = tuple(-(-k // s) for k, s in zip(g.kernel, g.stride, strict=True))
    first = tuple(p // s for p, s in zip(g.padding, g.stride, strict=True))
    q = [-(-(n + p) // s) - f for n, p, s, f in zip(y.shape[2:], g.padding, g.stride, first, strict=True)]
    product, norm = precision(x), fusion.scale is not None
    phases = math.prod(g.stride)
    w = _from_first_tap(with_innermost_channels(weight, x.dtype, int(g.flip)), g, (0, 1))
    x_volume, y_volume = volume(x), volume(y)
    prologue = Prologue(fusion.scale, fusion.shift, fusion.in_slope)
    epilogue = Epilogue(bias, fusion.slope)
    activations = CODES[fusion.in_activation], CODES[fusion.activation]

    def run(config: tuning.Config) -> None:
        cell, depth = config.cell, elements(config, x)
        grid = q[0], q[1], -(-q[2] // cell)
        rows, columns = x.shape[0] * math.prod(grid), phases * cell * outputs
        wide = max(extent(x), extent(y), rows * columns) >= _LARGE
        tile = cell, config.rows, config.columns, depth
        plan = FewPlan(*g[:3], *tile, product, wide, inputs % depth == 0, norm, *activations)
        sizes = UpSizes(rows, grid, first, inputs, outputs)
        up_few_kernel[-(-rows // config.rows) * -(-columns // config.columns),](
            x_volume, prologue, w, y_volume, epilogue, sizes, plan, **config.launch()
        )

    terms = inputs * math.prod(nearest)
    flags = f"{g.kernel}{g.stride}{product}{'n' * norm}"
    sizes = x.shape[0] * math.prod(q), phases * outputs, terms
    problem = tuning.Problem("up_few", x.device, x.dtype, *sizes, flags)
    run(tuning.choose(problem, triton_configs.of("up_few", product, x), run))


def down(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, fusion: Fusion, y: Tensor) -> None:
    """Write to y the convolution of x with its fusion, except for statistics and a norm of x.

    Args:
        x: (N, C_in, T, H, W) of dense lines.
        weight: (C_out, C_in, *kernel), or (C_in, C_out, *kernel) where flipped.
        bias: (C_out,) or None.
        geometry: of the convolution.
        fusion: the operations computed along with it.
        y: (N, C_out, T, H, W), dense.
    """
    g, inputs, outputs = geometry, x.shape[1], y.shape[1]
    product = precision(x)
    w = _from_first_tap(with_innermost_channels(weight, x.dtype, int(g.flip)), g, (1, 0))
    vector, epilogue = _vector(w, outputs), Epilogue(bias, fusion.slope)

    def run(config: tuning.Config) -> None:
        cell, depth, window = config.cell, elements(config, x), find_window(x, g, config.cell)
        grid = y.shape[2], y.shape[3], -(-y.shape[4] // cell)
        rows, columns = y.shape[0] * math.prod(grid), cell * outputs
        plan = FewPlan(
            *g[:3], cell, config.rows, config.columns, depth, product, max(extent(x), y.numel()) >= _LARGE,
            activation=CODES[fusion.activation], inputs=inputs, vector=vector, window=window,
        )  # fmt: skip
        sizes = DownSizes(rows, grid, y.shape[4] * outputs, outputs)
        down_few_kernel[-(-rows // config.rows) * -(-columns // config.columns),](
            _lines(x, window), w, y, epilogue, sizes, plan, **config.launch()
        )

    positions = y.shape[0] * math.prod(y.shape[2:])
    sizes = positions, outputs, inputs * math.prod(g.kernel)
    problem = tuning.Problem("down_few", x.device, x.dtype, *sizes, f"{g.kernel}{g.stride}{product}")
    run(tuning.choose(problem, triton_configs.of("down_few", product, x), run))


def weight_grad(x: Tensor, small: Tensor, geometry: Geometry, grad: Tensor) -> None:
    """Write to grad the weight gradient of the convolution from x, which has few channels, to `small`.

    Args:
        x: (N, C_x, T, H, W) of dense lines.
        small: (N, C_small, T, H, W) of dense lines.
        geometry: of the convolution.
        grad: (C_small, C_x, *kernel), or (C_x, C_small, *kernel) where flipped, dense with channels innermost.
    """
    g, inputs, outputs = geometry, x.shape[1], small.shape[1]
    product, small_volume = precision(x), volume(small)
    lines = g.kernel[0] * g.kernel[1]

    def run(config: tuning.Config) -> None:
        cell, depth, window = config.cell, elements(config, x), find_window(x, g, config.cell)
        grid = small.shape[2], small.shape[3], -(-small.shape[4] // cell)
        rows, part = small.shape[0] * math.prod(grid), cell * outputs * lines * window.line
        tiles = -(-cell * outputs // config.rows) * -(-lines * window.line // config.columns)
        splits = max(1, min(-(-2 * tuning.processors(x.device) // tiles), rows // (8 * depth), _SPLITS))
        share = -(-rows // (splits * depth)) * depth
        splits = -(-rows // share)
        parts = x.new_empty((splits, part), dtype=torch.float32)
        wide = max(extent(x), extent(small), parts.numel(), rows + share) >= _LARGE
        plan = FewPlan(*g[:3], cell, config.rows, config.columns, depth, product, wide, window=window)
        sizes = GradSizes(rows, share, grid, small.shape[4] * outputs, inputs, outputs, part)
        grad_few_kernel[tiles, splits](_lines(x, window), small_volume, parts, sizes, plan, **config.launch())
        fold_parts_kernel[-(-grad.numel() // 32),](
            parts,
            grad,
            FoldSizes(splits * cell, part, grad.numel(), inputs, outputs),
            FoldPlan(g.kernel, g.stride, cell, window.line, window.lead, g.flip),
            BLOCK_P=64,
            BLOCK=32,
            num_warps=4,
        )

    positions = small.shape[0] * math.prod(small.shape[2:])
    sizes = outputs, inputs * math.prod(g.kernel), positions
    flags = f"{g.kernel}{g.stride}{product}"
    problem = tuning.Problem("grad_few", x.device, x.dtype, *sizes, flags, splits=_SPLITS, cells_in_rows=True)
    run(tuning.choose(problem, triton_configs.of("grad_few", product, x), run))


def _from_first_tap(weight: Tensor, geometry: Geometry, dims: tuple[int, int]) -> FewWeight:
    """The weight as read from its first tap on; dims: those of inputs and outputs, where not flipped."""
    inputs, outputs = dims[::-1] if geometry.flip else dims
    first, taps = 0, weight.stride()[2:]
    if geometry.flip:
        first = sum((k - 1) * s for k, s in zip(geometry.kernel, taps, strict=True))
        taps = tuple(-s for s in taps)
    return FewWeight(weight, first, weight.stride(inputs), weight.stride(outputs), taps)


def _vector(weight: FewWeight, outputs: int) -> int:
    """The number of outputs that lie side by side in the weight and can be loaded at once."""
    vector = 16 // weight.data.element_size()
    distances = outputs, weight.first, weight.input, *weight.taps
    is_aligned = weight.data.data_ptr() % 16 == 0 and not any(n % vector for n in distances)
    return vector if weight.output == 1 and is_aligned else 1


def _lines(x: Tensor, window: Window) -> Lines:
    """The lines of x, with strides in groups of the window's alignment."""
    batch, _, *space = (s // window.align for s in x.stride())
    return Lines(x, batch, tuple(space[:2]), tuple(x.shape[2:]), x.shape[4] * x.shape[1] // window.align)


def _has_dense_lines(x: Tensor) -> bool:
    """Whether neighbouring positions in width lie side by side, with their channels."""
    return (x.stride(1) == 1 or x.shape[1] == 1) and (x.stride(4) == x.shape[1] or x.shape[4] == 1)


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
