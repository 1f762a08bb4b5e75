"""The convolutions in Triton: what is launched, and with which constants.

Tensors are (N, C, 1 to 3 sizes), float32, bfloat16 or float16; weights of that dtype or float32; sums are kept in
float32. Channels lie side by side in memory there, so a contiguous tensor is rearranged first. In float32 the tensor
cores' tf32 is used where torch.backends.cudnn allows it to stock PyTorch's convolutions.
"""

import math
from functools import lru_cache

import torch

from ..activations import CODES
from ..layout import empty_with_channels_innermost, with_channels_innermost
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.descriptors import descriptor
from ..triton.launch import elements, precision, reach, side_by_side_weight
from ..triton.parts import added, joined
from ..triton.support import on_its_device
from . import triton_few
from .fusion import NO_FUSION
from .geometry import Geometry
from .protocol import Capabilities
from .triton_gather import gather
from .triton_weight_grad import weight_grad

CAPABILITIES = Capabilities(fusion=True, statistics_in_parts=True)

_FEW = 16  # input channels: below, a tile of one tap would be mostly empty
_MERGED_COLUMNS = 64  # up to which a transposed convolution's phases share one tile
_LARGE = 2**31
_SPLITS = 64  # of a sum, at most


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
    return _gather(transposed, x, weight, bias, stride, padding, dilation, groups, fusion, y)


@on_its_device
def merge_before_norm(y, parts, following):
    """The statistics of a convolution's output, and what a batch norm that follows does with them, in one launch.

    Args:
        y, parts: as conv_with_parts returned them. following: a norm_act.following.Following.

    Returns:
        Mean, biased variance, scale and shift, (C_out,) float32: the norm of y is y · scale + shift.
    """
    if y.numel() == 0:
        return tuple(y.new_full((y.shape[1],), math.nan, dtype=torch.float32) for _ in range(4))
    count = y.numel() // y.shape[1]
    running = following.running_mean, following.running_var
    if not all(vector is None or vector.is_contiguous() for vector in running):
        mean, var, *known = joined(*parts, following=following, update=False)
        following.update(mean, var, count)
        return mean, var, *known
    return joined(*parts, following=following, update=count >= 2)


def _merge(y, parts):
    if parts is None:
        return y, None, None
    if y.numel() == 0:
        return y, *(y.new_full((y.shape[1],), math.nan, dtype=torch.float32) for _ in range(2))
    return y, *joined(*parts)


