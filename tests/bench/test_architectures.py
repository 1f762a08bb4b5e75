"""The public architectures that bench/test_fuse.py measures: of the published sizes, and fused as accurate as stock."""

import architectures
import pytest
import torch
from torch import nn

from fastvgan_kernels.conv.stock import faults


def count(modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_networks_have_the_published_numbers_of_parameters():
    classifiers, unets, gans = architectures.classifiers, architectures.unets, architectures.gans
    with torch.device("meta"):
        assert count([classifiers.r3d_18()]) == 33_371_472  # torchvision's documentation
        assert count([classifiers.r2plus1d_18()]) == 31_505_325  # also torchvision's
        assert count([classifiers.X3D()]) == 3_794_274  # pytorchvideo's X3D-XS and S; 3.76M in the paper
        assert round(count([unets.VNet()]) / 1e6, 1) == 45.6  # MONAI's and the public vnet.pytorch
        # nn.Conv2d and nn.ConvTranspose2d as in the DCGAN example, whose generator MoCoGAN uses.
        assert count([gans.image_discriminator()]) == 2_765_568
        assert count([gans.ImageGenerator(latent=100)]) == 3_576_704


def test_unet_has_the_parameters_that_its_paper_counts():
    """19,069,955 in all, without batch norm's and without biases of the up-convolutions."""
    with torch.device("meta"):
        network = architectures.unets.UNet3d()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    biases = sum(conv.bias.numel() for conv in network.upconvs)
    assert count([network]) - count(norms) - biases == 19_069_955


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda a: a.unets.UNet3d(), (1, 3, 16, 16, 24), (1, 3, 16, 16, 24)),
        (lambda a: a.unets.PlainConvUNet(), (2, 1, 32, 32, 64), (2, 2, 32, 32, 64)),
        (lambda a: a.unets.ResidualUNet(), (2, 1, 16, 16, 16), (2, 2, 16, 16, 16)),
        (lambda a: a.unets.VNet(), (2, 1, 16, 16, 32), (2, 2, 16, 16, 32)),
        (lambda a: a.diffusion.DiffusionUNet(), (2, 3, 5, 8, 8), (2, 3, 5, 8, 8)),
        (lambda a: a.classifiers.r2plus1d_18(), (2, 3, 16, 112, 112), (2, 400)),
        (lambda a: a.gans.voxel_generator(), (2, 200, 1, 1, 1), (2, 1, 64, 64, 64)),
        (lambda a: a.gans.voxel_discriminator(), (2, 1, 64, 64, 64), (2, 1, 1, 1, 1)),
        (lambda a: a.gans.TwoStreamGenerator(), (2, 100), (2, 3, 32, 64, 64)),
        (lambda a: a.gans.VideoDiscriminator(), (2, 3, 16, 64, 64), (2, 2, 2)),
        (lambda a: a.gans.ImageGenerator(), (2, 60), (2, 3, 64, 64)),
        (lambda a: a.recurrent.FramePredictor(), (2, 1, 4, 64, 64), (2, 1, 4, 64, 64)),
    ],
)
def test_networks_of_the_papers_sizes_give_their_shapes(make, shape, expected):
    with torch.device("meta"):
        assert make(architectures)(torch.randn(shape)).shape == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_size_is_one_that_stock_gets_wrong(dtype):
    """Of every convolution and both its gradients, at the sizes that are measured and at the tiny ones."""
    seen = []

    def check(conv, inputs, output):
        large, small = (output, inputs[0]) if conv.transposed else (inputs[0], output)
        # The rules speak of tensors on the CPU, the network is on none.
        large, small, weight = (torch.empty(x.shape, dtype=dtype) for x in (large, small, conv.weight))
        geometry = conv.stride, conv.padding
        fails = [
            faults.conv_down_fails(large, weight, *geometry, conv.dilation),
            faults.conv_up_fails(small, weight, *geometry, conv.output_padding, conv.dilation),
            faults.conv_weight_grad_fails(large, small, *geometry),
        ]
        seen.append((tuple(large.shape), tuple(weight.shape), any(fails)))

    for architecture in architectures.ARCHITECTURES.values():
        with torch.device("meta"):
            network = architecture.make()
            for module in network.modules():
                if isinstance(module, nn.modules.conv._ConvNd):
                    module.register_forward_hook(check)
            for shape in (architecture.shape, architecture.tiny):
                network(torch.randn(shape))
    assert len(seen) > 300
    assert not [shapes for *shapes, fails in seen if fails]
