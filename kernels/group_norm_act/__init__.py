"""Group or instance normalisation and an activation as one operation."""

from typing import Any

import torch
from torch import Tensor

from .. import choice, extension, layout
from ..activations import ACTIVATIONS
from ..arguments import MisfitError
from ..dispatch import define, differentiable, differentiable_by
from ..dtypes import statistics_dtype
from ..norm_act import check_arguments
from ..norm_act.parameters import as_parameters, empty_gradients
from . import compiled, direct, reference
from .protocol import GroupNorm, GroupNormAct


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.01,
    impl: str = "auto",
) -> Tensor:
    """Group normalisation followed by an activation: activation((x - mean) / √(var + eps) · weight + bias).

    mean and var are those of each group of C / groups channels of each sample. With as many groups as channels it is
    instance normalisation. Equivalent to `activation(torch.nn.functional.group_norm(...))` except that it keeps x's
    memory format.

    Args:
        x: (N, C, *space), 0 to 3 spatial dimensions, any floating-point dtype.
        groups: a divisor of C.
        weight: (C,), or None for 1; may be float32 beside a half-precision x.
        bias: (C,), or None for 0; may be float32 beside a half-precision x.
        eps: added to the variance.
        activation: as norm_act's.
        negative_slope: of leaky_relu.
        impl: "auto" or an implementation's name.

    Returns:
        y of x's shape, dtype and memory format. Statistics are computed in float32 or float64.

    Raises:
        ValueError: shapes that do not fit, an unknown activation, a single value to normalise, or a named
            implementation that cannot run.
        TypeError: x is not floating-point.

    Source: Wu and He, "Group Normalization", 2018; Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016.
    """
    inputs, how = (x, groups, weight, bias), (eps, activation, negative_slope)
    stock = direct.serves(*inputs, activation) if impl == "auto" and activation in ACTIVATIONS else False
    if stock:
        return direct.group_norm_act(*inputs, *how)
    _check(x, groups, activation, impl, weight=weight, bias=bias)
    if stock is None and direct.decide(*inputs, activation):
        return direct.group_norm_act(*inputs, *how)
    return _group_norm_act(*inputs, *how, impl)[0]


def _check(x: Tensor, groups: int, activation: str, impl: str, **vectors: Tensor | None) -> None:
    check_arguments(x, activation, impl, **vectors)
    if groups < 1:
        raise ValueError(f"groups must be greater than zero, not {groups}")
    if x.shape[1] % groups:
        raise MisfitError(f"expected input {list(x.shape)} to have a multiple of {groups} channels, one for each group")
    if x.shape[0] * reference.values_per_group(x, groups) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")


def _kernel(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    memory_format = layout.format_of(x)
    x = x.contiguous(memory_format=memory_format)
    functions: GroupNormAct = choice.pick("group_norm_act", impl, x, groups, activation)
    y, mean, inverse = functions.group_norm_act(x, GroupNorm(groups, weight, bias, eps, activation, slope))
    return layout.in_format(y, memory_format), mean, inverse


def _fake(x: Tensor, groups: int, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty((x.shape[0], groups), dtype=statistics_dtype(x))
    return layout.empty(x.shape, x, layout.format_of(x)), statistics, torch.empty_like(statistics)


def _composite(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.stock(x, GroupNorm(groups, weight, bias, eps, activation, slope))


def _backward_kernel(
    dy: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    memory_format = layout.format_of(x)
    x, dy = x.contiguous(memory_format=memory_format), dy.contiguous(memory_format=memory_format)
    functions: GroupNormAct = choice.pick("group_norm_act", impl, x, groups, activation)
    norm = GroupNorm(groups, weight, bias, eps, activation, slope)
    dx, dweight, dbias = functions.group_norm_act_backward(dy, x, norm, mean, inverse)
    return layout.in_format(dx, memory_format), *as_parameters(dweight, dbias, weight, bias)


def _backward_fake(
    dy: Tensor, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return layout.empty(x.shape, x, layout.format_of(x)), *empty_gradients(x, weight, bias)


def _backward_composite(
    dy: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    norm = GroupNorm(groups, weight, bias, eps, activation, slope)
    dx, dweight, dbias = reference.differentiable_backward(dy, x, norm)
    return dx, *as_parameters(dweight, dbias, weight, bias)


_group_norm_act = define(
    "group_norm_act(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps, str activation, float slope, "
    "str impl) -> (Tensor y, Tensor mean, Tensor inverse)",
    _kernel,
    _fake,
)
_group_norm_act_backward = define(
    "group_norm_act_backward(Tensor dy, Tensor x, int groups, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor inverse, float eps, str activation, float slope, str impl) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    x, ctx.groups, weight, bias, *ctx.rest = args
    ctx.mark_non_differentiable(outputs[1], outputs[2])
    ctx.save_for_backward(x, weight, bias, *outputs[1:])


def _backward(ctx: Any, dy: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    x, *others = ctx.saved_tensors
    dx, dweight, dbias = _group_norm_act_backward(dy, x, ctx.groups, *others, *ctx.rest)
    grads = dx, None, dweight, dbias, *[None] * 4
    return tuple(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=True))


differentiable(_group_norm_act, _save, _backward, stock=_composite)
differentiable_by(_group_norm_act_backward, _backward_composite)

choice.register(
    "group_norm_act",
    cpp=choice.Implementation(compiled, refusal=compiled.refusal, missing=extension.reason, slower=direct.slower),
    reference=choice.Implementation(reference),
)
