"""Checks of a training step for infinite and NaN values, each of which is one launch on a GPU.

These are plain functions that change tensors in place, without gradients. They are no registered operations, because
only a training loop calls them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import choice
from . import reference
from .protocol import Finite

choice.register(
    "finite",
    # One launch, where PyTorch needs nine: Triton is always faster.
    triton=choice.in_triton(__name__),
    reference=choice.Implementation(reference),
)


@torch.no_grad()
def check_norms(
    norms: Tensor, loss: Tensor, found: Tensor, in_a_row: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Compute the norm of all gradients together, and whether it and the loss are finite.

    Args:
        norms: (n,) float32, the Euclidean norms of n tensors.
        loss: () float32.
        found: () float32, set to 1 where the loss or the norm is infinite or NaN, else to 0.
        in_a_row: () int32, incremented where `found` becomes 1, else set to 0; or None.
        steps: (k,) float32, incremented where `found` becomes 0; or None.

    Returns:
        The norm, () float32.
    """
    return _pick(norms).check_norms(norms, loss, found, in_a_row, steps)


@torch.no_grad()
def add_finite(values: Sequence[Tensor], out: Tensor, totals: Tensor) -> None:
    """Store values, and add the finite ones to running totals.

    Args:
        values: n scalars () of one floating-point dtype.
        out: (n,) float32, set to the values.
        totals: (2, n) float32. Each finite value is added to totals[0], and 1 to totals[1].
    """
    _pick(out).add_finite(values, out, totals)


def _pick(values: Tensor) -> Finite:
    return choice.pick("finite", "auto", values)
