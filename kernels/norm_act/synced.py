"""norm_act in training by the statistics of all ranks of a distributed run together."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _torch, choice, layout
from ..activations import activate
from ..dispatch import define, differentiable, differentiable_by, is_transformed
from ..dtypes import statistics_dtype
from . import check_arguments, compute, compute_backward, norm_act, reference
from .following import update_running
from .parameters import as_parameters
from .protocol import Norm, NormAct
from .with_residual import check_residual


def norm_act_synced(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.01,
    impl: str = "auto",
    group: dist.ProcessGroup | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Run norm_act in training by the mean and variance over all ranks of a group, as if their inputs were one batch.

    Every rank of the group must call it, and call backward, in the same order. Each call is one collective and never
    waits on the host, so that a CUDA graph can capture both. Running statistics are equal on every rank, bit for bit.

    Args:
        x: (N, C, *space), 0 to 3 spatial dimensions, any floating-point dtype; N and space may differ between ranks,
            and N may be 0.
        weight: (C,), or None for 1. Its gradient is this rank's share of the sum over the ranks, which
            DistributedDataParallel reduces.
        bias: (C,), or None for 0. Its gradient is this rank's share too.
        running_mean: (C,), updated in place with all ranks' mean, or None.
        running_var: (C,), updated in place with all ranks' unbiased variance; None where running_mean is.
        momentum: as norm_act's.
        eps: as norm_act's.
        activation: as norm_act's.
        negative_slope: as norm_act's.
        impl: as norm_act's.
        group: the ranks, by Gloo, NCCL or another backend that sums float64; None for the default group.
        residual: as norm_act's. PyTorch's operations add it and activate the sum.

    Returns:
        y of x's shape, dtype and memory format. Statistics are computed in float32 or float64.

    Raises:
        ValueError: as norm_act; no default group; a group that this rank is not in. A single value per channel over
            all ranks is an error only in a group of one rank: in others the host does not know the number.
        TypeError: as norm_act.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    group = group_of(group)
    if group.size() == 1:
        return norm_act(
            x, weight, bias, running_mean, running_var, True, momentum, eps, activation, negative_slope, impl, residual
        )
    check_arguments(x, activation, impl, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    inputs = x, weight, bias, running_mean, running_var, momentum
    if residual is None:
        return _by_all(*inputs, eps, activation, negative_slope, impl, _torch.name_of_group(group))
    check_residual(residual, x)
    y = _by_all(*inputs, eps, "none", negative_slope, impl, _torch.name_of_group(group))
    return activate(y + residual, activation, negative_slope)


def _by_all(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    *options: Any,
) -> Tensor:
    if running_mean is None or running_var is None:
        return _norm_act_synced(x, weight, bias, *options)[0]
    if not is_transformed():
        return _norm_act_synced_tracked(x, weight, bias, running_mean, running_var, momentum, *options)[0]
    y, mean, var, count = _norm_act_synced(x, weight, bias, *options)
    _update(running_mean, running_var, momentum, mean, var, count)
    return y


def _update(
    running_mean: Tensor, running_var: Tensor, momentum: float, mean: Tensor, var: Tensor, count: Tensor
) -> None:
    # Without any values nothing changes. The variance of a single one is 0, whatever divides it.
    share = momentum * (count > 0).to(mean.dtype)
    update_running(running_mean, running_var, mean, var, share, count.clamp(min=2))


def group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """Return the group, or the default group for None.

    Raises:
        ValueError: there is no default group, or this rank is not in the group.
    """
    if group is None and dist.is_available():
        group = dist.group.WORLD
    if group is None:
        raise ValueError("there is no default process group; call torch.distributed.init_process_group first")
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this rank is not in the process group")
    return group


@_torch.assume_constant
def group_named(name: str) -> dist.ProcessGroup:
    """Return the process group with that group_name."""
    return _torch.group_named(name)


def _kernel(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    group: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, var, count = _merge_ranks(*_statistics(x, impl), x.numel() // max(x.shape[1], 1), group_named(group))
    mean, var = mean.to(statistics_dtype(x)), var.to(statistics_dtype(x))
    y, _, _ = compute(x, Norm(mean, var, weight, bias, False, eps, activation, slope), impl)
    return y, mean, var, count


def _fake(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = layout.empty(x.shape, x, layout.format_of(x))
    mean, var = (x.new_empty(x.shape[1], dtype=statistics_dtype(x)) for _ in range(2))
    return y, mean, var, x.new_empty((), dtype=torch.float64)


def _statistics(x: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """This rank's mean and biased variance, each (C,)."""
    if x.numel() == 0:
        mean, var = x.new_zeros((2, x.shape[1]), dtype=statistics_dtype(x)).unbind()
        return mean, var
    x = x.contiguous(memory_format=layout.format_of(x))
    functions: Any = choice.pick("norm_act", impl, x)
    if functions.CAPABILITIES.statistics:
        return functions.statistics(x)
    # torch's own on the CPU add floats one by one. These are more exact, and writing y finds x in the cache.
    _, mean, var = functions.norm_act(x, Norm(None, None, None, None, True, 0.0, "none", 0.0))
    return mean, var


