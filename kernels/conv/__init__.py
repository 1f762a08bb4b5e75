"""The convolutions: three bilinear operations, each of which has the other two as its derivatives.

    conv_down         y = conv(x, w)          dx by conv_up, dw by conv_weight_grad
    conv_up           y = convᵀ(x, w)         dx by conv_down, dw by conv_weight_grad
    conv_weight_grad  dw of either            d large by conv_up, d small by conv_down

They have 1 to 3 spatial dimensions. `*L` are the sizes of the large side (a convolution's input, a transposed
convolution's output), `*S` those of the small side.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import choice, extension, layout
from ..arguments import check_same_kind, integers
from ..dispatch import autocasts, define, differentiable
from ..measured import on_gpu, rules
from . import compiled, reference, sizes
from .checks import check_arguments
from .geometry import Geometry, Sizes
from .protocol import Convolutions
from .stock import direct, on_cpu
from .stock.joint import both_gradients, is_joinable

for _operation, _on_cpu, _on_gpu in (
    ("conv_up", on_cpu.conv_up_slower, on_gpu.conv_up_slower),
    ("conv_down", on_cpu.conv_down_slower, on_gpu.conv_down_slower),
    ("conv_weight_grad", on_cpu.conv_weight_grad_slower, on_gpu.conv_weight_grad_slower),
):
    choice.register(
        _operation,
        cpp=choice.Implementation(compiled, refusal=compiled.refusal, missing=extension.reason, slower=_on_cpu),
        triton=choice.in_triton(__name__, _on_gpu, rules.has(_operation)),
        reference=choice.Implementation(reference),
    )


def conv_up(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Transposed convolution, as torch.nn.functional.conv_transpose1d, 2d and 3d.

    Args:
        x: (N, C_in, *S), 1 to 3 spatial dimensions, any floating-point dtype.
        weight: (C_in, C_out / groups, *kernel), as torch.nn.ConvTranspose3d keeps it, of x's dtype.
        bias: (C_out,) or None.
        stride: one integer, or one per spatial dimension.
        padding: as stride.
        output_padding: as stride, and smaller than the stride or the dilation.
        dilation: as stride.
        groups: the number of blocked connections from input to output channels.
        impl: "auto" or an implementation's name.

    Returns:
        (N, C_out, *L), L = (S - 1)·stride - 2·padding + dilation·(kernel - 1) + output_padding + 1, channels-last
        where x or weight is, or in stock PyTorch's memory format where "auto" calls that directly.

    Raises:
        ValueError: sizes that do not fit, or a named implementation that cannot run.
        TypeError: dtypes that are not floating-point or differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    given = True, stride, padding, output_padding, dilation, groups
    if impl == "auto":
        y = direct.convolve(x, weight, bias, given)
        if y is not None:
            return y
    return conv_up_op(x, weight, bias, *check_arguments(x, weight, bias, given, impl)[1:], impl)


def conv_down(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Convolution, as torch.nn.functional.conv1d, 2d and 3d.

    Args:
        x: (N, C_in, *L), 1 to 3 spatial dimensions, any floating-point dtype.
        weight: (C_out, C_in / groups, *kernel), as torch.nn.Conv3d keeps it, of x's dtype.
        bias: (C_out,) or None.
        stride: one integer, or one per spatial dimension.
        padding: as stride.
        dilation: as stride.
        groups: the number of blocked connections from input to output channels.
        impl: "auto" or an implementation's name.

    Returns:
        (N, C_out, *S), S = ⌊(L + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1, channels-last where x or
        weight is, or in stock PyTorch's memory format where "auto" calls that directly.

    Raises:
        ValueError: sizes that do not fit, or a named implementation that cannot run.
        TypeError: dtypes that are not floating-point or differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 2.
    """
    given = False, stride, padding, 0, dilation, groups
    if impl == "auto":
        y = direct.convolve(x, weight, bias, given)
        if y is not None:
            return y
    geometry = check_arguments(x, weight, bias, given, impl)
    return conv_down_op(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, groups, impl)


