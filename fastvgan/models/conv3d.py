"""The 3D-convolutional family (after VGAN, Vondrick et al. 2016, and DCGAN, Radford et al. 2016).

With frames = height = width = 16, width 128 and no condition these are the networks of the preset `reference`.
"""

import torch
from torch import nn

from fastvgan.layers import Conv3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.head import ScoreHead, with_first_frame
from fastvgan.models.sizes import features, stages


class Generator(nn.Module):
    """Noise, and a condition if the model has one, to a clip.

    `forward(z, c)`: z float (N, latent), c a `Condition` or None; gives (N, C, T, H, W) in [-1, 1].
    """

    def __init__(self, config):
        super().__init__()
        self.latent = config.latent
        self.condition = ConditionEncoder(config) if config.condition else None
        plan = stages(config.frames, config.height, config.width)
        widths = features(len(plan), config.base_width)[::-1]
        inputs = config.latent + (self.condition.out_dim if self.condition else 0)
        self.first = ConvTransposeNormAct3d(inputs, widths[0], plan[0].small, activation="relu")
        self.middle = nn.Sequential(
            *(
                ConvTransposeNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="relu")
                for s, before, after in zip(plan, widths, widths[1:], strict=False)
            )
        )
        last = plan[-1]
        self.last = ConvTranspose3d(widths[-1], config.channels, last.kernel, last.stride, last.padding, bias=False)

    def noise(self, n: int, generator: torch.Generator | None = None, frames: int | None = None) -> torch.Tensor:
        """Noise for n clips, float32 (n, latent) on the CPU; the number of frames is the model's own."""
        return torch.randn(n, self.latent, generator=generator)

    def forward(self, z: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        if self.condition is not None:
            z = torch.cat([z, self.condition(c)], 1)  # (N, latent + E)
        x = z[:, :, None, None, None]  # (N, latent + E, 1, 1, 1)
        x = self.first(x)  # (N, F, 4, 4, 4)
        x = self.middle(x)  # (N, width, T/2, H/2, W/2)
        return torch.tanh(self.last(x))  # (N, C, T, H, W)


class Discriminator(nn.Module):
    """A clip, and a condition if the model has one, to one logit: how real the clip is and how well it fits.

    `forward(x, c)`: x (N, C, T, H, W) in [-1, 1], c a `Condition` or None; gives (N,). `features` and `score` are its
    two halves, so that one clip can be scored under several captions for the price of one.
    """

    def __init__(self, config):
        super().__init__()
        self.sees_image = "image" in config.condition
        plan = stages(config.frames, config.height, config.width)[::-1]
        widths = features(len(plan), config.base_width)
        first = plan[0]
        self.first = Conv3d(
            config.channels * (1 + self.sees_image), widths[0], first.kernel, first.stride, first.padding, bias=False
        )
        self.activation = nn.LeakyReLU(0.2)
        self.middle = nn.Sequential(
            *(
                ConvNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="leaky_relu", negative_slope=0.2)
                for s, before, after in zip(plan[1:], widths, widths[1:], strict=False)
            )
        )
        self.head = ScoreHead(config, widths[-1], plan[-1].small)

    def features(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        if self.sees_image:
            x = with_first_frame(x, c.image)  # (N, 2C, T, H, W)
        x = self.activation(self.first(x))  # (N, width, T/2, H/2, W/2)
        return self.middle(x)  # (N, F, 4, 4, 4)

    def score(self, h: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.head(h, c)

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.score(self.features(x, c), c)
