"""The checks for infinite and NaN values in plain PyTorch: the definition of correct results, on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_norms(norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None, steps: Tensor | None) -> Tensor:
    """Return the norm () of norms (n,) and set `found` () to 1 where it or the loss () is not finite, else to 0."""
    norm = torch.linalg.vector_norm(norms)
    # Infinity * 0 and NaN * 0 are NaN: two operations instead of the four of isfinite.
    torch.ne((norm + loss) * 0, 0, out=found)
    if in_a_row is not None:
        in_a_row.add_(1).mul_(found > 0)
    if steps is not None:
        steps.add_(1 - found)
    return norm


def add_finite(values: Sequence[Tensor], out: Tensor, totals: Tensor) -> None:
    """Set out (n,) to the scalars (), add the finite ones to totals[0] and 1 for each to totals[1], (2, n)."""
    torch.stack([*values], out=out)
    sums, counts = totals.unbind()
    sums.add_(out.nan_to_num(0.0, 0.0, 0.0))
    counts.add_(out * 0 == 0)
