"""The convolutional part of a video diffusion model's U-Net."""

import torch
from torch import nn


class ResBlock(nn.Module):
    """Group norm, SiLU and a convolution, twice, with the step's embedding added between and a skip around.

    Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021; guided-diffusion's class of this
    name with dims=3.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, inputs), nn.SiLU(), nn.Conv3d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, outputs), nn.SiLU(), nn.Dropout(0.0), nn.Conv3d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.in_layers(x)
        h = h + self.emb_layers(embedding).to(h.dtype)[:, :, None, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class DiffusionUNet(nn.Module):
    """A video diffusion U-Net without its attention: two levels, halved in space only.

    (N, inputs, T, H, W) to the same shape; H and W are even. The diffusion steps are 0 … N-1, an arbitrary choice.

    Source: Ho et al., "Video Diffusion Models", 2022, with the residual blocks of guided-diffusion.
    """

    def __init__(self, inputs: int = 3, width: int = 32, groups: int = 8):
        super().__init__()
        embedding = 4 * width
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.input_conv = nn.Conv3d(inputs, width, 3, padding=1)
        self.down = ResBlock(width, width, embedding, groups)
        self.downsample = nn.Conv3d(width, width, 3, (1, 2, 2), 1)
        self.middle = ResBlock(width, 2 * width, embedding, groups)
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=(1, 2, 2), mode="nearest"), nn.Conv3d(2 * width, width, 3, padding=1)
        )
        self.up = ResBlock(2 * width, width, embedding, groups)
        self.out = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv3d(width, inputs, 3, padding=1))

    def forward(self, x):
        embedding = self.time_embed(self._sinusoids(x))
        h = skip = self.down(self.input_conv(x), embedding)
        h = self.middle(self.downsample(h), embedding)
        h = self.up(torch.cat((self.upsample(h), skip), 1), embedding)
        return self.out(h)

    def _sinusoids(self, x):
        steps = torch.arange(x.shape[0], device=x.device, dtype=x.dtype)
        half = self.width // 2
        rates = torch.exp(-torch.arange(half, device=x.device, dtype=x.dtype) * (9.21034 / half))  # ln 10,000
        angles = steps[:, None] * rates
        return torch.cat((angles.cos(), angles.sin()), 1)
