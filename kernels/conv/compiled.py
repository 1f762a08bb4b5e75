"""The convolutions in C++ (csrc/cpu): the schemas and their callers.

Tensors are (N, C, 1 to 3 sizes) in float32, bfloat16 or float16; weights have that dtype or are float32; sums are
accumulated in float32. The C++ code reads tensors with channels innermost, so others are copied to that layout first.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import layout
from ..activations import CODES
from ..compiled_support import as_float32, cpu_refusal, empty
from ..layout import with_channels_innermost
from .fusion import NO_FUSION, Fusion
from .geometry import Geometry
from .protocol import Capabilities

CAPABILITIES = Capabilities(fusion=True)  # statistics come merged, not in parts

refusal = cpu_refusal

_GATHER = (
    "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, Tensor? scale, "
    "Tensor? shift, int in_activation, float in_slope, int activation, float slope, Tensor(a!) y, Tensor(b!)? mean, "
    "Tensor(c!)? var"
)
_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(f"conv_up({_GATHER}) -> ()")
_library.define(f"conv_down({_GATHER}) -> ()")
_library.define(
    "conv_weight_grad(Tensor large, Tensor small, int[] stride, int[] padding, int[] dilation, int groups, "
    "Tensor(a!) grad) -> ()"
)


def conv_up(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Transposed convolution (N, C_out, *L); arguments as protocol.Convolutions.conv_up."""
    geometry = Geometry(True, stride, padding, output_padding, dilation, groups)
    return conv_fused(x, weight, bias, geometry, NO_FUSION)[0]


def conv_down(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution (N, C_out, *S); arguments as protocol.Convolutions.conv_down."""
    geometry = Geometry(False, stride, padding, (0,) * len(stride), dilation, groups)
    return conv_fused(x, weight, bias, geometry, NO_FUSION)[0]


def conv_fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, fusion: Fusion
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute a convolution together with `fusion`.

    Args:
        x: (N, C_in, *space).
        weight: (C_in, C_out / groups, *kernel) of a transposed convolution, else (C_out, C_in / groups, *kernel).
        bias: (C_out,) or None.
        geometry: of the convolution.
        fusion: the work to compute along with it.

    Returns:
        y; the mean and the biased variance, (C_out,) float32 (NaN for an empty batch), or None and None.
    """
    y = empty(x, geometry.output_shape(x, weight))
    operations = torch.ops.fastvgan_compiled
    operation = operations.conv_up if geometry.transposed else operations.conv_down
    return _gather(operation, x, weight, bias, geometry, fusion, y)


def conv_up_to(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Write conv_up(x, weight) to y.

    Args:
        y: (N, C_out, *L) of the result's shape and dtype, with channels innermost; its other strides may be any.
        x: (N, C_in, *S).
        weight: (C_in, C_out / groups, *kernel).
        stride: one integer per spatial dimension.
        padding: as stride.
        dilation: as stride.
        groups: the number of blocked connections from input to output channels.
    """
    geometry = Geometry(True, stride, padding, (0,) * len(stride), dilation, groups)  # y's sizes are given
    _gather(torch.ops.fastvgan_compiled.conv_up, x, weight, None, geometry, NO_FUSION, y)


def conv_weight_grad(
    large: Tensor,
    small: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_float32: bool = False,
) -> Tensor:
    """Weight gradient (C_small, C_large / groups, *kernel_size); arguments as in protocol.Convolutions."""
    shape = (small.shape[1], large.shape[1] // groups, *kernel_size)
    dtype = torch.float32 if in_float32 else large.dtype
    grad = layout.empty(shape, large, layout.format_of(large, small), dtype)
    torch.ops.fastvgan_compiled.conv_weight_grad(
        with_channels_innermost(large), with_channels_innermost(small), stride, padding, dilation, groups, grad
    )
    return grad


def _gather(
    operation: Callable[..., None],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    fusion: Fusion,
    y: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    _, stride, padding, _, dilation, groups = geometry
    bias, scale, shift = map(as_float32, (bias, fusion.scale, fusion.shift))
    mean = var = None
    if fusion.statistics:
        mean, var = (x.new_empty(y.shape[1], dtype=torch.float32) for _ in range(2))
    operation(
        *(with_channels_innermost(x), weight, bias, stride, padding, dilation, groups, scale, shift),
        *(CODES[fusion.in_activation], fusion.in_slope),
        *(CODES[fusion.activation], fusion.slope, y, mean, var),
    )
    return y, mean, var
