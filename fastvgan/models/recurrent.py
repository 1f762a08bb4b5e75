"""The recurrent family: a ConvLSTM over time, and a decoder or encoder of frames.

Noise is split into content and motion as in MoCoGAN (Tulyakov et al. 2018); the ConvLSTM is that of Shi et al. 2015.
"""

import torch
from torch import nn

from fastvgan.layers import ConvLSTM
from fastvgan.models.clock import FREQUENCIES, SCALE, clock_features
from fastvgan.models.conditions import Condition, ConditionEncoder, EncodedCondition
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import Stage, stages
from fastvgan.models.trunk import Decoder, Encoder, FirstFrame
from fastvgan.models.warp import GeneratorOutput, MotionPath


class Generator(NoiseDriven):
    """Generates a clip from noise and, if the model has one, a condition. The clip has a frame per step of the noise.

    `motion_latent` of the latent values (by default half) are motion, new at every step; the others are content, the
    same at every step.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.frames, self.warm_up, self.clock = config.frames, config.warm_up, config.clock
        self.motion = (config.latent + 1) // 2 if config.motion_latent is None else config.motion_latent
        self.content = config.latent - self.motion
        self.condition = ConditionEncoder(config) if config.condition else None
        plan = stages(config.frames, config.height, config.width, temporal=False)
        self.decoder = Decoder(config, plan)
        self.map = (self.decoder.in_channels, *plan[0].small[1:])  # (F, h, w)
        cells = self.map[0] * self.map[1] * self.map[2]
        known = self.condition.out_dim if self.condition else 0
        self.start = nn.Linear(self.content + known, 2 * cells)
        self.step = nn.Linear(config.latent + known + (2 * FREQUENCIES if config.clock else 0), cells)
        self.lstm = ConvLSTM(self.map[0], self.map[0], kernel_size=3)
        self.path = MotionPath(self.content, known, config.frames, config.clock) if config.warp else None
        # A first frame also enters the first state as a map, since a vector cannot hold its layout.
        self.look = FirstFrame(config, plan, 2 * self.map[0]) if "image" in config.condition else None

    def noise_size(self, frames: int | None = None) -> int:
        """Return the number of content values plus the motion values of all frames. See `NoiseDriven.noise_size`."""
        return self.content + self.motion * (frames or self.frames)

    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Arrange numbers (N, content + frames * motion) as noise (N, frames, latent)."""
        content, motion = numbers.tensor_split([self.content], 1)
        frames = frames or self.frames
        motion = motion.unflatten(1, (frames, self.motion))  # (N, T, motion)
        return torch.cat([content[:, None].expand(-1, frames, -1), motion], 2)

    def forward(self, z: torch.Tensor, c: Condition | EncodedCondition | None = None) -> torch.Tensor:
        """Generate clips (N, C, T, H, W) in [-1, 1] from noise (N, T, latent), as `noise` draws it, and a condition."""
        return self.draw(z, c).clips

    def draw(self, z: torch.Tensor, c: Condition | EncodedCondition | None = None) -> GeneratorOutput:
        """Generate clips as `forward` does; with `warp`, also return their moved picture and redrawn share.

        Args:
            z: noise, float (N, T, latent).
            c: the condition, or None for a model without one.
        """
        n, frames, _ = z.shape
        content = z[:, 0, : self.content]
        start_noise = z[:, 0, 0] if self.clock else None  # (N,)
        # Warm-up steps have the noise of the first frame, so that longer clips begin as shorter ones do.
        z = torch.cat([z[:, :1].expand(-1, self.warm_up, -1), z], 1)  # (N, W + T, latent)
        known = None if self.condition is None else self.condition(c)  # (N, E)
        if known is not None:
            z = torch.cat([z, known[:, None].expand(-1, z.shape[1], -1)], 2)  # (N, W + T, latent + E)
        if start_noise is not None:
            time = torch.arange(-self.warm_up, frames, device=z.device)
            z = torch.cat([z, SCALE * clock_features(start_noise, time, self.frames)], 2)
        start = self.start(content if known is None else torch.cat([content, known], 1)).view(n, 2, *self.map)
        if self.look is not None and c is not None:
            start = start + self.look(c.image).view_as(start)
        h, cell = torch.tanh(start).unbind(1)  # (N, F, h, w) each
        x = torch.relu(self.step(z)).view(n, -1, *self.map).transpose(1, 2)  # (N, F, W + T, h, w)
        x, _ = self.lstm(x, (h.contiguous(), cell.contiguous()))  # (N, F, W + T, h, w)
        place = None if self.path is None else self.path(content, known, start_noise, frames)
        return self.decoder(x[:, :, self.warm_up :], place, None if c is None else c.image)  # (N, C, T, H, W)


class Discriminator(Discriminators):
    """`Discriminators` whose clip discriminator encodes each frame and scores the last state of a ConvLSTM over them.

    Clips may have any number of frames.
    """

    def __init__(self, config: ModelConfig):
        plan = stages(config.frames, config.height, config.width, temporal=False)
        trunk = _SequenceEncoder(config, plan)
        super().__init__(config, trunk, trunk.out_channels, (1, *plan[0].small[1:]))


class _SequenceEncoder(nn.Module):
    """Encodes clips (N, C, T, H, W) as the ConvLSTM's last hidden state, (N, `out_channels`, 1, h, w)."""

    def __init__(self, config: ModelConfig, plan: list[Stage]):
        super().__init__()
        self.encoder = Encoder(config, plan)
        # Half as many states as features take 0.4 times as long, and training needs no more steps.
        self.out_channels = (self.encoder.out_channels + 1) // 2
        self.lstm = ConvLSTM(self.encoder.out_channels, self.out_channels, kernel_size=3)

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        x = self.encoder(x, c)  # (N, F, T, h, w)
        _, (h, _) = self.lstm(x)  # (N, F, h, w)
        return h.unsqueeze(2)  # (N, F, 1, h, w)
