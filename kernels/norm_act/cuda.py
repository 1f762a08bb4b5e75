"""norm_act in CUDA C++ (csrc/cuda). A residual is added after that norm by PyTorch's operations."""

from torch import Tensor

from . import compiled, reference
from .compiled import norm_act, norm_act_backward
from .protocol import Capabilities, Norm
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

CAPABILITIES = Capabilities(statistics=True)  # torch's kernels, which read x and write nothing


def refusal(x: Tensor) -> str | None:
    """Return why x cannot be computed here, in one sentence, or None for an x (N, C, *space) that can."""
    return compiled.refusal(x) if x.is_cuda else f"it is for CUDA devices, not for {x.device.type}"


def norm_act_residual(x: Tensor, residual: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Run the reference's norm_act_residual on x and residual (N, C, *space) with this norm_act."""
    return reference.norm_act_residual(x, residual, norm, forward=norm_act)


def norm_act_residual_backward(
    dy: Tensor, x: Tensor, residual: Tensor, norm: Norm
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the reference's norm_act_residual_backward, on (N, C, *space) tensors, with this norm_act."""
    return reference.norm_act_residual_backward(dy, x, residual, norm, forward=norm_act, backward=norm_act_backward)
