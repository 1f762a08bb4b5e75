"""Convolutions in Triton: the kernels that are launched, and their compile-time constants.

Tensors are (N, C, 1 to 3 sizes), float32, bfloat16 or float16; weights have that dtype or float32; sums are kept in
float32. The kernels read channels that are innermost in memory, so a contiguous tensor is rearranged first. In float32
the tensor cores compute in tf32 where torch.backends.cudnn allows that to stock PyTorch's convolutions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..activations import CODES
from ..layout import empty_with_channels_innermost, with_channels_innermost
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.arguments import Epilogue, Plan, Product, Prologue, Share, TapGeometry, Weight, tap_geometry, volume
from ..triton.descriptors import descriptor
from ..triton.launch import elements, extent, precision, with_innermost_channels
from ..triton.parts import add_parts, join_parts
from ..triton.support import on_its_device
from . import triton_few
from .fusion import NO_FUSION, Fusion
from .geometry import Geometry
from .protocol import Capabilities, Partials
from .triton_gather import gather_kernel
from .triton_weight_grad import weight_grad_kernel

CAPABILITIES = Capabilities(fusion=True, statistics_in_parts=True)

_FEW = 16  # with fewer input channels, a tile of one tap would be mostly empty
_MERGED_COLUMNS = 64  # the phases of a transposed convolution share one tile up to this many columns
_LARGE = 2**31
_SPLITS = 64  # parts of a sum, at most


def conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Transposed convolution (N, C_out, *L); arguments as protocol.Convolutions.conv_up."""
    geometry = Geometry(True, stride, padding, output_padding, dilation, groups)
    return conv_fused(x, weight, bias, geometry, NO_FUSION)[0]


def conv_down(x, weight, bias, stride, padding, dilation, groups):
    """Convolution (N, C_out, *S); arguments as protocol.Convolutions.conv_down."""
    geometry = Geometry(False, stride, padding, (0,) * len(stride), dilation, groups)
    return conv_fused(x, weight, bias, geometry, NO_FUSION)[0]


@on_its_device
def conv_fused(x, weight, bias, geometry, fusion):
    """Compute a convolution and `fusion`; arguments as protocol.FusedConvolutions.conv_fused.

    Returns:
        y; the mean and the biased variance, (C_out,) float32 (NaN for an empty batch), or None and None.
    """
    return _merge(*conv_with_parts(x, weight, bias, geometry, fusion))


@on_its_device
def conv_with_parts(x, weight, bias, geometry, fusion):
    """Compute a convolution and `fusion`; arguments as protocol.ConvolutionsWithParts.conv_with_parts.

    Returns:
        y; the argument `parts` of `merge_before_norm`: counts (P,), means (P, C_out) and sums of squared deviations
        (P, C_out) of parts of the output, or None where no statistics are wanted or the output is empty.
    """
    transposed, stride, padding, _, dilation, groups = geometry
    y = empty_with_channels_innermost(x, geometry.output_shape(x, weight))
    return _gather(x, weight, bias, _taps(transposed, weight.shape[2:], stride, padding, dilation), groups, fusion, y)


@on_its_device
def merge_before_norm(y, parts, following):
    """The statistics of a convolution's output, and what a batch norm that follows does with them, in one launch.

    Args:
        y: (N, C_out, *space), as conv_with_parts returned it.
        parts: as conv_with_parts returned them.
        following: the norm that follows.

    Returns:
        Mean, biased variance, scale and shift, (C_out,) float32: the norm of y is y · scale + shift.
    """
    if y.numel() == 0:
        return tuple(y.new_full((y.shape[1],), math.nan, dtype=torch.float32) for _ in range(4))
    count = y.numel() // y.shape[1]
    running = following.running_mean, following.running_var
    if not all(vector is None or vector.is_contiguous() for vector in running):
        mean, var, *known = join_parts(*parts, following=following, update=False)
        following.update(mean, var, count)
        return mean, var, *known
    return join_parts(*parts, following=following, update=count >= 2)


