"""norm_act by the statistics of all ranks of a distributed run together, in training."""

import torch
import torch.distributed as dist

from .. import _torch, choice, layout
from ..activations import activate
from ..dispatch import define, differentiable, differentiable_by, is_transformed
from ..dtypes import statistics_dtype
from . import check_arguments, compute, compute_backward, norm_act, reference
from .following import update_running
from .parameters import as_parameters
from .protocol import NormAct
from .with_residual import check_residual


def norm_act_synced(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.01,
    impl: str = "auto",
    group: dist.ProcessGroup | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """norm_act in training, by the mean and variance of what all ranks of a group hold, as if it were one batch.

    Every rank of the group has to call it, and to call backward, in the same order as the others. It takes one
    collective each; neither waits on the host, so that both can be captured in a CUDA graph. Running statistics come
    out the same on every rank, bit for bit.

    Args:
        x: (N, C, *space), 0 to 3 spatial dimensions, any floating-point dtype; N and space may differ from rank to
            rank, and N may be 0.
        weight, bias: (C,) or None for 1 and 0. Their gradients are this rank's share: the sum over the ranks is the
            gradient, which DistributedDataParallel forms itself.
        running_mean, running_var: (C,) or both None; updated in place with all ranks' mean and unbiased variance.
        momentum, eps, activation, negative_slope, impl: as norm_act.
        group: the ranks, by Gloo, NCCL or another backend that sums float64; None for the default group.
        residual: as norm_act's, here added, and activated, in passes of their own.

    Returns:
        y of x's shape, dtype and memory format. Statistics are computed in float32 at least.

    Raises:
        ValueError: as norm_act; no default group; a group that this rank is not in. One value a channel in all is
            refused where the group is this rank alone: elsewhere the host does not know.
        TypeError: x is not floating-point.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    group = group_of(group)
    if group.size() == 1:
        return norm_act(
            x, weight, bias, running_mean, running_var, True, momentum, eps, activation, negative_slope, impl, residual
        )
    check_arguments(x, activation, impl, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    given = x, weight, bias, running_mean, running_var, momentum
    if residual is None:
        return _by_all(*given, eps, activation, negative_slope, impl, _torch.name_of_group(group))
    check_residual(residual, x)
    y = _by_all(*given, eps, "none", negative_slope, impl, _torch.name_of_group(group))
    return activate(y + residual, activation, negative_slope)


def _by_all(x, weight, bias, running_mean, running_var, momentum, *options):
    if running_mean is None:
        return _norm_act_synced(x, weight, bias, *options)[0]
    if not is_transformed():
        return _norm_act_synced_tracked(x, weight, bias, running_mean, running_var, momentum, *options)[0]
    y, *statistics = _norm_act_synced(x, weight, bias, *options)
    _update(running_mean, running_var, momentum, *statistics)
    return y


def _update(running_mean, running_var, momentum, mean, var, count):
    # Of no values at all there is nothing to learn, and of a single one the variance is 0, however corrected.
    share = momentum * (count > 0).to(running_mean.dtype)
    update_running(running_mean, running_var, mean, var, share, count.clamp(min=2))


def group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group, the default one for None.

    Raises:
        ValueError: there is no default group, or this rank is not in the group.
    """
    if group is None and dist.is_available():
        group = dist.group.WORLD
    if group is None:
        raise ValueError("there is no default process group: call torch.distributed.init_process_group before")
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this rank is not in the process group")
    return group


@_torch.assume_constant
def group_named(name: str) -> dist.ProcessGroup:
    """The group of that group_name."""
    return _torch.group_named(name)


def _synced_kernel(x, weight, bias, eps, activation, slope, impl, group):
    mean, var, count = _joined(*_statistics(x, impl), x.numel() // max(x.shape[1], 1), group_named(group))
    mean, var = mean.to(statistics_dtype(x)), var.to(statistics_dtype(x))
    return compute(x, weight, bias, mean, var, False, eps, activation, slope, impl, None)[0], mean, var, count


def _synced_fake(x, weight, bias, eps, activation, slope, impl, group):
    y = layout.empty(x.shape, x, layout.format_of(x))
    mean, var = (x.new_empty(x.shape[1], dtype=statistics_dtype(x)) for _ in range(2))
    return y, mean, var, x.new_empty((), dtype=torch.float64)


def _statistics(x, impl):
    """x's own mean and biased variance."""
    if x.numel() == 0:
        return x.new_zeros((2, x.shape[1]), dtype=statistics_dtype(x)).unbind()
    x = x.contiguous(memory_format=layout.format_of(x))
    functions: NormAct = choice.pick("norm_act", impl, x)
    if functions.CAPABILITIES.statistics:
        return functions.statistics(x)
    # Not by torch's on the CPU, which add floats up one by one: these are the more exact, and y is written from what is
    # in the cache still.
    return functions.norm_act(x, None, None, None, None, 0.0, "none", 0.0)[1:]


def _joined(mean, var, count, group):
    """The mean, the biased variance and the count of all ranks' values together, float64, the same on every rank."""
    channels = mean.shape[0]
    # A row a rank, to which the others add zeros: unlike a sum of statistics, every backend gives that exactly.
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


def _synced_backward_kernel(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group):
    functions: NormAct = choice.pick("norm_act", impl, x)
    by = _backward_in_halves if functions.CAPABILITIES.backward_in_halves else _backward_by_a_difference
    dx, dweight, dbias = by(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group)
    return dx, *as_parameters(dweight, dbias, weight, bias)


def _backward_in_halves(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group):
    """By an implementation that takes the sums between its two passes."""
    memory_format = layout.format_of(x)
    x, dy = x.contiguous(memory_format=memory_format), dy.contiguous(memory_format=memory_format)
    functions, vectors = choice.pick("norm_act", impl, x), (weight, bias, mean, var)
    dweight, dbias = functions.backward_sums(dy, x, *vectors, eps, activation, slope)
    # It divides by its own count of values.
    share = _sums(dweight, dbias, group) * (x.numel() // max(x.shape[1], 1) / count.clamp(min=1))
    dx = functions.backward_by_sums(dy, x, *vectors, *share, True, eps, activation, slope)
    return layout.in_format(dx, memory_format), dweight, dbias


def _backward_by_a_difference(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group):
    """By any implementation: the gradient for constant statistics, and what goes through them taken away from it."""
    # In float32 at least, since that may be nearly all of it.
    xs, dy, scale, shift = (None if t is None else t.to(mean.dtype) for t in (x, dy, weight, bias))
    dx, dweight, dbias = compute_backward(dy, xs, scale, shift, mean, var, False, eps, activation, slope, impl)
    # Their share is again a normalisation of x, by other parameters.
    factor = torch.rsqrt(var + eps) / count.clamp(min=1)
    along, constant = _sums(dweight, dbias, group) * (factor if scale is None else factor * scale)
    dx.sub_(compute(xs, along, constant, mean, var, False, eps, "none", 0.0, impl, None)[0])
    return dx.to(x.dtype), dweight, dbias


def _sums(dweight, dbias, group):
    """All ranks' (2, C), of what stays this rank's."""
    sums = torch.stack([dweight, dbias])
    dist.all_reduce(sums, group=group_named(group))
    return sums


def _synced_backward_fake(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group):
    dx = layout.empty(x.shape, x, layout.format_of(x))
    return dx, *as_parameters(torch.empty_like(mean), torch.empty_like(mean), weight, bias)


class _Sum(torch.autograd.Function):
    """The sum over the ranks, whose gradient is the sum of theirs: what each has, all have a part in."""

    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor, group=group_named(group))
        return tensor

    @staticmethod
    def backward(ctx, grad):
        return _Sum.apply(grad, ctx.group), None


def _synced_backward_composite(dy, x, weight, bias, mean, var, count, eps, activation, slope, impl, group):
    shape, space = [1, -1] + [1] * (x.dim() - 2), [0, *range(2, x.dim())]

    def average(sums):
        return _Sum.apply(sums, group) / count.clamp(min=1)

    # The statistics once more, as functions of every rank's x. What is left of the mean beside the one known, a
    # constant here, is next to nothing, so that its square takes no digits from the variance.
    centred = x.to(mean.dtype) - mean.view(shape)
    rest, square = average(torch.stack([centred.sum(space), centred.square().sum(space)])).unbind()
    mean, var = mean + rest, square - rest.square()
    dx, dweight, dbias = reference.differentiable_backward_by(
        dy, x, weight, bias, mean, var, average, eps, activation, slope
    )
    return dx, *as_parameters(dweight, dbias, weight, bias)


_norm_act_synced = define(
    "norm_act_synced(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation, float slope, str impl, "
    "str group) -> (Tensor y, Tensor mean, Tensor var, Tensor count)",
    _synced_kernel,
    _synced_fake,
)
_norm_act_synced_backward = define(
    "norm_act_synced_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
    "Tensor count, float eps, str activation, float slope, str impl, str group) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _synced_backward_kernel,
    _synced_backward_fake,
)


def _save(ctx, args, outputs):
    x, weight, bias, *ctx.rest = args
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(x, weight, bias, *outputs[1:])


def _backward(ctx, dy, _mean, _var, _count):
    grads = _norm_act_synced_backward(dy, *ctx.saved_tensors, *ctx.rest)
    wanted = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False))
    return *wanted, *[None] * 5


differentiable(_norm_act_synced, _save, _backward)
differentiable_by(_norm_act_synced_backward, _synced_backward_composite)


# As norm_act_tracked, and for the same reason.
def _tracked_kernel(x, weight, bias, running_mean, running_var, momentum, *options):
    y, *statistics = _synced_kernel(x, weight, bias, *options)
    _update(running_mean, running_var, momentum, *statistics)
    return y, *statistics


def _tracked_fake(x, weight, bias, running_mean, running_var, momentum, *options):
    return _synced_fake(x, weight, bias, *options)


_norm_act_synced_tracked = define(
    "norm_act_synced_tracked(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) running_var, "
    "float momentum, float eps, str activation, float slope, str impl, str group) "
    "-> (Tensor y, Tensor mean, Tensor var, Tensor count)",
    _tracked_kernel,
    _tracked_fake,
)


def _tracked_save(ctx, args, outputs):
    _save(ctx, (*args[:3], *args[6:]), outputs)


def _tracked_backward(ctx, *grads):
    return *_backward(ctx, *grads), None, None, None


differentiable(_norm_act_synced_tracked, _tracked_save, _tracked_backward)
