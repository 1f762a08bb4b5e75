"""Transposed convolutions that are kept equal to resize-convolutions, which leave no checkerboard.

A transposed convolution of stride 2 gives even and odd pixels different sums of weights, so that a constant input
yields a pattern of period 2. Nearest-neighbour upsampling followed by a convolution of k - 1 taps (Odena et al. 2016,
"Deconvolution and Checkerboard Artifacts") is a transposed convolution whose k taps are those k - 1 convolved with
(1, 1). These are exactly the kernels whose alternating sum is zero, as Sugawara et al. 2018 require ("Super-Resolution
Using Convolutional Neural Networks Without Any Checkerboard Artifacts", section 3), and their result has no energy at
the pattern's frequency. Projecting the weights onto them after each update keeps the layers, their cost and the files.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fastvgan.layers.modules import ConvTranspose3d
from fastvgan_kernels import projection


class UpsamplingKernel(NamedTuple):
    """A weight (C_in, C_out, *kernel) of a transposed convolution, and its dimensions in which the stride is 2."""

    weight: torch.Tensor
    dims: tuple[int, ...]


def find_upsampling_kernels(network: nn.Module) -> list[UpsamplingKernel]:
    """List the kernels of a network's transposed convolutions that double a size."""
    found = []
    for module in network.modules():
        if isinstance(module, ConvTranspose3d):
            dims = tuple(2 + i for i, stride in enumerate(module.stride) if stride == 2)
            if dims:
                found.append(UpsamplingKernel(module.weight, dims))
    return found


def project(kernels: Sequence[UpsamplingKernel], unless: torch.Tensor | None = None) -> None:
    """Replace each kernel, in place, by the nearest one of a resize-convolution; nothing waits for the device.

    Args:
        kernels: what `find_upsampling_kernels` found.
        unless: () above 0 if the kernels must stay as they are, to the bit.
    """
    for weight, dims in kernels:
        projection.project(weight, dims, unless)
