"""norm_act in Triton: one pass for the statistics, one to normalise and activate, two for the gradients.

x is (N, C, *space), float32, bfloat16 or float16, contiguous or channels-last; parameters and statistics may have any
dtype and are computed in float32. Backward recomputes the activation's input from x.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..activations import CODES
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.parts import Statistics, add_parts, join_parts
from ..triton.support import on_its_device
from .protocol import Capabilities, Norm
from .triton_kernels import (
    Affine,
    Plan,
    Sizes,
    backward_kernel,
    backward_sums_kernel,
    forward_kernel,
    statistics_kernel,
)

CAPABILITIES = Capabilities(statistics=True, backward_in_halves=True)

_LARGE = 2**31
_PARTS = 4  # programs per multiprocessor that share a reduction


def norm_act(x, norm: Norm):
    """Return y (N, C, *space) and the batch's mean and variance, (C,), or (0,) where norm has statistics."""
    return norm_act_residual(x, None, norm)


@on_its_device
def norm_act_residual(x, residual, norm: Norm):
    """Run norm_act with a residual (N, C, *space) laid out as x, or None, added before the activation."""
    y, mean, var = torch.empty_like(x), norm.mean, norm.var
    training = mean is None
    none = x.new_empty(0, dtype=torch.float32)
    if x.numel() == 0:
        mean, var = (x.new_zeros(x.shape[1], dtype=torch.float32) for _ in range(2))
        return (y, mean, var) if training else (y, none, none.clone())
    if training:
        mean, var = statistics(x)
    size, affine = _Launch(x), _affine(norm._replace(mean=mean, var=var))

    def run(config: tuning.Config) -> None:
        plan = size.plan(config, CODES[norm.activation])
        forward_kernel[size.blocks(config)](x, y, residual, affine, size.sizes, plan, **config.launch())

    run(size.choose("norm_act", run))
    return (y, mean, var) if training else (y, none, none.clone())


def norm_act_backward(dy, x, norm: Norm):
    """Return dx (N, C, *space), dweight and dbias (C,) float32; norm has the statistics that forward used."""
    dweight, dbias = backward_sums(dy, x, norm)
    return backward_by_sums(dy, x, norm, dweight, dbias), dweight, dbias


def norm_act_residual_backward(dy, x, residual, norm: Norm):
    """Return dx and d_residual (N, C, *space), dweight and dbias (C,) float32.

    The first pass writes the residual's gradient, from which the second computes x's.
    """
    d_residual = torch.empty_like(x)
    dweight, dbias = backward_sums(dy, x, norm, residual, d_residual)
    dx = backward_by_sums(d_residual, x, norm._replace(activation="none"), dweight, dbias)
    return dx, d_residual, dweight, dbias


@on_its_device
def backward_sums(dy, x, norm: Norm, residual=None, d_residual=None):
    """Return dweight and dbias, (C,) float32, and write the residual's gradient (N, C, *space) to d_residual."""
    dweight, dbias = (x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2))
    if x.numel() == 0:
        return dweight.zero_(), dbias.zero_()
    size, affine = _Launch(x), _affine(norm)

    def run(config: tuning.Config) -> None:
        parts, share = size.parts(config)
        to, plan = dweight.new_empty((parts, 2, x.shape[1])), size.plan(config, CODES[norm.activation])
        backward_sums_kernel[size.columns(config), parts](
            dy, x, (residual, d_residual), to, affine, share, size.sizes, plan, **config.launch()
        )
        add_parts(to, dweight, dbias)

    run(size.choose("norm_act_sums", run))
    return dweight, dbias


@on_its_device
def backward_by_sums(dy, x, norm: Norm, dweight, dbias):
    """Return dx (N, C, *space), in training with the gradient through the statistics, from dweight and dbias (C,)."""
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    size, affine = _Launch(x), _affine(norm)
    sums = dweight.contiguous(), dbias.contiguous()

    def run(config: tuning.Config) -> None:
        plan = size.plan(config, CODES[norm.activation], norm.training)
        backward_kernel[size.blocks(config)](dy, x, dx, affine, sums, size.sizes, plan, **config.launch())

    run(size.choose("norm_act_backward", run))
    return dx


@on_its_device
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and biased variance of x (N, C, *space), (C,) float32."""
    size = _Launch(x)
    out = []

    def run(config: tuning.Config) -> None:
        parts, share = size.parts(config)
        means, m2s = x.new_empty((2, parts, x.shape[1]), dtype=torch.float32).unbind()
        written = Statistics(x.new_empty(parts, dtype=torch.float32), means, m2s)
        statistics_kernel[size.columns(config), parts](
            x, written, share, size.sizes, size.plan(config), **config.launch()
        )
        out[:] = join_parts(*written)

    run(size.choose("norm_act_statistics", run))
    mean, var = out
    return mean, var


class _Launch:
    """x as rows of channels, and how a configuration cuts it into programs."""

    def __init__(self, x: Tensor) -> None:
        self.x, channels, space = x, x.shape[1], x.shape[2:].numel()
        self.sizes = Sizes(x.shape[0] * space, channels, space)
        # Both layouts are the same for one position or one channel.
        self.last = space == 1 or (x.stride(1) == 1 and not x.is_contiguous())

    def choose(self, kernel: str, run: Callable[[tuning.Config], None]) -> tuning.Config:
        shipped = triton_configs.for_rows(self.last)
        rows, channels, _ = self.sizes
        flags = "last" if self.last else "first"
        problem = tuning.Problem(kernel, self.x.device, self.x.dtype, rows, channels, 1, flags)
        return tuning.choose(problem, shipped, run)

    def columns(self, config: tuning.Config) -> int:
        return -(-self.sizes.channels // config.columns)

    def blocks(self, config: tuning.Config) -> tuple[int]:
        return (-(-self.sizes.rows // config.rows) * self.columns(config),)

    def parts(self, config: tuning.Config) -> tuple[int, int]:
        """The number of programs that share a reduction, and the rows of each."""
        wanted = -(-_PARTS * tuning.processors(self.x.device) // self.columns(config))
        share = -(-self.sizes.rows // (wanted * config.rows)) * config.rows
        return -(-self.sizes.rows // share), share

    def plan(self, config: tuning.Config, activation: int = 0, training: bool = False) -> Plan:
        is_wide = self.x.numel() >= _LARGE
        return Plan(self.last, is_wide, config.rows, config.columns, activation, training)


def _affine(norm: Norm) -> Affine:
    """The norm as kernels take it: dense vectors."""
    mean, var = norm.statistics
    weight, bias = (None if vector is None else vector.contiguous() for vector in (norm.weight, norm.bias))
    return Affine(weight, bias, mean.contiguous(), var.contiguous(), norm.eps, norm.slope)
