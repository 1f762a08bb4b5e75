"""Generators and discriminators of videos, volumes and images."""

import torch
from torch import nn


def _up(inputs: int, outputs: int, *geometry) -> tuple[nn.Module, ...]:
    conv = nn.ConvTranspose3d(inputs, outputs, *geometry, bias=False)
    return conv, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)


def _down(inputs: int, outputs: int, *geometry) -> tuple[nn.Module, ...]:
    conv = nn.Conv3d(inputs, outputs, *geometry, bias=False)
    return conv, nn.BatchNorm3d(outputs), nn.LeakyReLU(0.2, inplace=True)


def voxel_generator(width: int = 64, latent: int = 200) -> nn.Sequential:
    """3D-GAN's generator: (N, latent, 1, 1, 1) to voxels (N, 1, 64, 64, 64).

    Args:
        width: channels before the last layer, 64 in the paper.

    Source: Wu et al., "Learning a Probabilistic Latent Space of Object Shapes via 3D Generative-Adversarial Modeling",
    2016, appendix A.
    """
    return nn.Sequential(
        *_up(latent, 8 * width, 4),
        *_up(8 * width, 4 * width, 4, 2, 1),
        *_up(4 * width, 2 * width, 4, 2, 1),
        *_up(2 * width, width, 4, 2, 1),
        nn.ConvTranspose3d(width, 1, 4, 2, 1, bias=False),
        nn.Sigmoid(),
    )


def voxel_discriminator(width: int = 64) -> nn.Sequential:
    """3D-GAN's discriminator: voxels (N, 1, 64, 64, 64) to (N, 1, 1, 1, 1). Source: as `voxel_generator`."""
    return nn.Sequential(
        *_down(1, width, 4, 2, 1),
        *_down(width, 2 * width, 4, 2, 1),
        *_down(2 * width, 4 * width, 4, 2, 1),
        *_down(4 * width, 8 * width, 4, 2, 1),
        nn.Conv3d(8 * width, 1, 4, bias=False),
        nn.Sigmoid(),
    )


class TwoStreamGenerator(nn.Module):
    """VGAN's generator: (N, latent) to clips (N, 3, 32, 64, 64), a moving foreground over a still background.

    Args:
        width: channels before the last layers, 64 in the paper.

    Source: Vondrick et al., "Generating Videos with Scene Dynamics", 2016, section 3.2 and figure 2.
    """

    def __init__(self, width: int = 64, latent: int = 100):
        super().__init__()
        self.background = nn.Sequential(
            *self._flat_up(latent, 8 * width, 4),
            *self._flat_up(8 * width, 4 * width, 4, 2, 1),
            *self._flat_up(4 * width, 2 * width, 4, 2, 1),
            *self._flat_up(2 * width, width, 4, 2, 1),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
            nn.Tanh(),
        )
        self.foreground = nn.Sequential(
            *_up(latent, 8 * width, (2, 4, 4)),
            *_up(8 * width, 4 * width, 4, 2, 1),
            *_up(4 * width, 2 * width, 4, 2, 1),
            *_up(2 * width, width, 4, 2, 1),
        )
        self.video = nn.Sequential(nn.ConvTranspose3d(width, 3, 4, 2, 1), nn.Tanh())
        self.mask = nn.Sequential(nn.ConvTranspose3d(width, 1, 4, 2, 1), nn.Sigmoid())

    @staticmethod
    def _flat_up(inputs: int, outputs: int, *geometry) -> tuple[nn.Module, ...]:
        conv = nn.ConvTranspose2d(inputs, outputs, *geometry, bias=False)
        return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    def forward(self, z):
        h = self.foreground(z[:, :, None, None, None])
        mask = self.mask(h)
        return mask * self.video(h) + (1 - mask) * self.background(z[:, :, None, None]).unsqueeze(2)


class Noise(nn.Module):
    """MoCoGAN's noise on a discriminator's inputs, off by default."""

    def __init__(self, use_noise: bool = False, sigma: float = 0.2):
        super().__init__()
        self.use_noise = use_noise
        self.sigma = sigma

    def forward(self, x):
        return x + self.sigma * torch.randn_like(x) if self.use_noise else x


class VideoDiscriminator(nn.Module):
    """MoCoGAN's discriminator of clips: (N, 3, 16, H, W), H and W at least 32, to (N, H', W').

    Args:
        width: channels of the first layer, 64 in the paper.

    Source: Tulyakov et al., "MoCoGAN: Decomposing Motion and Content for Video Generation", 2018; the class of this
    name in its public code.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        geometry = 4, (1, 2, 2), (0, 1, 1)
        self.main = nn.Sequential(
            *(Noise(), nn.Conv3d(3, width, *geometry, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            *(Noise(), *_down(width, 2 * width, *geometry)),
            *(Noise(), *_down(2 * width, 4 * width, *geometry)),
            *(Noise(), *_down(4 * width, 8 * width, *geometry)),
            nn.Conv3d(8 * width, 1, *geometry, bias=False),
        )

    def forward(self, x):
        return self.main(x)[:, 0, 0]


class ImageGenerator(nn.Module):
    """The part of MoCoGAN's generator that makes frames: (N T, latent) to (N T, 3, 64, 64).

    Args:
        width: channels before the last layer, 64 in the paper.
        latent: size of content and motion together, 60 in the paper.

    Source: as `VideoDiscriminator`; `main` of its class VideoGenerator.
    """

    def __init__(self, width: int = 64, latent: int = 60):
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, 8 * width, 4, 1, 0, bias=False)]
        for outputs in (4 * width, 2 * width, width):
            layers += [nn.BatchNorm2d(2 * outputs), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(2 * outputs, outputs, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


def image_discriminator(width: int = 64) -> nn.Sequential:
    """DCGAN's discriminator: images (N, 3, 64, 64) to (N, 1, 1, 1).

    Args:
        width: channels of the first layer, 64 in PyTorch's public example.

    Source: Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", 2016.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for inputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(inputs, 2 * inputs, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(2 * inputs), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid())
