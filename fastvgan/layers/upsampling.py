"""Transposed convolutions that are kept equal to resize-convolutions, which leave no checkerboard.

A transposed convolution of stride 2 gives even and odd pixels different sums of weights, so that a constant input
yields a pattern of period 2. Nearest-neighbour upsampling followed by a convolution of k - 1 taps (Odena et al. 2016,
"Deconvolution and Checkerboard Artifacts") is a transposed convolution whose k taps are those k - 1 convolved with
(1, 1). These are exactly the kernels whose alternating sum is zero, as Sugawara et al. 2018 require ("Super-Resolution
Using Convolutional Neural Networks Without Any Checkerboard Artifacts", section 3), and their result has no energy at
the pattern's frequency. Projecting the weights onto them after each update keeps the layers, their cost and the files.
"""

import torch
from torch import nn

from fastvgan.layers.convolutions import ConvTranspose3d
from fastvgan_kernels.projection import UpsamplingKernel


def find_upsampling_kernels(network: nn.Module) -> list[UpsamplingKernel]:
    """List the kernels of a network's transposed convolutions that double a size."""
    found = []
    for module in network.modules():
        if isinstance(module, ConvTranspose3d):
            signs = {2 + i: _alternate(module.weight, 2 + i) for i, stride in enumerate(module.stride) if stride == 2}
            if signs:
                found.append(UpsamplingKernel(module.weight, signs))
    return found


def _alternate(weight: torch.Tensor, dim: int) -> torch.Tensor:
    size = weight.shape[dim]
    signs = 1.0 - 2.0 * (torch.arange(size, device=weight.device) % 2)
    return signs.view([size if i == dim else 1 for i in range(weight.dim())])
