"""What guards a training step against numbers that are not finite, on the device, in one launch each.

Plain functions on tensors in place, without gradients: no operations of torch's, since only a training loop calls them.
"""

import torch

from .. import choice
from . import reference
from .protocol import Finite

choice.register(
    "finite",
    # A launch where PyTorch takes nine: there is nothing to weigh.
    triton=choice.in_triton(__name__),
    reference=choice.Implementation(reference),
)


@torch.no_grad()
def check_norms(
    norms: torch.Tensor, loss: torch.Tensor, found: torch.Tensor, in_a_row: torch.Tensor | None = None
) -> torch.Tensor:
    """The norm of all gradients together, and whether it and the loss are finite.

    Args:
        norms: (n,) float32, the Euclidean norms of n tensors. loss: () float32.
        found: () float32, made 1 where the loss or the norm is infinite or NaN, else 0.
        in_a_row: () int32, or None; counted up where `found` becomes 1, else made 0.

    Returns:
        The norm, () float32.
    """
    return _pick(norms).check_norms(norms, loss, found, in_a_row)


@torch.no_grad()
def add_finite(values: torch.Tensor, totals: torch.Tensor) -> None:
    """Add the values (n,) float32 that are finite to totals[0], and 1 for each of them to totals[1], (2, n) float32."""
    _pick(values).add_finite(values, totals)


def _pick(values: torch.Tensor) -> Finite:
    return choice.pick("finite", "auto", values)
