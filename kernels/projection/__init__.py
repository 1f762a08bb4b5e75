"""The projection of transposed convolutions' weights onto those without a checkerboard: a launch per weight on a GPU.

A plain function that changes weights in place, without gradients. It is no registered operation, because only a
training loop calls it. fastvgan/layers/upsampling.py explains it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import choice
from . import reference
from .protocol import Projection, UpsamplingKernel

choice.register(
    "projection",
    # One launch per weight, where PyTorch needs three per dimension.
    triton=choice.in_triton(__name__, measured=False),
    reference=choice.Implementation(reference),
)


@torch.no_grad()
def project(kernels: Sequence[UpsamplingKernel], unless: Tensor | None = None) -> None:
    """Replace each weight, in place, by the nearest one whose alternating sums are 0; nothing waits for the device.

    Args:
        kernels: the weights, each with the dimensions along which it is summed.
        unless: () above 0 if the weights must stay as they are, to the bit; or None.
    """
    if kernels:
        functions: Projection = choice.pick("projection", "auto", kernels[0].weight)
        functions.project(kernels, unless)
