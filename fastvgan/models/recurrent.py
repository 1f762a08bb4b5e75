"""The recurrent family: a ConvLSTM carries the clip through time, a frame decoder or encoder does the rest.

Noise is split into content and motion as in MoCoGAN (Tulyakov et al. 2018); the ConvLSTM is that of Shi et al. 2015.
"""

import torch
from torch import nn

from fastvgan.layers import Conv3d, ConvLSTM, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.head import ScoreHead, with_first_frame
from fastvgan.models.sizes import features, stages


class Generator(nn.Module):
    """Noise, and a condition if the model has one, to a clip of as many frames as the noise has steps.

    `forward(z, c)`: z float (N, T, latent) as `noise` draws it, c a `Condition` or None; gives (N, C, T, H, W) in
    [-1, 1]. Of the latent values half are content, the same at every step, and half motion, new at every step.
    """

    def __init__(self, config):
        super().__init__()
        self.frames = config.frames
        self.content = config.latent // 2
        self.motion = config.latent - self.content
        self.condition = ConditionEncoder(config) if config.condition else None
        plan = stages(config.frames, config.height, config.width, temporal=False)
        widths = features(len(plan), config.base_width)[::-1]
        self.map = (widths[0], *plan[0].small[1:])  # (F, h, w)
        cells = self.map[0] * self.map[1] * self.map[2]
        known = self.condition.out_dim if self.condition else 0
        self.start = nn.Linear(self.content + known, 2 * cells)
        self.step = nn.Linear(config.latent + known, cells)
        self.lstm = ConvLSTM(widths[0], widths[0], kernel_size=3)
        self.middle = nn.Sequential(
            *(
                ConvTransposeNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="relu")
                for s, before, after in zip(plan, widths, widths[1:], strict=False)
            )
        )
        last = plan[-1]
        self.last = ConvTranspose3d(widths[-1], config.channels, last.kernel, last.stride, last.padding, bias=False)

    def noise(self, n: int, generator: torch.Generator | None = None, frames: int | None = None) -> torch.Tensor:
        """Noise for n clips of `frames` frames (default: the training length), float32 (n, frames, latent), on the CPU.

        A longer clip from the same generator state has the shorter one's noise as its beginning.
        """
        frames = frames or self.frames
        content = torch.randn(n, 1, self.content, generator=generator).expand(-1, frames, -1)
        motion = torch.stack([torch.randn(n, self.motion, generator=generator) for _ in range(frames)], 1)
        return torch.cat([content, motion], 2)

    def forward(self, z: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        n, frames, _ = z.shape
        content = z[:, 0, : self.content]  # (N, latent / 2)
        if self.condition is not None:
            known = self.condition(c)  # (N, E)
            content = torch.cat([content, known], 1)
            z = torch.cat([z, known[:, None].expand(-1, frames, -1)], 2)  # (N, T, latent + E)
        h, cell = torch.tanh(self.start(content)).view(n, 2, *self.map).unbind(1)  # (N, F, h, w) each
        x = torch.relu(self.step(z)).view(n, frames, *self.map).transpose(1, 2)  # (N, F, T, h, w)
        x, _ = self.lstm(x, (h.contiguous(), cell.contiguous()))  # (N, F, T, h, w)
        x = self.middle(x)  # (N, width, T, H/2, W/2)
        return torch.tanh(self.last(x))  # (N, C, T, H, W)


class Discriminator(nn.Module):
    """A clip of any number of frames, and a condition if the model has one, to one logit for the sequence.

    `forward(x, c)`: x (N, C, T, H, W) in [-1, 1], c a `Condition` or None; gives (N,). `features` and `score` are its
    two halves, as in the 3D-convolutional family.
    """

    def __init__(self, config):
        super().__init__()
        self.sees_image = "image" in config.condition
        plan = stages(config.frames, config.height, config.width, temporal=False)[::-1]
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
        self.lstm = ConvLSTM(widths[-1], widths[-1], kernel_size=3)
        self.head = ScoreHead(config, widths[-1], (1, *plan[-1].small[1:]))

    def features(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        if self.sees_image:
            x = with_first_frame(x, c.image)  # (N, 2C, T, H, W)
        x = self.activation(self.first(x))  # (N, width, T, H/2, W/2)
        x = self.middle(x)  # (N, F, T, h, w)
        _, (h, _) = self.lstm(x)  # (N, F, h, w)
        return h.unsqueeze(2)  # (N, F, 1, h, w)

    def score(self, h: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.head(h, c)

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.score(self.features(x, c), c)
