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


class UpsamplingKernel(NamedTuple):
    """The weight (C_in, C_out, *kernel) of a transposed convolution, and its dimensions in which the stride is 2."""

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


@torch.no_grad()
def project(kernels: Sequence[UpsamplingKernel]) -> None:
    """Replace each kernel, in place, by the nearest one of a resize-convolution; nothing waits for the device."""
    for weight, dims in kernels:
        for dim in dims:
            taps = weight.unbind(dim)
            even, odd = taps[::2], taps[1::2]
            excess = (torch.stack(even).sum(0) - torch.stack(odd).sum(0)) / len(taps)
            for tap in even:
                tap.sub_(excess)
            for tap in odd:
                tap.add_(excess)
