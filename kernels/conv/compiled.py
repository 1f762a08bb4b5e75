"""The convolutions in C++ (csrc/cpu): the schemas, and the functions that call them.

Tensors are (N, C, 1 to 3 sizes), float32, bfloat16 or float16; sums are kept in float32. Channels lie side by side in
memory there, so a contiguous tensor is rearranged first.
"""

import torch

from .. import extension
from ..norm_act.reference import ACTIVATIONS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

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


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    if extension.load() is None:
        return extension.reason()
    if not x.is_cpu:
        return f"it is for the CPU, not for {x.device.type}"
    if x.dtype not in DTYPES:
        return f"{x.dtype} is not one of float32, bfloat16 and float16"
    return None


def conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Transposed convolution; arguments as fastvgan_kernels.conv_up, with one integer a spatial dimension."""
    geometry = zip(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    size = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, e, d in geometry]
    y = _empty(x, (x.shape[0], weight.shape[1] * groups, *size))
    _gather(torch.ops.fastvgan_compiled.conv_up, x, weight, bias, stride, padding, dilation, groups, y)
    return y


def conv_down(x, weight, bias, stride, padding, dilation, groups):
    """Convolution; arguments as fastvgan_kernels.conv_down, with one integer a spatial dimension."""
    geometry = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in geometry]
    y = _empty(x, (x.shape[0], weight.shape[0], *size))
    _gather(torch.ops.fastvgan_compiled.conv_down, x, weight, bias, stride, padding, dilation, groups, y)
    return y


def conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups):
    """Weight gradient; arguments as fastvgan_kernels.conv_weight_grad, with one integer a spatial dimension."""
    grad = large.new_empty((small.shape[1], large.shape[1] // groups, *kernel_size))
    torch.ops.fastvgan_compiled.conv_weight_grad(
        _side_by_side(large), _side_by_side(small), stride, padding, dilation, groups, grad
    )
    return grad


def _gather(operation, x, weight, bias, stride, padding, dilation, groups, y):
    bias = None if bias is None else bias.to(torch.float32).contiguous()
    none = ACTIVATIONS.index("none")
    operation(
        _side_by_side(x), weight, bias, stride, padding, dilation, groups, None, None, none, 0, none, 0, y, None, None
    )


def _side_by_side(x: torch.Tensor) -> torch.Tensor:
    """x with its channels innermost; other strides are free."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    n, channels, *space = shape
    return x.new_empty((n, *space, channels)).movedim(-1, 1)
