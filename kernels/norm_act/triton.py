"""norm_act in Triton: one pass for the statistics, one to normalise and activate; two for the gradients.

x is (N, C, *space), float32, bfloat16 or float16, contiguous or channels-last; parameters and statistics may be of any
dtype, and are computed in float32. What the activation needs in backward is computed again from x.
"""

import torch

from ..activations import CODES
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.parts import add_parts, join_parts
from ..triton.support import on_its_device
from .protocol import Capabilities, Norm
from .triton_kernels import backward, forward
from .triton_kernels import backward_sums as sums_kernel
from .triton_kernels import statistics as statistics_kernel

CAPABILITIES = Capabilities(statistics=True, backward_in_halves=True)

_LARGE = 2**31
_PARTS = 4  # programs for each multiprocessor that share a reduction


def norm_act(x, norm: Norm):
    """Return y (N, C, *space) and the batch's mean and variance, (C,), or (0,) where norm has statistics."""
    return norm_act_residual(x, None, norm)


@on_its_device
def norm_act_residual(x, residual, norm: Norm):
    """Run norm_act with a residual (N, C, *space) laid out as x, or None, added before the activation."""
    mean, var, weight, bias, _, eps, activation, slope, *_ = norm
    y, training = torch.empty_like(x), mean is None
    none = x.new_empty(0, dtype=torch.float32)
    if x.numel() == 0:
        mean, var = (x.new_zeros(x.shape[1], dtype=torch.float32) for _ in range(2))
        return (y, mean, var) if training else (y, none, none.clone())
    if training:
        mean, var = statistics(x)
    size = _Sizes(x)
    where, weight, bias, mean, var = size.arguments, *map(_dense, (weight, bias, mean, var))

    def run(config):
        forward[size.blocks(config)](
            x, y, weight, bias, mean, var, *where, eps, slope,
            ACTIVATION=CODES[activation], **size.constants(config), residual=residual,
        )  # fmt: skip

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
    mean, var, weight, bias, _, eps, activation, slope, *_ = norm
    dweight, dbias = (x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2))
    if x.numel() == 0:
        return dweight.zero_(), dbias.zero_()
    size, vectors = _Sizes(x), tuple(map(_dense, (weight, bias, mean, var)))

    def run(config):
        parts, share = size.parts(config)
        to = dweight.new_empty((parts, 2, x.shape[1]))
        sums_kernel[size.columns(config), parts](
            dy, x, to, *vectors, size.rows, share, *size.arguments[1:], eps, slope,
            ACTIVATION=CODES[activation], **size.constants(config), residual=residual,
            d_residual=d_residual,
        )  # fmt: skip
        add_parts(to, dweight, dbias)

    run(size.choose("norm_act_sums", run))
    return dweight, dbias


@on_its_device
def backward_by_sums(dy, x, norm: Norm, dweight, dbias):
    """Return dx (N, C, *space), in training with the gradient through the statistics, from dweight and dbias (C,)."""
    mean, var, weight, bias, training, eps, activation, slope, *_ = norm
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    size, vectors = _Sizes(x), tuple(map(_dense, (weight, bias, mean, var, dweight, dbias)))

    def run(config):
        backward[size.blocks(config)](
            dy, x, dx, *vectors, *size.arguments, eps, slope,
            ACTIVATION=CODES[activation], TRAINING=training, **size.constants(config),
        )  # fmt: skip

    run(size.choose("norm_act_backward", run))
    return dx


@on_its_device
def statistics(x):
    """x's mean and biased variance, (C,) float32."""
    size = _Sizes(x)
    out = None

    def run(config):
        nonlocal out
        parts, share = size.parts(config)
        means = x.new_empty((2, parts, x.shape[1]), dtype=torch.float32).unbind()
        counts = x.new_empty(parts, dtype=torch.float32)
        statistics_kernel[size.columns(config), parts](
            x, counts, *means, size.rows, share, *size.arguments[1:], **size.constants(config)
        )
        out = join_parts(counts, *means)

    run(size.choose("norm_act_statistics", run))
    return out


class _Sizes:
    """x as rows of channels, and what that makes of a configuration."""

    def __init__(self, x: torch.Tensor):
        self.x, self.channels, self.space = x, x.shape[1], x.shape[2:].numel()
        self.rows = x.shape[0] * self.space
        # Of spatial size 1, or of one channel, both layouts are one.
        self.last = self.space == 1 or (x.stride(1) == 1 and not x.is_contiguous())
        self.arguments = self.rows, self.channels, self.space

    def choose(self, kernel, run):
        shipped = triton_configs.of_rows(self.last)
        flags = "last" if self.last else "first"
        problem = tuning.Problem(kernel, self.x.device, self.x.dtype, self.rows, self.channels, 1, flags)
        return tuning.choose(problem, shipped, run)

    def columns(self, config):
        return -(-self.channels // config.columns)

    def blocks(self, config):
        return (-(-self.rows // config.rows) * self.columns(config),)

    def parts(self, config):
        """How many programs share a reduction, and how many rows each takes."""
        wanted = -(-_PARTS * tuning.processors(self.x.device) // self.columns(config))
        share = -(-self.rows // (wanted * config.rows)) * config.rows
        return -(-self.rows // share), share

    def constants(self, config):
        wide = self.x.numel() >= _LARGE
        return {
            "LAST": self.last, "WIDE": wide, "BR": config.rows, "BC": config.columns,
            **config.launch(),
        }  # fmt: skip


def _dense(vector):
    return None if vector is None else vector.contiguous()
