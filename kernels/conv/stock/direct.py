"""Direct calls of stock PyTorch where auto leaves a convolution and all its gradients to it.

An operation of this package costs the host some 60 µs forward and 200 µs backward before it computes anything, more
than a small convolution takes. Where auto chooses stock PyTorch for the convolution and for each gradient wanted, that
cost buys nothing: torch.convolution is called instead, autograd records it, and one convolution_backward computes all
gradients. The decision is remembered by everything that it depends on, so the next such call costs a look-up.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from ... import _torch, choice, guards, layout, weight_copies
from ...measured.capture import are_launches_captured
from ...measured.on_gpu import is_worth_a_launch
from .. import reference, sizes
from ..checks import check_arguments
from ..geometry import Geometry, Sizes
from . import faults
from .on_cpu import is_one_backward_faster

# Looked up once: these checks are most of a call's cost.
_Tensor, _Parameter, _decisions = torch.Tensor, torch.nn.Parameter, choice.decisions
_is_compiling, _has_preference = torch.compiler.is_dynamo_compiling, choice.has_preference
_is_grad_enabled, _count_modes = torch.is_grad_enabled, _torch.count_dispatch_modes
_are_transforms_active, _is_any_autocast_enabled = _torch.are_transforms_active, _torch.is_any_autocast_enabled
_forward_level = _torch.forward_level

# For one, two and three dimensions: of a convolution, and of a transposed convolution.
_FUNCTIONS = (
    (functional.conv1d, functional.conv2d, functional.conv3d),
    (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
)
# The fields of Geometry as the caller passed them, where one integer stands for all dimensions.
GivenGeometry = tuple[bool, Sizes, Sizes, Sizes, Sizes, int]


class _Gradients(NamedTuple):
    """Which gradients autograd may ask for.

    Args:
        x: whether of x.
        weight: whether of the weight.
        is_recorded: whether autograd records at all.
    """

    x: bool
    weight: bool
    is_recorded: bool


class _Stock(NamedTuple):
    """A call of stock PyTorch.

    Args:
        call: the function.
        rest: its arguments after x, weight and bias.
        cast: the autocast dtype to which the function casts its inputs, or None.
        is_cuda: whether it is for a GPU.
        is_always_right: whether a remembered call needs no further check; on a GPU and under autocast it does.
    """

    call: Callable[..., Tensor]
    rest: tuple
    cast: torch.dtype | None
    is_cuda: bool
    is_always_right: bool


def recall(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: GivenGeometry) -> Tensor | None:
    """Convolve by stock PyTorch if `convolve` did for this weight, this geometry and tensors like these; else None.

    Layers ask this first: it finds fewer calls than `convolve` does, in less time.

    Args:
        x: (N, C_in, *space).
        weight: as conv_up or conv_down takes it.
        bias: (C_out,) or None.
        geometry: the fields of Geometry as given by the caller; output_padding is 0 for conv_down.

    Returns:
        (N, C_out, *space), or None.
    """
    if not guards.may_recall():
        return None
    try:
        stock = guards.recall((id(weight), geometry, _is_grad_enabled()), x, weight)
    except TypeError:  # a geometry of lists cannot be looked up
        return None
    if stock is None or not (stock.is_always_right or _is_right_now(stock)):
        return None
    return stock.call(x, weight, bias, *stock.rest)


def _is_right_now(stock: _Stock) -> bool:
    """Whether a remembered call for a GPU or under autocast is right at this moment."""
    # While a CUDA graph is captured, launches are free, and this package's gradients of gradients are faster.
    if are_launches_captured():
        return False
    device = "cuda" if stock.is_cuda else "cpu"
    return stock.cast is None or (torch.get_autocast_dtype(device) is stock.cast and not weight_copies.are_in_use())


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: GivenGeometry) -> Tensor | None:
    """Compute conv_up or conv_down by stock PyTorch, or return None where the operation must be called.

    Args:
        x: (N, C_in, *space).
        weight: as the public function got it.
        bias: (C_out,) or None.
        geometry: the fields of Geometry as given by the caller; output_padding is 0 for conv_down.

    Returns:
        (N, C_out, *space), or None.

    Raises:
        ValueError, TypeError: as the public function.
    """
    if (
        _is_compiling()
        or ((kind := type(x)) is not _Tensor and kind is not _Parameter)
        or ((kind := type(weight)) is not _Parameter and kind is not _Tensor)
        or (bias is not None and (kind := type(bias)) is not _Parameter and kind is not _Tensor)
        or _count_modes()
        or _are_transforms_active()
        or _forward_level() >= 0
        or _has_preference()
    ):
        return None
    autocast = _autocast_dtype(x) if _is_any_autocast_enabled() else None
    is_recorded = _is_grad_enabled()
    key = (
        geometry,
        x.shape,
        x.stride(),
        x.dtype,
        x.device,
        weight.shape,
        weight.stride(),
        weight.dtype,
        autocast,
        is_recorded and x.requires_grad,
        is_recorded and weight.requires_grad,
        is_recorded,
    )
    try:
        stock = _decisions.get(key)
    except TypeError:  # a geometry of lists cannot be looked up
        return None
    if stock is None:
        stock = _decide(key, x, weight, bias)
    if not stock:
        return None
    if not (stock.is_always_right or _is_right_now(stock)):
        return None
    known = id(weight), geometry, is_recorded
    if guards.recall(known, x, weight) is not stock:
        guards.remember(known, stock, x, weight)
    return stock.call(x, weight, bias, *stock.rest)


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _decide(key: tuple, x: Tensor, weight: Tensor, bias: Tensor | None) -> _Stock | None:
    """Decide how to call stock PyTorch, or None; raise the public function's errors.

    The decision is remembered, with False for None, except under torch.jit's tracing, where sizes are tensors.
    """
    if _torch.tracing_state() is not None:
        return None
    given, *_, autocast, for_x, for_weight, is_recorded = key
    geometry = check_arguments(x, weight, bias, given, "auto")
    empty = x.numel() == 0 or weight.numel() == 0
    if empty or not (x.is_cpu or x.is_cuda) or (autocast is not None and torch.float64 in (x.dtype, weight.dtype)):
        choice.remember(key, False)
        return None
    with torch.no_grad():
        gradients = _Gradients(for_x, for_weight, is_recorded)
        stock = _choose_stock(x.to(autocast or x.dtype), weight, geometry, gradients)
    if stock is not None and autocast is not None:
        # By the function that autocast knows, which casts its inputs and caches the weight's copy.
        transposed, stride, padding, output_padding, dilation, groups = geometry
        rest = (
            (stride, padding, output_padding, groups, dilation) if transposed else (stride, padding, dilation, groups)
        )
        call = cast(Callable[..., Tensor], _FUNCTIONS[transposed][len(stride) - 1])  # builtins have no signature
        stock = stock._replace(call=call, rest=rest, cast=autocast, is_always_right=False)
    choice.remember(key, stock or False)
    return stock


def _choose_stock(x: Tensor, weight: Tensor, geometry: Geometry, gradients: _Gradients) -> _Stock | None:
    """Choose for arguments that are checked and cast."""
    transposed, stride, padding, output_padding, dilation, groups = geometry
    shape = geometry.output_shape(x, weight)
    # Stands for the result and for its gradient: only shape, strides, dtype and device matter.
    y = layout.empty(shape, x, layout.format_of(x, weight))
    large, small = (y, x) if transposed else (x, y)
    problem = math.prod(weight.shape[2:]), large.shape[1] // groups, small.shape[1], small.numel() // small.shape[1]
    if x.is_cuda and gradients.is_recorded and is_worth_a_launch(*problem):
        return None  # the host is ahead of the GPU anyway, and this package's gradients of gradients are faster
    if not _are_all_left_to_stock(x, weight, y, geometry, gradients):
        return None
    if not _is_trusted(large, small, weight, geometry, gradients.is_recorded):
        return None
    rest = stride, padding, dilation, transposed, output_padding, groups
    return _Stock(torch.convolution, rest, None, x.is_cuda, not x.is_cuda)


def _are_all_left_to_stock(x: Tensor, weight: Tensor, y: Tensor, geometry: Geometry, gradients: _Gradients) -> bool:
    """Whether auto picks the reference for the convolution and for the gradients that are wanted."""
    transposed, stride, padding, output_padding, dilation, groups = geometry
    rest = stride, padding, dilation, groups
    calls: list[tuple[str, Tensor, tuple]] = []  # operation, first tensor, other arguments without the bias
    if transposed:
        calls.append(("conv_up", x, (weight, stride, padding, output_padding, dilation, groups)))
    else:
        calls.append(("conv_down", x, (weight, *rest)))
    is_one_enough = is_one_backward_faster(transposed, x, y.shape[1] // groups, groups)
    if gradients.x and not (is_one_enough and groups > 1):
        if transposed:
            calls.append(("conv_down", y, (weight, *rest)))
        else:
            extra = sizes.output_padding(x.shape[2:], y.shape[2:], weight.shape[2:], stride, padding, dilation)
            calls.append(("conv_up", y, (weight, stride, padding, extra, dilation, groups)))
    if gradients.weight and not is_one_enough:
        large, small = (y, x) if transposed else (x, y)
        calls.append(("conv_weight_grad", large, (small, weight.shape[2:], *rest)))
    return all(choice.pick(operation, "auto", first, *others) is reference for operation, first, others in calls)


def _is_trusted(large: Tensor, small: Tensor, weight: Tensor, geometry: Geometry, is_recorded: bool) -> bool:
    """Whether stock PyTorch is right at the convolution and, where recorded, at its gradients of every order.

    Stock PyTorch computes the gradient of a weight's gradient as a convolution of `large` by `small` with batch and
    channels exchanged, and stride and dilation; the gradients of that convolution are of the first kind again.
    """
    transposed, stride, padding, output_padding, dilation, _ = geometry
    if any(e >= s for e, s in zip(output_padding, stride, strict=True)):
        return False  # only conv_up can have this; its input does not reach the whole output then
    if not is_recorded:
        if transposed:
            return not faults.conv_up_fails(small, weight, stride, padding, output_padding, dilation)
        return not faults.conv_down_fails(large, weight, stride, padding, dilation)
    if not _is_right(large, weight, small, geometry):
        return False
    exchanged, kernel = large.transpose(0, 1), small.transpose(0, 1)
    size = sizes.small(large.shape[2:], small.shape[2:], dilation, padding, stride)
    outputs = large.new_empty(1).expand(exchanged.shape[0], kernel.shape[0], *size)
    return _is_right(exchanged, kernel, outputs, geometry._replace(stride=dilation, dilation=stride))


def _is_right(large: Tensor, weight: Tensor, small: Tensor, geometry: Geometry) -> bool:
    _, stride, padding, _, dilation, _ = geometry
    extra = sizes.output_padding(large.shape[2:], small.shape[2:], weight.shape[2:], stride, padding, dilation)
    return not (
        faults.conv_down_fails(large, weight, stride, padding, dilation)
        or faults.conv_up_fails(small, weight, stride, padding, extra, dilation)
        or faults.conv_weight_grad_fails(large, small, stride, padding)
    )
