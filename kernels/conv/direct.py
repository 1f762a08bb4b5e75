"""Convolutions that auto leaves to stock PyTorch with every gradient of theirs: one call of it, which autograd records.

An operation of ours costs the host some 60 µs forward and 200 µs backward before anything is computed, more than a
small convolution takes. Where stock PyTorch is chosen for the convolution and for the gradients that are wanted, that
buys nothing. torch.convolution is called instead, and one convolution_backward gives all gradients. What was decided is
remembered by all that the choice depends on, so that the next such call costs a look-up.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from .. import _torch, choice, guards, layout, weight_copies
from ..measured.capture import are_launches_captured
from ..measured.on_gpu import is_worth_a_launch
from . import reference, sizes, stock_faults
from .checks import check_down, check_up
from .measured import is_one_backward_faster

# Looked up once: these checks are most of what a call costs.
_Tensor, _Parameter, _decisions = torch.Tensor, torch.nn.Parameter, choice.decisions
_is_traced, _is_undirected, _records = torch.compiler.is_dynamo_compiling, choice.is_undirected, torch.is_grad_enabled
_dispatches, _transforms, _casts = (
    _torch.count_dispatch_modes,
    _torch.are_transforms_active,
    _torch.is_any_autocast_enabled,
)
_forward_level = _torch.forward_level

# Of one, two and three dimensions: of a convolution, and of a transposed one.
_FUNCTIONS = (
    (functional.conv1d, functional.conv2d, functional.conv3d),
    (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
)


class _Stock(NamedTuple):
    """What is called in stock PyTorch: the function, and its arguments behind x, weight and bias.

    cast: autocast's dtype, to which the function casts what it is given, or None. is_always_right: whether it may be
    called whenever it is found, which neither on a GPU nor under autocast it may.
    """

    call: Callable[..., torch.Tensor]
    rest: tuple
    cast: torch.dtype | None
    is_cuda: bool
    is_always_right: bool


def recall(x, weight, bias, geometry: tuple) -> torch.Tensor | None:
    """What `convolution` gives, or None unless it gave it before for this weight, this geometry and tensors like these.

    It finds fewer calls than that does, in less time: what a layer asks first.

    Args:
        x, weight, bias: as conv_up and conv_down take them.
        geometry: whether it is conv_up; stride, padding, output_padding (0 for conv_down), dilation and groups.
    """
    if not guards.may_recall():
        return None
    try:
        stock = guards.recall((id(weight), geometry, _records()), x, weight)
    except TypeError:  # lists, which cannot be looked up
        return None
    if stock is None or not (stock.is_always_right or _is_right_now(stock)):
        return None
    return stock.call(x, weight, bias, *stock.rest)


def _is_right_now(stock: "_Stock") -> bool:
    """Whether a call that was decided on for a GPU or under autocast is right at this moment."""
    # In a capture launches cost nothing, and gradients of gradients by our operations are faster.
    if are_launches_captured():
        return False
    device = "cuda" if stock.is_cuda else "cpu"
    return stock.cast is None or (torch.get_autocast_dtype(device) is stock.cast and not weight_copies.are_in_use())


def convolution(transposed, x, weight, bias, stride, padding, output_padding, dilation, groups) -> torch.Tensor | None:
    """conv_up (transposed) or conv_down by stock PyTorch, or None where the operation has to be called.

    Args:
        x, weight, bias, stride, padding, output_padding, dilation, groups: as the public function got them.

    Raises:
        ValueError, TypeError: as that.
    """
    if (
        _is_traced()
        or ((kind := type(x)) is not _Tensor and kind is not _Parameter)
        or ((kind := type(weight)) is not _Parameter and kind is not _Tensor)
        or (bias is not None and (kind := type(bias)) is not _Parameter and kind is not _Tensor)
        or _dispatches()
        or _transforms()
        or _forward_level() >= 0
        or not _is_undirected()
    ):
        return None
    cast = _autocast_dtype(x) if _casts() else None
    recorded = _records()
    key = (
        transposed,
        x.shape,
        x.stride(),
        x.dtype,
        x.device,
        weight.shape,
        weight.stride(),
        weight.dtype,
        stride,
        padding,
        output_padding,
        dilation,
        groups,
        cast,
        recorded and x.requires_grad,
        recorded and weight.requires_grad,
        recorded,
    )
    try:
        stock = _decisions.get(key)
    except TypeError:  # lists, which cannot be looked up
        return None
    if stock is None:
        stock = _decide(key, x, weight, bias)
    if not stock:
        return None
    if not (stock.is_always_right or _is_right_now(stock)):
        return None
    known = id(weight), (transposed, stride, padding, output_padding, dilation, groups), recorded
    if guards.recall(known, x, weight) is not stock:
        guards.remember(known, stock, x, weight)
    return stock.call(x, weight, bias, *stock.rest)


def _autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _decide(key: tuple, x, weight, bias) -> _Stock | bool:
    """Whether stock PyTorch is to be called, and how; remembered unless torch.jit traces, where sizes are tensors.

    The public function's errors are raised here.
    """
    if _torch.tracing_state() is not None:
        return False
    transposed, *_, stride, padding, output_padding, dilation, groups, cast, for_x, for_weight, recorded = key
    if transposed:
        geometry = check_up(x, weight, bias, stride, padding, output_padding, dilation, groups, "auto")
    else:
        stride, padding, dilation = check_down(x, weight, bias, stride, padding, dilation, groups, "auto")
        geometry = stride, padding, [0] * len(stride), dilation
    empty = x.numel() == 0 or weight.numel() == 0
    if empty or not (x.is_cpu or x.is_cuda) or (cast is not None and torch.float64 in (x.dtype, weight.dtype)):
        return choice.remember(key, False)
    with torch.no_grad():
        stock = _stock(transposed, x.to(cast or x.dtype), weight, geometry, groups, for_x, for_weight, recorded)
    if stock and cast is not None:
        # By the function that autocast knows, which casts what it is given and keeps the weight's copy.
        stride, padding, extra, dilation = geometry
        rest = (stride, padding, extra, groups, dilation) if transposed else (stride, padding, dilation, groups)
        stock = stock._replace(
            call=_FUNCTIONS[transposed][len(stride) - 1], rest=rest, cast=cast, is_always_right=False
        )
    return choice.remember(key, stock)


def _stock(transposed, x, weight, geometry, groups, for_x, for_weight, recorded) -> _Stock | bool:
    """_decide, of arguments that are checked and cast; for_x, for_weight: whether a gradient is wanted of it."""
    stride, padding, extra, dilation = geometry
    rest, kernel, memory_format = (stride, padding, dilation), weight.shape[2:], layout.format_of(x, weight)
    if transposed:
        size, outputs = sizes.large(x.shape[2:], kernel, stride, padding, extra, dilation), weight.shape[1] * groups
        forward = "conv_up", x, weight, stride, padding, extra, dilation, groups
    else:
        size, outputs = sizes.small(x.shape[2:], kernel, *rest), weight.shape[0]
        forward = "conv_down", x, weight, *rest, groups
    # In place of the result and of its gradient, of which only shape, strides, dtype and device matter.
    y = layout.empty((x.shape[0], outputs, *size), x, memory_format)
    large, small = (y, x) if transposed else (x, y)
    problem = math.prod(kernel), large.shape[1] // groups, small.shape[1], small.numel() // small.shape[1]
    if x.is_cuda and recorded and is_worth_a_launch(*problem):
        return False  # the host is ahead of the GPU anyway, and gradients of gradients by our operations are faster
    asked, is_one_enough = [forward], is_one_backward_faster(transposed, x, outputs // groups, groups)
    if for_x and not (is_one_enough and groups > 1):
        asked.append(_data_gradient(transposed, y, weight, x.shape[2:], *rest, groups))
    if for_weight and not is_one_enough:
        asked.append(("conv_weight_grad", large, small, kernel, *rest, groups))
    if any(choice.pick(operation, "auto", *arguments) is not reference for operation, *arguments in asked):
        return False
    if not _is_trusted(transposed, large, small, weight, geometry, recorded):
        return False
    rest = stride, padding, dilation, transposed, extra, groups
    return _Stock(torch.convolution, rest, None, x.is_cuda, not x.is_cuda)


def _data_gradient(transposed, dy, weight, size, stride, padding, dilation, groups) -> tuple:
    """The operation that gives the gradient of x, and its arguments."""
    if transposed:
        return "conv_down", dy, weight, stride, padding, dilation, groups
    extra = sizes.extra(size, dy.shape[2:], weight.shape[2:], stride, padding, dilation)
    return "conv_up", dy, weight, stride, padding, extra, dilation, groups


def _is_trusted(transposed, large, small, weight, geometry, recorded) -> bool:
    """Whether stock PyTorch computes the convolution right and, where `recorded`, its gradients of every order.

    The gradient of a gradient of the weight is to stock PyTorch a convolution of `large` by `small` with batch and
    channels exchanged, and stride and dilation; the gradients of that one are again of the first kind.
    """
    stride, padding, extra, dilation = geometry
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        return False  # of conv_up, whose inputs then do not reach all of the output
    if not recorded:
        if transposed:
            return not stock_faults.conv_up_fails(small, weight, stride, padding, extra, dilation)
        return not stock_faults.conv_down_fails(large, weight, stride, padding, dilation)
    if not _is_right(large, weight, small, stride, padding, dilation):
        return False
    exchanged, kernel = large.transpose(0, 1), small.transpose(0, 1)
    size = sizes.small(large.shape[2:], small.shape[2:], dilation, padding, stride)
    outputs = large.new_empty(1).expand(exchanged.shape[0], kernel.shape[0], *size)
    return _is_right(exchanged, kernel, outputs, dilation, padding, stride)


def _is_right(large, weight, small, stride, padding, dilation) -> bool:
    extra = sizes.extra(large.shape[2:], small.shape[2:], weight.shape[2:], stride, padding, dilation)
    return not (
        stock_faults.conv_down_fails(large, weight, stride, padding, dilation)
        or stock_faults.conv_up_fails(small, weight, stride, padding, extra, dilation)
        or stock_faults.conv_weight_grad_fails(large, small, stride, padding)
    )