def _merge(y: Tensor, parts: Partials | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if parts is None:
        return y, None, None
    if y.numel() == 0:
        mean, var = (y.new_full((y.shape[1],), math.nan, dtype=torch.float32) for _ in range(2))
        return y, mean, var
    mean, var = join_parts(*parts)
    return y, mean, var


@on_its_device
def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups, in_float32=False):
    """Weight gradient (C_small, C_large / groups, *kernel_size); arguments as in protocol.Convolutions.

    A sum that is split over programs is added up by a second kernel in a fixed order, so that results can be repeated.
    """
    dtype = torch.float32 if in_float32 else large.dtype
    grad = empty_with_channels_innermost(large, (small.shape[1], large.shape[1] // groups, *kernel_size), dtype)
    if grad.numel() == 0 or small.numel() == 0:
        return grad.zero_()
    large, small = _deepen(with_channels_innermost(large)), _deepen(with_channels_innermost(small))
    geometry = _taps(False, kernel_size, stride, padding, dilation)
    if groups == 1 and max(geometry.dilation) == 1:
        few = triton_few.Geometry(geometry.kernel, geometry.stride, geometry.padding)
        for x, other, of in ((large, small, few), (small, large, few.mirror())):
            if of is not None and triton_few.weight_grad_serves(x, other, of):
                triton_few.weight_grad(x, other, of, grad)
                return grad
    return _weight_grad(large, small, grad, geometry, groups)


def _arrange(weight: Tensor, x: Tensor, up: bool, kind: str, product: str) -> Tensor:
    """The weight in the layout that the kernel's loop reads in whole vectors without waiting, by its machine code.

    With all phases in one tile, neighbouring output channels are far apart. tf32 on sm_90 needs the summed dimension
    innermost. With few input channels, the many output channels are.
    """
    input_dim = 0 if up else 1
    if kind == "gather_merged" or product == "tf32":
        return with_innermost_channels(weight, x.dtype, input_dim)
    return with_innermost_channels(weight, x.dtype, 1 - input_dim if kind == "gather_flat" else None)


def _is_describable(weight: Tensor, groups: int) -> bool:
    """Whether the copy engine can load the weight.

    With several groups, a tile could reach into the next group's input channels, whose infinities would become NaN.
    """
    return groups == 1 and _is_dense(weight, _innermost(weight))


def _innermost(weight: Tensor) -> int:
    return 1 if weight.stride(1) == 1 else 0


def _is_dense(x: Tensor, dim: int = 1) -> bool:
    """Whether the rows of a dimension lie one after the other, aligned for the copy engine, and 32 bits count them."""
    is_aligned = x.data_ptr() % 16 == 0 and x.shape[dim] * x.element_size() % 16 == 0
    return is_aligned and x.movedim(dim, -1).is_contiguous() and x.numel() < _LARGE


def _describe_positions(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A descriptor of x as (all positions, channels), loaded in boxes of (rows, columns)."""
    channels = x.shape[1]
    return descriptor(x, (x.numel() // channels, channels), (rows, columns))


def _describe_weight(weight: Tensor, is_deep: bool, columns: int, depth: int) -> TensorDescriptor:
    """A descriptor of the weight as one matrix per tap, loaded in boxes of one tap.

    Rows of the matrix are columns of the product if `is_deep`, else terms of its sum.
    """
    innermost, taps = _innermost(weight), weight.shape[2:].numel()
    shape = weight.shape[1 - innermost], taps, weight.shape[innermost]
    return descriptor(weight, shape, (columns, 1, depth) if is_deep else (depth, 1, columns))


def _taps(
    up: bool, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> TapGeometry:
    """The geometry of a convolution of one to three dimensions, in three: those it lacks in front have size 1."""
    front = 3 - len(stride)
    filled = zip((kernel, stride, padding, dilation), (1, 1, 0, 1), strict=True)
    return tap_geometry(up, *((fill,) * front + tuple(sizes) for sizes, fill in filled))


def _gather(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: TapGeometry, groups: int, fusion: Fusion, y: Tensor
) -> tuple[Tensor, Partials | None]:
    """Compute y, and its statistics in parts, by the kernel for the shape."""
    if y.numel() == 0:
        return y, _no_parts(y) if fusion.statistics else None
    deep, x, bias = _deepen(y), _deepen(with_channels_innermost(x)), None if bias is None else bias.contiguous()
    if groups == 1 and max(geometry.dilation) == 1 and not fusion.statistics:
        if _compute_few(
            geometry.up,
            x,
            weight,
            bias,
            triton_few.Geometry(geometry.kernel, geometry.stride, geometry.padding),
            fusion,
            deep,
        ):
            return y, None
    return y, _launch_gather(x, weight, bias, geometry, groups, fusion, deep)


def _launch_gather(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: TapGeometry, groups: int, fusion: Fusion, y: Tensor
) -> Partials | None:
    """Compute y by `gather_kernel`; five-dimensional tensors with channels innermost."""
    up, stride = geometry.up, geometry.stride
    inputs, outputs = x.shape[1] // groups, y.shape[1] // groups
    phases = math.prod(stride) if up else 1
    space = tuple(y.shape[2:])
    grid = tuple(-(-n // s) for n, s in zip(space, stride, strict=True)) if up else space
    rows, taps = x.shape[0] * math.prod(grid), math.prod(geometry.kernel)
    norm, product = fusion.scale is not None, precision(x)
    kind = _kind(inputs, outputs, taps, phases, norm, fusion.statistics)
    weight = _deepen(_arrange(weight, x, up, kind, product))
    merged = kind == "gather_merged"
    is_deep = _innermost(weight) == (0 if up else 1)  # the dimension that is summed
    columns, phases = (outputs * phases, 1) if merged else (outputs, phases)
    flags = f"{'up' if up else 'down'}{stride}{product}{'n' * norm}"
    x_volume, y_volume, prologue = volume(x), volume(y), Prologue(fusion.scale, fusion.shift, fusion.in_slope)
    strides = weight.stride()
    w = Weight(
        weight, weight.shape[0] // groups * strides[0], strides[1 if up else 0], strides[0 if up else 1], strides[2:]
    )
    sizes = Product(rows, grid, inputs, outputs)
    wide = max(extent(x), extent(y), rows * phases) >= _LARGE
    parts = None

    def run(config: tuning.Config) -> None:
        nonlocal parts
        depth = elements(config, x)
        blocks = -(-rows // config.rows) * phases
        if fusion.statistics:
            parts = _new_parts(x, blocks, y.shape[1])
        plan = Plan(
            geometry, config.rows, config.columns, depth, product, inputs % depth == 0, wide, norm,
            CODES[fusion.in_activation], CODES[fusion.activation], fusion.statistics, kind == "gather_flat", merged,
            is_deep,
        )  # fmt: skip
        gather_kernel[blocks * -(-columns // config.columns), groups](
            x_volume,
            prologue,
            w,
            _describe_weight(weight, is_deep, config.columns, depth) if config.tma else None,
            y_volume,
            Epilogue(bias, fusion.slope, *parts) if parts else Epilogue(bias, fusion.slope),
            sizes,
            plan,
            **config.launch(),
        )

    problem = tuning.Problem(
        *(kind, x.device, x.dtype, rows, columns, inputs * taps // phases, flags),
        tiles=phases * groups, tma=kind == "gather" and _is_describable(weight, groups),
    )  # fmt: skip
    run(tuning.choose(problem, triton_configs.of(kind, product, x), run))
    return parts


def _compute_few(
    up: bool, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: triton_few.Geometry, fusion: Fusion, y: Tensor
) -> bool:
    """Compute y by a kernel for few channels, directly or as the opposite kind of convolution, if one serves."""
    weight = _deepen(weight)
    for is_up, of in ((up, geometry), (not up, geometry.mirror())):
        if of is None:
            continue
        if is_up and triton_few.up_serves(x, y, of):
            triton_few.up(x, weight, bias, of, fusion, y)
            return True
        if not is_up and fusion.scale is None and triton_few.down_serves(x, of):
            triton_few.down(x, weight, bias, of, fusion, y)
            return True
    return False


def _kind(inputs: int, outputs: int, taps: int, phases: int, has_norm: bool, has_statistics: bool) -> str:
    """The kernel's loop for these sizes, which is also the name of the table with its configurations."""
    if inputs < _FEW and taps > 1:
        return "gather_flat"
    if phases > 1 and outputs * phases <= _MERGED_COLUMNS and not has_statistics:
        return "gather_merged"
    return "gather_fused" if has_norm or has_statistics else "gather"


def _no_parts(y: Tensor) -> Partials:
    means, m2s = y.new_empty((2, 0, y.shape[1]), dtype=torch.float32).unbind()
    return y.new_empty(0, dtype=torch.float32), means, m2s


def _new_parts(x: Tensor, blocks: int, channels: int) -> Partials:
    """Counts (P,), means and sums of squared deviations (P, C), one part per block of rows."""
    means, m2s = x.new_empty((2, blocks, channels), dtype=torch.float32).unbind()
    return x.new_empty(blocks, dtype=torch.float32), means, m2s


def _weight_grad(large: Tensor, small: Tensor, grad: Tensor, geometry: TapGeometry, groups: int) -> Tensor:
    """Compute the weight gradient by `weight_grad_kernel`; five-dimensional tensors with channels innermost."""
    inputs, outputs = large.shape[1] // groups, small.shape[1] // groups
    total, taps = small.shape[0] * math.prod(small.shape[2:]), math.prod(geometry.kernel)
    is_flat = inputs < _FEW and taps > 1
    columns, cells = (taps * inputs, 1) if is_flat else (inputs, taps)
    product = precision(large)
    kind = "weight_grad_flat" if is_flat else "weight_grad"
    wide = max(extent(large), extent(small), _SPLITS * grad.numel()) >= _LARGE
    large_volume, small_volume = volume(large), volume(small)

    def run(config: tuning.Config) -> None:
        depth = elements(config, large)
        tiles = -(-outputs // config.rows) * -(-columns // config.columns) * cells * groups
        splits = count_splits(total, depth, tiles, grad)
        share = -(-total // (splits * depth)) * depth
        to = grad if splits == 1 else grad.new_empty((splits, 1, grad.numel()), dtype=torch.float32)
        plan = Plan(geometry, config.rows, config.columns, depth, product, wide=wide, flat=is_flat)
        weight_grad_kernel[tiles, splits](
            large_volume,
            small_volume,
            _describe_positions(small, depth, config.rows) if config.tma else None,
            to,
            Share(total, share, grad.numel(), inputs, outputs),
            plan,
            **config.launch(),
        )
        if splits > 1:
            add_parts(to, grad)

    problem = tuning.Problem(
        *(kind, large.device, large.dtype, outputs, columns, total, product),
        tiles=cells * groups, splits=_SPLITS, tma=kind == "weight_grad" and not wide and _is_dense(small),
    )  # fmt: skip
    run(tuning.choose(problem, triton_configs.of(kind, product, large), run))
    return grad


def count_splits(total: int, depth: int, tiles: int, grad: Tensor) -> int:
    """The number of programs that share a sum: for two per multiprocessor, each with at least eight steps.

    Args:
        total: terms of the sum.
        depth: terms per step.
        tiles: tiles of the result.
        grad: the result, any shape.
    """
    wanted = -(-2 * tuning.processors(grad.device) // tiles)
    return max(1, min(wanted, total // (8 * depth), _SPLITS))


def _deepen(x: Tensor) -> Tensor:
    """x with three spatial dimensions, where those it lacks are in front, of size 1."""
    while x.dim() < 5:
        x = x.unsqueeze(2)
    return x
