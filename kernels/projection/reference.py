"""The projection of weights in plain PyTorch: the definition of correct results, on every device."""

from collections.abc import Collection

import torch
from torch import Tensor


def project(weight: Tensor, dims: Collection[int], unless: Tensor | None) -> None:
    """Replace weight (C_in, C_out, *kernel), in place, by the nearest whose alternating sums along `dims` are 0."""
    for dim in dims:
        signs = _alternate(weight, dim)
        excess = (weight * signs).mean(dim, keepdim=True)
        correction = signs if unless is None else signs * (unless == 0)
        weight.addcmul_(excess, correction, value=-1)


def _alternate(weight: Tensor, dim: int) -> Tensor:
    """Return 1, -1, 1, ... along a dimension, to be broadcast to the weight."""
    size = weight.shape[dim]
    signs = 1 - 2 * (torch.arange(size, device=weight.device, dtype=weight.dtype) % 2)
    return signs.view([size if i == dim else 1 for i in range(weight.dim())])
