"""Both gradients of a convolution in one call of stock PyTorch, on a GPU where auto leaves both gradients to it.

One call takes half the host's time of two. On the CPU each gradient has its own implementation.
"""

import torch
from torch import Tensor

from ... import choice, layout
from ...dispatch import is_plain
from ...weight_copies import to_dtype
from .. import reference
from ..geometry import Geometry


def is_joinable(*tensors: Tensor) -> bool:
    """Whether `both_gradients` may be tried: on a GPU, outside tracing, transforms and differentiation of backward.

    Args:
        tensors: the arguments dy, x and weight of `both_gradients`, of any shape.
    """
    return tensors[0].is_cuda and not torch.is_grad_enabled() and is_plain(tensors)


def both_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, impl: str
) -> tuple[Tensor, Tensor] | None:
    """Compute the gradients of x and of the weight at once, where `is_joinable`.

    Args:
        dy: (N, C_out, *space), gradient of the output, of x's dtype.
        x: (N, C_in, *space), input of forward.
        weight: as in forward, (C_in, C_out / groups, *kernel) if transposed, else (C_out, C_in / groups, *kernel).
        geometry: of forward, but for output_padding: that of conv_up from the small side to the large one.
        impl: "auto" or an implementation's name.

    Returns:
        dx and dweight, each in the dtype and shape of its primal, or None if another implementation computes either.
    """
    transposed, stride, padding, output_padding, dilation, groups = geometry
    large, small = (dy, x) if transposed else (x, dy)
    if transposed:
        data = choice.pick("conv_down", impl, dy, weight, stride, padding, dilation, groups)
    else:
        data = choice.pick("conv_up", impl, dy, weight, stride, padding, output_padding, dilation, groups)
    if data is not reference:
        return None
    kernel = weight.shape[2:]
    if choice.pick("conv_weight_grad", impl, large, small, kernel, stride, padding, dilation, groups) is not reference:
        return None
    output_padding = output_padding if transposed else [0] * len(stride)
    args = dy, x, to_dtype(weight, x.dtype), None, stride, padding, dilation, transposed, output_padding, groups
    dx, dweight, _ = torch.ops.aten.convolution_backward(*args, [True, True, False])
    dx = layout.in_format(dx, layout.format_of(dy, weight))
    return dx, layout.in_format(dweight.to(weight.dtype), layout.format_of(large, small))