def _merge_ranks(mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, biased variance and count over all ranks' values, float64, the same on every rank."""
    channels = mean.shape[0]
    # One row per rank, to which the others add zeros: unlike a sum of statistics, every backend computes that exactly.
    rows = mean.new_zeros((group.size(), 2 * channels + 1), dtype=torch.float64)
    own = rows[group.rank()]
    own[:channels].copy_(mean)
    own[channels:-1].copy_(var).mul_(count)
    own[-1:].fill_(count)
    dist.all_reduce(rows, group=group)
    means, squares, counts = rows.split([channels, channels, 1], 1)
    total = counts.sum()
    divisor = total.clamp(min=1)
    mean = (means * counts).sum(0) / divisor
    return mean, (squares + (means - mean).square() * counts).sum(0) / divisor, total


def _backward_kernel(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    group: str,
) -> tuple[Tensor, Tensor, Tensor]:
    functions: NormAct = choice.pick("norm_act", impl, x)
    by = _backward_in_halves if functions.CAPABILITIES.backward_in_halves else _backward_by_difference
    norm = Norm(mean, var, weight, bias, True, eps, activation, slope)
    dx, dweight, dbias = by(dy, x, norm, count, impl, group)
    return dx, *as_parameters(dweight, dbias, weight, bias)


def _backward_in_halves(
    dy: Tensor, x: Tensor, norm: Norm, count: Tensor, impl: str, group: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over the ranks between an implementation's two passes."""
    memory_format = layout.format_of(x)
    x, dy = x.contiguous(memory_format=memory_format), dy.contiguous(memory_format=memory_format)
    functions: Any = choice.pick("norm_act", impl, x)
    dweight, dbias = functions.backward_sums(dy, x, norm)
    # The implementation divides by this rank's number of values per channel.
    share = _sum_over_ranks(dweight, dbias, group) * (x.numel() // max(x.shape[1], 1) / count.clamp(min=1))
    dx = functions.backward_by_sums(dy, x, norm, *share)
    return layout.in_format(dx, memory_format), dweight, dbias


def _backward_by_difference(
    dy: Tensor, x: Tensor, norm: Norm, count: Tensor, impl: str, group: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the gradient through the statistics from the gradient for constant ones, by any implementation."""
    # In float32 or float64, because the two may nearly cancel.
    mean, var = norm.statistics
    xs, dy = x.to(mean.dtype), dy.to(mean.dtype)
    scale, shift = (None if t is None else t.to(mean.dtype) for t in (norm.weight, norm.bias))
    constant_norm = norm._replace(weight=scale, bias=shift, training=False)
    dx, dweight, dbias = compute_backward(dy, xs, constant_norm, impl)
    # The gradient through the statistics is a norm of x with other parameters.
    factor = torch.rsqrt(var + norm.eps) / count.clamp(min=1)
    along, constant = _sum_over_ranks(dweight, dbias, group) * (factor if scale is None else factor * scale)
    through_statistics = Norm(mean, var, along, constant, False, norm.eps, "none", 0.0)
    dx.sub_(compute(xs, through_statistics, impl)[0])
    return dx.to(x.dtype), dweight, dbias


def _sum_over_ranks(dweight: Tensor, dbias: Tensor, group: str) -> Tensor:
    """Return all ranks' sums, (2, C), and leave this rank's unchanged."""
    sums = torch.stack([dweight, dbias])
    dist.all_reduce(sums, group=group_named(group))
    return sums


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    dx = layout.empty(x.shape, x, layout.format_of(x))
    return dx, *as_parameters(torch.empty_like(mean), torch.empty_like(mean), weight, bias)


class _Sum(torch.autograd.Function):
    """The sum over the ranks. Every rank uses it, so its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: str) -> Tensor:
        ctx.group = group
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor, group=group_named(group))
        return tensor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad_outputs[0], ctx.group), None


def _backward_composite(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    eps: float,
    activation: str,
    slope: float,
    impl: str,
    group: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape, space = [1, -1] + [1] * (x.dim() - 2), [0, *range(2, x.dim())]

    def average(sums: Tensor) -> Tensor:
        return _Sum.apply(sums, group) / count.clamp(min=1)

    # The statistics again, as functions of every rank's x. Relative to the known mean, a constant here, their mean is
    # nearly 0, so subtracting its square costs the variance no digits.
    centred = x.to(mean.dtype) - mean.view(shape)
    rest, square = average(torch.stack([centred.sum(space), centred.square().sum(space)])).unbind()
    norm = Norm(mean + rest, square - rest.square(), weight, bias, True, eps, activation, slope)
    dx, dweight, dbias = reference.differentiable_backward_by(dy, x, norm, average)
    return dx, *as_parameters(dweight, dbias, weight, bias)


_norm_act_synced = define(
    "norm_act_synced(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation, float slope, str impl, "
    "str group) -> (Tensor y, Tensor mean, Tensor var, Tensor count)",
    _kernel,
    _fake,
)
_norm_act_synced_backward = define(
    "norm_act_synced_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
    "Tensor count, float eps, str activation, float slope, str impl, str group) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    x, weight, bias, *ctx.rest = args
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(x, weight, bias, *outputs[1:])


def _backward(ctx: Any, dy: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    grads = _norm_act_synced_backward(dy, *ctx.saved_tensors, *ctx.rest)
    needed = (grad if is_needed else None for grad, is_needed in zip(grads, ctx.needs_input_grad, strict=False))
    return *needed, *[None] * 5


differentiable(_norm_act_synced, _save, _backward)
differentiable_by(_norm_act_synced_backward, _backward_composite)


# Updates the running statistics within the operation, like norm_act_tracked and for the same reason.
def _tracking_kernel(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, mean, var, count = _kernel(x, weight, bias, *options)
    _update(running_mean, running_var, momentum, mean, var, count)
    return y, mean, var, count


_norm_act_synced_tracked = define(
    "norm_act_synced_tracked(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) running_var, "
    "float momentum, float eps, str activation, float slope, str impl, str group) "
    "-> (Tensor y, Tensor mean, Tensor var, Tensor count)",
    _tracking_kernel,
    _fake,
)


def _tracking_save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> None:
    _save(ctx, (*args[:3], *args[6:]), outputs)


def _tracking_backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    return *_backward(ctx, *grads), None, None, None


differentiable(_norm_act_synced_tracked, _tracking_save, _tracking_backward)