@on_its_device
def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups, in_float32=False):
    """Weight gradient; arguments as fastvgan_kernels.conv_weight_grad, with one integer a spatial dimension.

    A sum that is split over programs is added up by a second kernel in a fixed order, so that results can be repeated.
    """
    dtype = torch.float32 if in_float32 else large.dtype
    grad = empty_with_channels_innermost(large, (small.shape[1], large.shape[1] // groups, *kernel_size), dtype)
    if grad.numel() == 0 or small.numel() == 0:
        return grad.zero_()
    large, small = _deep(with_channels_innermost(large)), _deep(with_channels_innermost(small))
    kernel, stride, padding, dilation = _three(kernel_size, stride, padding, dilation)
    if groups == 1 and max(dilation) == 1:
        geometry = triton_few.Geometry(kernel, stride, padding)
        for x, other, of in ((large, small, geometry), (small, large, geometry.mirrored())):
            if of is not None and triton_few.weight_grad_serves(x, other, of):
                triton_few.weight_grad(x, other, of, grad)
                return grad
    return _weight_grad(large, small, grad, kernel, stride, padding, dilation, groups)


def _arranged(weight, x, up, kind, product):
    """The weight as the kernel's loop reads it in whole vectors without waiting, seen in the compiled code.

    With phases in one tile neighbouring output channels are far apart; tf32 on sm_90 wants what is summed innermost; of
    few input channels it is the output's that are many.
    """
    input_dim = 0 if up else 1
    if kind == "gather_merged" or product == "tf32":
        return side_by_side_weight(weight, x.dtype, input_dim)
    return side_by_side_weight(weight, x.dtype, 1 - input_dim if kind == "gather_flat" else None)


def _describable(weight, groups):
    """Whether the copy engine takes the weight.

    Of several groups a tile could reach into the next one's input channels, whose infinities would make NaN.
    """
    return groups == 1 and _dense(weight, _innermost(weight))


def _innermost(weight):
    return 1 if weight.stride(1) == 1 else 0


def _dense(x, dim=1):
    """Whether rows of that dimension lie one after the other, as the copy engine takes them, and 32 bits count them."""
    aligned = x.data_ptr() % 16 == 0 and x.shape[dim] * x.element_size() % 16 == 0
    return aligned and x.movedim(dim, -1).is_contiguous() and x.numel() < _LARGE


def _positions(x, rows, columns):
    """(all positions, channels) of x, in boxes of so many."""
    channels = x.shape[1]
    return descriptor(x, (x.numel() // channels, channels), (rows, columns))


def _descriptor(weight, deep, columns, depth):
    """The weight as a matrix for each tap, in boxes of one tap; rows are columns of the product where `deep`."""
    innermost, taps = _innermost(weight), weight.shape[2:].numel()
    shape = weight.shape[1 - innermost], taps, weight.shape[innermost]
    return descriptor(weight, shape, (columns, 1, depth) if deep else (depth, 1, columns))


@lru_cache(maxsize=1024)
def constants(up: bool, kernel, stride, padding, dilation) -> dict:
    """The geometry as triton_gather.gather takes it; three integers each."""
    step, shift, low, reached = [], [], [], []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        common = math.gcd(s, d)
        step.append(s // common if up else 1)
        shift.append(-(d // common) if up else d)
        low.append(-((d * (k - 1) - p) // s))
        reached.append((p + s - 1) // s - low[-1] + 1)
    return {
        "UP": up, "KERNEL": kernel, "STRIDE": stride, "PADDING": padding, "DILATION": dilation,
        "STEP": tuple(step), "SHIFT": tuple(shift), "LOW": tuple(low), "REACH": tuple(reached),
    }  # fmt: skip


def _gather(up, x, weight, bias, stride, padding, dilation, groups, fusion, y):
    if y.numel() == 0:
        return y, _no_parts(y) if fusion.statistics else None
    deep, x, bias = _deep(y), _deep(with_channels_innermost(x)), None if bias is None else bias.contiguous()
    kernel, stride, padding, dilation = _three(weight.shape[2:], stride, padding, dilation)
    if groups == 1 and max(dilation) == 1 and not fusion.statistics:
        if _few(up, x, weight, bias, triton_few.Geometry(kernel, stride, padding), fusion, deep):
            return y, None
    inputs, outputs = x.shape[1] // groups, y.shape[1] // groups
    phases = math.prod(stride) if up else 1
    grid = tuple(-(-n // s) for n, s in zip(deep.shape[2:], stride, strict=True)) if up else tuple(deep.shape[2:])
    rows, taps = x.shape[0] * math.prod(grid), math.prod(kernel)
    norm, product = fusion.scale is not None, precision(x)
    kind = _kind(inputs, outputs, taps, phases, norm, fusion.statistics)
    weight = _deep(_arranged(weight, x, up, kind, product))
    merged = kind == "gather_merged"
    deep_weight = _innermost(weight) == (0 if up else 1)  # the dimension that is summed
    columns, phases = (outputs * phases, 1) if merged else (outputs, phases)
    flags = f"{'up' if up else 'down'}{stride}{product}{'n' * norm}"
    parts = None

    def run(config):
        nonlocal parts
        depth = elements(config, x)
        blocks = -(-rows // config.rows) * phases
        if fusion.statistics:
            parts = _parts(x, blocks, y.shape[1])
        counts, means, m2s = parts if parts else (None, None, None)
        loaded = _descriptor(weight, deep_weight, config.columns, depth) if config.tma else weight
        gather[blocks * -(-columns // config.columns), groups](
            x, loaded, bias, fusion.scale, fusion.shift, deep, counts, means, m2s, rows, grid,
            tuple(x.shape[2:]), tuple(deep.shape[2:]), x.stride(0), x.stride()[2:], deep.stride(0), deep.stride()[2:],
            weight.shape[0] // groups * weight.stride(0), weight.stride(1 if up else 0), weight.stride(0 if up else 1),
            weight.stride()[2:], inputs, outputs, fusion.in_slope, fusion.slope,
            **constants(up, kernel, stride, padding, dilation), NORM=norm,
            IN_ACTIVATION=CODES[fusion.in_activation], ACTIVATION=CODES[fusion.activation],
            STATISTICS=fusion.statistics, FLAT=kind == "gather_flat", MERGED=merged, EVEN=inputs % depth == 0,
            WIDE=max(reach(x), reach(deep), rows * phases) >= _LARGE, TMA=config.tma, DEEP=deep_weight,
            PRECISION=product, BM=config.rows, BN=config.columns, BK=depth, **config.launch(),
        )  # fmt: skip

    problem = tuning.Problem(
        *(kind, x.device, x.dtype, rows, columns, inputs * taps // phases, flags),
        tiles=phases * groups, tma=kind == "gather" and _describable(weight, groups),
    )  # fmt: skip
    run(tuning.choose(problem, triton_configs.of(kind, product, x), run))
    return y, parts


def _few(up, x, weight, bias, geometry, fusion, y):
    """Compute y by a kernel for few channels, directly or as the opposite kind of convolution; whether there is one."""
    weight = _deep(weight)
    for is_up, of in ((up, geometry), (not up, geometry.mirrored())):
        if of is None:
            continue
        if is_up and triton_few.up_serves(x, y, of):
            triton_few.up(x, weight, bias, of, fusion, y)
            return True
        if not is_up and fusion.scale is None and triton_few.down_serves(x, of):
            triton_few.down(x, weight, bias, of, fusion, y)
            return True
    return False


def _kind(inputs, outputs, taps, phases, norm, statistics):
    """Which of its loops the kernel runs, and with that the table of its configurations."""
    if inputs < _FEW and taps > 1:
        return "gather_flat"
    if phases > 1 and outputs * phases <= _MERGED_COLUMNS and not statistics:
        return "gather_merged"
    return "gather_fused" if norm or statistics else "gather"


def _no_parts(y):
    return y.new_empty(0, dtype=torch.float32), *y.new_empty((2, 0, y.shape[1]), dtype=torch.float32).unbind()


def _parts(x, blocks, channels):
    """Counts, means and sums of squared deviations of each block of rows."""
    means = x.new_empty((2, blocks, channels), dtype=torch.float32)
    return x.new_empty(blocks, dtype=torch.float32), *means.unbind()


def _weight_grad(large, small, grad, kernel, stride, padding, dilation, groups):
    inputs, outputs = large.shape[1] // groups, small.shape[1] // groups
    total, taps = small.shape[0] * math.prod(small.shape[2:]), math.prod(kernel)
    flat = inputs < _FEW and taps > 1
    columns, cells = (taps * inputs, 1) if flat else (inputs, taps)
    product = precision(large)
    kind = "weight_grad_flat" if flat else "weight_grad"
    wide = max(reach(large), reach(small), _SPLITS * grad.numel()) >= _LARGE

    def run(config):
        depth = elements(config, large)
        tiles = -(-outputs // config.rows) * -(-columns // config.columns) * cells * groups
        splits = splits_of(total, depth, tiles, grad)
        share = -(-total // (splits * depth)) * depth
        to = grad if splits == 1 else grad.new_empty((splits, 1, grad.numel()), dtype=torch.float32)
        loaded = _positions(small, depth, config.rows) if config.tma else small
        weight_grad[tiles, splits](
            large, loaded, to, total, share, grad.numel(), tuple(small.shape[2:]), tuple(large.shape[2:]),
            large.stride(0), large.stride()[2:], small.stride(0), small.stride()[2:], inputs, outputs,
            KERNEL=kernel, STRIDE=stride, PADDING=padding, DILATION=dilation, FLAT=flat,
            WIDE=wide, TMA=config.tma, PRECISION=product,
            BM=config.rows, BN=config.columns, BK=depth, **config.launch(),
        )  # fmt: skip
        if splits > 1:
            added(to, grad)

    problem = tuning.Problem(
        kind,
        large.device,
        large.dtype,
        outputs,
        columns,
        total,
        product,
        tiles=cells * groups,
        splits=_SPLITS,
        tma=kind == "weight_grad" and not wide and _dense(small),
    )
    run(tuning.choose(problem, triton_configs.of(kind, product, large), run))
    return grad


def splits_of(total: int, depth: int, tiles: int, grad: torch.Tensor) -> int:
    """Into how many programs the sum is split: to about two a multiprocessor, of at least eight steps each."""
    wanted = -(-2 * tuning.processors(grad.device) // tiles)
    return max(1, min(wanted, total // (8 * depth), _SPLITS))


def _deep(x: torch.Tensor) -> torch.Tensor:
    """x with three spatial dimensions, those it lacks of size 1 in front."""
    while x.dim() < 5:
        x = x.unsqueeze(2)
    return x


def _three(kernel, stride, padding, dilation):
    front = 3 - len(stride)
    filled = zip((kernel, stride, padding, dilation), (1, 1, 0, 1), strict=True)
    return tuple((fill,) * front + tuple(values[-len(stride) :]) for values, fill in filled)
