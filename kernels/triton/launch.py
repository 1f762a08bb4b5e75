"""What launches of more than one Triton kernel ask of their operands."""

import torch

from .. import weight_copies
from .support import interpreting
from .tuning import Config


def precision(x: torch.Tensor) -> str:
    """How tl.dot shall multiply float32."""
    tf32 = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return "tf32" if tf32 and not interpreting() else "ieee"


def elements(config: Config, x: torch.Tensor) -> int:
    """A configuration's depth in elements of x, for tl.dot at least 16."""
    return max(16, config.depth // x.element_size())


def reach(x: torch.Tensor) -> int:
    """One more than the largest offset of any element from x's first."""
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))


def side_by_side_weight(weight: torch.Tensor, dtype: torch.dtype, innermost: int | None = None) -> torch.Tensor:
    """The weight in that dtype with channel dimension `innermost`, or either, innermost: so tiles are read fast."""
    weight = weight_copies.cast(weight, dtype)
    if weight.dtype == dtype and 1 in (weight.stride(d) for d in ((0, 1) if innermost is None else (innermost,))):
        return weight
    dim = 1 if innermost is None else innermost
    return weight.movedim(dim, -1).to(dtype, memory_format=torch.contiguous_format).contiguous().movedim(-1, dim)