def conv_weight_grad(
    large: torch.Tensor,
    small: torch.Tensor,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Compute the gradient of the weight of a convolution or of a transposed convolution.

        dw[a, b, j] = Σ over n, i of small[n, a, i] · large[n, b, i·stride - padding + j·dilation]

    Args:
        large: (N, C_large, *L): x of conv_down, the gradient of the output of conv_up.
        small: (N, C_small, *S): the gradient of the output of conv_down, x of conv_up.
        kernel_size: one integer, or one per spatial dimension.
        stride: of the convolution, as kernel_size.
        padding: as stride.
        dilation: as stride.
        groups: the number of blocked connections from input to output channels.
        impl: "auto" or an implementation's name.

    Returns:
        (C_small, C_large / groups, *kernel_size), channels-last where large or small is.

    Raises:
        ValueError: sizes that do not fit, or a named implementation that cannot run.
        TypeError: dtypes that are not floating-point or differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    choice.check_name(impl)
    check_same_kind("large", large, small=small)
    dims = large.dim() - 2
    if dims not in (1, 2, 3) or small.dim() != large.dim() or small.shape[0] != large.shape[0]:
        raise ValueError(f"large {tuple(large.shape)} and small {tuple(small.shape)} must be (N, C, 1 to 3 sizes)")
    if groups < 1 or large.shape[1] % groups or small.shape[1] % groups:
        raise ValueError(f"{large.shape[1]} and {small.shape[1]} channels are not both divisible by groups={groups}")
    kernel_size = integers("kernel_size", kernel_size, dims, 1)
    stride, padding = integers("stride", stride, dims, 1), integers("padding", padding, dims, 0)
    dilation = integers("dilation", dilation, dims, 1)
    for extra, s, d in zip(
        sizes.output_padding(large.shape[2:], small.shape[2:], kernel_size, stride, padding, dilation),
        stride,
        dilation,
        strict=True,
    ):
        if not 0 <= extra < max(s, d):
            raise ValueError(
                f"no convolution of kernel {kernel_size}, stride {stride}, padding {padding} and dilation {dilation} "
                f"turns size {tuple(large.shape[2:])} into {tuple(small.shape[2:])}"
            )
    return conv_weight_grad_op(large, small, kernel_size, stride, padding, dilation, groups, False, impl)


def _up_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    impl: str,
) -> Tensor:
    functions: Convolutions = choice.pick("conv_up", impl, x, weight, stride, padding, output_padding, dilation, groups)
    y = functions.conv_up(x, weight, bias, stride, padding, output_padding, dilation, groups)
    return layout.in_format(y, layout.format_of(x, weight))


def _up_fake(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    shape = Geometry(True, *rest[:-1]).output_shape(x, weight)
    return layout.empty(shape, x, layout.format_of(x, weight))


def _down_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    impl: str,
) -> Tensor:
    functions: Convolutions = choice.pick("conv_down", impl, x, weight, stride, padding, dilation, groups)
    y = functions.conv_down(x, weight, bias, stride, padding, dilation, groups)
    return layout.in_format(y, layout.format_of(x, weight))


