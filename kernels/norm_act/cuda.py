"""norm_act in CUDA C++ (csrc/cuda). With a residual: that norm_act, and PyTorch's operations after it."""

import torch

from . import compiled, reference
from .compiled import norm_act, norm_act_backward
from .protocol import Capabilities
from .reference import statistics

__all__ = [
    "CAPABILITIES",
    "norm_act",
    "norm_act_backward",
    "norm_act_residual",
    "norm_act_residual_backward",
    "refusal",
    "statistics",
]

CAPABILITIES = Capabilities(statistics=True)  # by torch's kernels, which read x and write nothing


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    return compiled.refusal(x) if x.is_cuda else f"it is for CUDA devices, not for the {x.device.type}"


def norm_act_residual(x, residual, weight, bias, mean, var, eps, activation, slope):
    """As the reference's, by this norm_act."""
    return reference.norm_act_residual(x, residual, weight, bias, mean, var, eps, activation, slope, forward=norm_act)


def norm_act_residual_backward(dy, x, residual, weight, bias, mean, var, training, eps, activation, slope):
    """As the reference's, by this norm_act and its backward."""
    vectors, how = (weight, bias, mean, var), (training, eps, activation, slope)
    return reference.norm_act_residual_backward(
        dy, x, residual, *vectors, *how, forward=norm_act, backward=norm_act_backward
    )
