"""The projection of a transposed convolution's weight onto those without a checkerboard, one launch on a GPU.

A plain function that changes the weight in place, without gradients. It is no registered operation, because only a
training loop calls it. fastvgan/layers/upsampling.py explains it.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from .. import choice
from . import reference
from .protocol import Projection

choice.register(
    "projection",
    # One launch, where PyTorch needs three or more per dimension: Triton is always faster.
    triton=choice.in_triton(__name__),
    reference=choice.Implementation(reference),
)

_MOST_TAPS = 1024  # that a program of Triton's kernel holds


@torch.no_grad()
def project(weight: Tensor, dims: Collection[int], unless: Tensor | None = None) -> None:
    """Replace a weight by the nearest one whose alternating sums along some dimensions are 0, in place.

    Args:
        weight: (C_in, C_out, *kernel), three dimensions of the kernel.
        dims: those dimensions of the weight, from 2 to 4, of which none is twice there.
        unless: () above 0 if the weight must stay as it is, to the bit; or None.
    """
    if not weight.numel():
        return
    fits = math.prod(1 << (size - 1).bit_length() for size in weight.shape[2:]) <= _MOST_TAPS
    functions: Projection = choice.pick("projection", "auto", weight) if fits else reference
    functions.project(weight, dims, unless)
