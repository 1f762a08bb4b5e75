"""The recurrent family: a ConvLSTM carries the clip through time, a frame decoder or encoder does the rest.

Noise is split into content and motion as in MoCoGAN (Tulyakov et al. 2018); the ConvLSTM is that of Shi et al. 2015.
"""

import torch
from torch import nn

from fastvgan.layers import ConvLSTM
from fastvgan.models.clock import FREQUENCIES, SCALE, clock_features
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import Stage, stages
from fastvgan.models.trunk import Decoder, Encoder, FirstFrame
from fastvgan.models.warp import Drawn, Path


class Generator(NoiseDriven):
    """Noise, and a condition if the model has one, to a clip of as many frames as the noise has steps.

    `forward(z, c)`: z float (N, T, latent) as `noise` draws it, c a `Condition` or None; gives (N, C, T, H, W) in
    [-1, 1]. `motion_latent` of the latent values (by default half) are motion, new at every step; the others are
    content, the same at every step.
    """

    def __init__(self, config):
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
        self.path = Path(self.content, known, config.frames, config.clock) if config.warp else None
        # A first frame enters the first state as a map too: what is where does not fit into a vector.
        self.look = FirstFrame(config, plan, 2 * self.map[0]) if "image" in config.condition else None

    def noise_size(self, frames: int | None = None) -> int:
        """See `NoiseDriven.noise_size`: content, and motion for each frame."""
        return self.content + self.motion * (frames or self.frames)

    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Numbers (N, content + frames * motion) as noise (N, frames, latent)."""
        content, motion = numbers.tensor_split([self.content], 1)
        frames = frames or self.frames
        motion = motion.unflatten(1, (frames, self.motion))  # (N, T, motion)
        return torch.cat([content[:, None].expand(-1, frames, -1), motion], 2)

    def forward(self, z: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.draw(z, c).clips

    def draw(self, z: torch.Tensor, c: Condition | None = None) -> Drawn:
        """The same, with what the clips are made of where a picture is moved."""
        n, frames, _ = z.shape
        content = z[:, 0, : self.content]
        start_noise = z[:, 0, 0] if self.clock else None  # (N,)
        # Steps before the first frame have its noise, so that longer clips begin as shorter ones do.
        z = torch.cat([z[:, :1].expand(-1, self.warm_up, -1), z], 1)  # (N, W + T, latent)
        known = None if self.condition is None else self.condition(c)  # (N, E)
        if known is not None:
            z = torch.cat([z, known[:, None].expand(-1, z.shape[1], -1)], 2)  # (N, W + T, latent + E)
        if self.clock:
            time = torch.arange(-self.warm_up, frames, device=z.device)
            z = torch.cat([z, SCALE * clock_features(start_noise, time, self.frames)], 2)
        start = self.start(content if known is None else torch.cat([content, known], 1)).view(n, 2, *self.map)
        if self.look is not None:
            start = start + self.look(c.image).view_as(start)
        h, cell = torch.tanh(start).unbind(1)  # (N, F, h, w) each
        x = torch.relu(self.step(z)).view(n, -1, *self.map).transpose(1, 2)  # (N, F, W + T, h, w)
        x, _ = self.lstm(x, (h.contiguous(), cell.contiguous()))  # (N, F, W + T, h, w)
        place = None if self.path is None else self.path(content, known, start_noise, frames)
        return self.decoder(x[:, :, self.warm_up :], place, None if c is None else c.image)  # (N, C, T, H, W)


class Discriminator(Discriminators):
    """See `Discriminators`: that of the clip encodes each frame and carries a ConvLSTM over them, whose end it sees.

    Clips have any number of frames.
    """

    def __init__(self, config):
        plan = stages(config.frames, config.height, config.width, temporal=False)
        trunk = _Sequence(config, plan)
        super().__init__(config, trunk, trunk.out_channels, (1, *plan[0].small[1:]))


class _Sequence(nn.Module):
    """A clip (N, C, T, H, W) to the ConvLSTM's last hidden state, (N, `out_channels`, 1, h, w)."""

    def __init__(self, config, plan: list[Stage]):
        super().__init__()
        self.encoder = Encoder(config, plan)
        # Half as many states as features take 0.4 times as long, and nothing is learned more slowly.
        self.out_channels = (self.encoder.out_channels + 1) // 2
        self.lstm = ConvLSTM(self.encoder.out_channels, self.out_channels, kernel_size=3)

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        x = self.encoder(x, c)  # (N, F, T, h, w)
        _, (h, _) = self.lstm(x)  # (N, F, h, w)
        return h.unsqueeze(2)  # (N, F, 1, h, w)