def _down_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    impl: str,
) -> Tensor:
    size = sizes.small(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return layout.empty((x.shape[0], weight.shape[0], *size), x, layout.format_of(x, weight))


def _weight_grad_kernel(
    large: Tensor,
    small: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    in_float32: bool,
    impl: str,
) -> Tensor:
    functions: Convolutions = choice.pick(
        "conv_weight_grad", impl, large, small, kernel_size, stride, padding, dilation, groups
    )
    grad = functions.conv_weight_grad(large, small, kernel_size, stride, padding, dilation, groups, in_float32)
    return layout.in_format(grad, layout.format_of(large, small))


def _weight_grad_fake(
    large: Tensor,
    small: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    in_float32: bool,
    impl: str,
) -> Tensor:
    shape = (small.shape[1], large.shape[1] // groups, *kernel_size)
    return layout.empty(shape, large, layout.format_of(large, small), torch.float32 if in_float32 else None)


conv_up_op = define(
    "conv_up(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] output_padding, "
    "SymInt[] dilation, SymInt groups, str impl) -> Tensor",
    _up_kernel,
    _up_fake,
)
conv_down_op = define(
    "conv_down(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups, str impl) -> Tensor",
    _down_kernel,
    _down_fake,
)
conv_weight_grad_op = define(
    "conv_weight_grad(Tensor large, Tensor small, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, bool in_float32, str impl) -> Tensor",
    _weight_grad_kernel,
    _weight_grad_fake,
)


# Gradients of the three tensors; the other arguments have none.
_Gradients = tuple[Tensor | None, ...]


def _save(ctx: Any, args: tuple, outputs: Tensor) -> None:
    """Save each of the first two arguments if the other's gradient is wanted."""
    first, second = args[:2]
    ctx.save_for_backward(first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None)
    ctx.sizes = first.shape[2:], second.shape[2:]
    ctx.in_float32 = first.dtype != second.dtype  # under autocast a weight stays in float32, and so does its gradient
    ctx.rest = args[3:]  # after the bias or, for conv_weight_grad, the kernel size, which is the gradient's


def _bias_grad(ctx: Any, dy: Tensor) -> Tensor | None:
    return dy.sum([0, *range(2, dy.dim())]) if ctx.needs_input_grad[2] else None


def _up_backward(ctx: Any, dy: Tensor) -> _Gradients:
    x, weight = ctx.saved_tensors
    size, kernel = ctx.sizes
    stride, padding, extra, dilation, groups, impl = ctx.rest
    dx = dweight = None
    if ctx.needs_input_grad[0] and ctx.needs_input_grad[1] and is_joinable(dy, x, weight):
        both = both_gradients(dy, x, weight, Geometry(True, stride, padding, extra, dilation, groups), impl)
        if both is not None:
            return *both, _bias_grad(ctx, dy), None, None, None, None, None, None
    if ctx.needs_input_grad[0]:
        dx = sizes.trim(conv_down_op(dy, weight, None, stride, padding, dilation, groups, impl), size)
    if ctx.needs_input_grad[1]:
        dweight = conv_weight_grad_op(dy, x, kernel, stride, padding, dilation, groups, ctx.in_float32, impl)
    return dx, dweight, _bias_grad(ctx, dy), None, None, None, None, None, None


def _down_backward(ctx: Any, dy: Tensor) -> _Gradients:
    x, weight = ctx.saved_tensors
    size, kernel = ctx.sizes
    stride, padding, dilation, groups, impl = ctx.rest
    dx = dweight = None
    if ctx.needs_input_grad[0]:
        extra = sizes.output_padding(size, dy.shape[2:], kernel, stride, padding, dilation)
        if ctx.needs_input_grad[1] and is_joinable(dy, x, weight):
            both = both_gradients(dy, x, weight, Geometry(False, stride, padding, extra, dilation, groups), impl)
            if both is not None:
                return *both, _bias_grad(ctx, dy), None, None, None, None, None
        dx = conv_up_op(dy, weight, None, stride, padding, extra, dilation, groups, impl)
    if ctx.needs_input_grad[1]:
        dweight = conv_weight_grad_op(x, dy, kernel, stride, padding, dilation, groups, ctx.in_float32, impl)
    return dx, dweight, _bias_grad(ctx, dy), None, None, None, None, None


def _weight_grad_backward(ctx: Any, dweight: Tensor) -> _Gradients:
    large, small = ctx.saved_tensors
    large_size, small_size = ctx.sizes
    stride, padding, dilation, groups, _, impl = ctx.rest
    dlarge = dsmall = None
    if ctx.needs_input_grad[0]:
        extra = sizes.output_padding(large_size, small_size, dweight.shape[2:], stride, padding, dilation)
        dlarge = conv_up_op(small, dweight, None, stride, padding, extra, dilation, groups, impl)
    if ctx.needs_input_grad[1]:
        dsmall = sizes.trim(conv_down_op(large, dweight, None, stride, padding, dilation, groups, impl), small_size)
    return dlarge, dsmall, None, None, None, None, None, None, None


def _without_impl(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: function(*args[:-1])


differentiable(conv_up_op, _save, _up_backward, stock=_without_impl(reference.conv_up))
differentiable(conv_down_op, _save, _down_backward, stock=_without_impl(reference.conv_down))
differentiable(conv_weight_grad_op, _save, _weight_grad_backward, stock=_without_impl(reference.conv_weight_grad))
autocasts(conv_up_op, (0, 1, 2), float32_stays=(1,))
autocasts(conv_down_op, (0, 1, 2), float32_stays=(1,))
autocasts(conv_weight_grad_op, (0, 1))
