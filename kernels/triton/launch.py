"""Helpers of Triton kernels' launches: precision, tile depth, extent of tensors, and layout of weights."""

from typing import Any

import torch
from torch import Tensor

from .. import weight_copies
from .support import is_interpreting
from .tuning import Config


def precision(x: Tensor) -> str:
    """How tl.dot multiplies the float32 values of x, of any shape: "tf32" or "ieee"."""
    cudnn: Any = torch.backends.cudnn  # torch sets its attribute `conv` where a checker does not see it
    is_tf32 = x.dtype == torch.float32 and cudnn.conv.fp32_precision == "tf32"
    return "tf32" if is_tf32 and not is_interpreting() else "ieee"


def elements(config: Config, x: Tensor) -> int:
    """A configuration's depth in elements of x, of any shape; tl.dot needs at least 16."""
    return max(16, config.depth // x.element_size())


def extent(x: Tensor) -> int:
    """One more than the largest offset of an element of x, of any shape, from its first one."""
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))


def with_innermost_channels(weight: Tensor, dtype: torch.dtype, innermost: int | None = None) -> Tensor:
    """The weight in a dtype, with one of its channel dimensions innermost, so that tiles load fast.

    Args:
        weight: (C, C', *kernel).
        dtype: of the result.
        innermost: 0 or 1, the dimension; None for either.
    """
    weight = weight_copies.cast(weight, dtype)
    if weight.dtype == dtype and 1 in (weight.stride(d) for d in ((0, 1) if innermost is None else (innermost,))):
        return weight
    dim = 1 if innermost is None else innermost
    return weight.movedim(dim, -1).to(dtype, memory_format=torch.contiguous_format).contiguous().movedim(-1, dim)
