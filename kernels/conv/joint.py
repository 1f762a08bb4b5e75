"""Both gradients of a convolution in one call of stock PyTorch's, where auto leaves both to it on a GPU.

Two calls would cost the host twice what one does. On the CPU, where each gradient is chosen apart, nothing changes.
"""

import torch

from .. import choice, layout
from ..dispatch import is_plain
from ..weight_copies import to_dtype
from . import reference


def both_gradients(transposed, dy, x, weight, stride, padding, extra, dilation, groups, impl):
    """The gradients of x and of the weight, or None where they are to be computed one by one.

    Args:
        transposed: whether of conv_up or of conv_down.
        dy: gradient of the output, of x's dtype; x, weight: what forward took.
        stride, padding, dilation, groups, impl: those of forward.
        extra: the output_padding of conv_up from the small side to the large one.

    Returns:
        dx and dweight, each in the dtype and shape of what it is the gradient of, or None.
    """
    if not _may_join(dy, x, weight):
        return None
    large, small = (dy, x) if transposed else (x, dy)
    if transposed:
        data = choice.pick("conv_down", impl, dy, weight, stride, padding, dilation, groups)
    else:
        data = choice.pick("conv_up", impl, dy, weight, stride, padding, extra, dilation, groups)
    if data is not reference:
        return None
    kernel = weight.shape[2:]
    if choice.pick("conv_weight_grad", impl, large, small, kernel, stride, padding, dilation, groups) is not reference:
        return None
    extra = extra if transposed else [0] * len(stride)
    given = dy, x, to_dtype(weight, x.dtype), None, stride, padding, dilation, transposed, extra, groups
    dx, dweight, _ = torch.ops.aten.convolution_backward(*given, [True, True, False])
    dx = layout.in_format(dx, layout.format_of(dy, weight))
    return dx, layout.in_format(dweight.to(weight.dtype), layout.format_of(large, small))


def _may_join(*tensors: torch.Tensor) -> bool:
    """On a GPU, with nothing that traces, transforms or differentiates what backward does."""
    return tensors[0].is_cuda and not torch.is_grad_enabled() and is_plain(tensors)
