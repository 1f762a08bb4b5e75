"""Public architectures in stock PyTorch, as their public code is written, at sizes that a CPU trains in 20 to 150 ms.

Each is written from its paper. None imports fastvgan.
"""

from collections.abc import Callable
from dataclasses import dataclass

from architectures import classifiers, diffusion, gans, recurrent, unets
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network at the size of a benchmark.

    Args:
        title: its name in tables, with its paper.
        make: returns a new network; its parameters are drawn by torch's generator.
        shape: the shape of its input, which is drawn from a normal distribution.
        tiny: the shape of an input that only tests the code.
    """

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tiny: tuple[int, ...]


# Widths are multiples of 16 where possible, as in the papers. Stock PyTorch computes these sizes correctly in bf16; it
# does not with two frames under padding in time, or with two strided outputs in a row (stock/faults.py).
ARCHITECTURES = {
    "unet3d": Architecture(
        "3D U-Net, batch norm (Çiçek 2016)", lambda: unets.UNet3d(1, 2, 16, 2), (1, 1, 12, 16, 16), (1, 1, 12, 8, 12)
    ),
    "monai-unet": Architecture(
        "MONAI's residual U-Net, instance norm (Kerfoot 2019)",
        lambda: unets.ResidualUNet(1, 2, (16, 32, 64)),
        (1, 1, 32, 40, 40),
        (1, 1, 16, 12, 12),
    ),
    "nnunet": Architecture(
        "nnU-Net's plain U-Net, instance norm (Isensee 2021)",
        lambda: unets.PlainConvUNet(1, 2, (16, 32, 64)),
        (1, 1, 16, 20, 20),
        (1, 1, 12, 8, 12),
    ),
    "vnet": Architecture(
        "V-Net (Milletari 2016)", lambda: unets.VNet(2, 8, (1, 2), (2, 1)), (1, 1, 20, 16, 16), (1, 1, 20, 8, 12)
    ),
    "diffusion-unet": Architecture(
        "video diffusion's U-Net, group norm and SiLU (Ho 2022)",
        lambda: diffusion.DiffusionUNet(3, 32),
        (1, 3, 8, 16, 16),
        (2, 3, 4, 4, 8),
    ),
    "r3d-18": Architecture(
        "ResNet-18 3D (Tran 2018)", lambda: classifiers.r3d_18(16, 100), (2, 3, 24, 40, 40), (2, 3, 24, 16, 40)
    ),
    "r2plus1d-18": Architecture(
        "R(2+1)D-18 (Tran 2018)", lambda: classifiers.r2plus1d_18(16, 100), (2, 3, 24, 32, 40), (2, 3, 24, 16, 40)
    ),
    "x3d-xs": Architecture(
        "X3D-XS (Feichtenhofer 2020)", lambda: classifiers.X3D(classes=100), (1, 3, 4, 96, 96), (1, 3, 4, 64, 96)
    ),
    "3dgan-generator": Architecture(
        "3D-GAN's generator (Wu 2016)", lambda: gans.voxel_generator(16), (2, 200, 1, 1, 1), (1, 200, 1, 1, 1)
    ),
    "3dgan-discriminator": Architecture(
        "3D-GAN's discriminator (Wu 2016)", lambda: gans.voxel_discriminator(16), (2, 1, 64, 64, 64), (1, 1, 64, 64, 64)
    ),
    "vgan-generator": Architecture(
        "VGAN's two-stream generator (Vondrick 2016)", lambda: gans.TwoStreamGenerator(16), (2, 100), (1, 100)
    ),
    "mocogan-video": Architecture(
        "MoCoGAN's video discriminator (Tulyakov 2018)",
        lambda: gans.VideoDiscriminator(16),
        (2, 3, 16, 64, 96),
        (1, 3, 16, 32, 96),
    ),
    "mocogan-image": Architecture(
        "MoCoGAN's image generator, 2D (Tulyakov 2018)", lambda: gans.ImageGenerator(16), (32, 60), (4, 60)
    ),
    "dcgan": Architecture(
        "DCGAN's discriminator, 2D (Radford 2016)",
        lambda: gans.image_discriminator(16),
        (48, 3, 64, 64),
        (4, 3, 64, 64),
    ),
    "convlstm": Architecture(
        "ConvLSTM predictor (Shi 2015)",
        lambda: recurrent.FramePredictor(1, 4, (16, 16, 16)),
        (2, 1, 5, 64, 64),
        (1, 1, 3, 16, 16),
    ),
}
