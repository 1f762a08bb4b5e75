"""The 3D-convolutional family (after VGAN, Vondrick et al. 2016, and DCGAN, Radford et al. 2016).

With frames = height = width = 16, width 128 and no condition these are the networks of the preset `reference`.
"""

import torch

from fastvgan.layers import ConvTransposeNormAct3d
from fastvgan.layers.deferred import chain
from fastvgan.models.clock import FREQUENCIES, SCALE, clock_features
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import stages
from fastvgan.models.trunk import Decoder, Encoder
from fastvgan.models.warp import Drawn, Path


class Generator(NoiseDriven):
    """Noise, and a condition if the model has one, to a clip.

    `forward(z, c)`: z float (N, latent), c a `Condition` or None; gives (N, C, T, H, W) in [-1, 1].
    """

    def __init__(self, config):
        super().__init__()
        self.latent, self.frames, self.clock = config.latent, config.frames, config.clock
        self.condition = ConditionEncoder(config) if config.condition else None
        plan = stages(config.frames, config.height, config.width)
        decoder = Decoder(config, plan)
        known = self.condition.out_dim if self.condition else 0
        self.path = Path(config.latent, known, config.frames, config.clock) if config.warp else None
        inputs = config.latent + known + (2 * FREQUENCIES if config.clock else 0)
        self.first = ConvTransposeNormAct3d(inputs, decoder.in_channels, plan[0].small, activation="relu")
        self.decoder = decoder

    def noise_size(self, frames: int | None = None) -> int:
        """See `NoiseDriven.noise_size`; the number of frames is the model's own."""
        return self.latent

    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Noise (N, latent) as it is."""
        return numbers

    def forward(self, z: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        return self.draw(z, c).clips

    def draw(self, z: torch.Tensor, c: Condition | None = None) -> Drawn:
        """The same, with what the clips are made of where a picture is moved."""
        start_noise = z[:, 0] if self.clock else None  # (N,)
        known = None if self.condition is None else self.condition(c)  # (N, E)
        place = None if self.path is None else self.path(z, known, start_noise, self.frames)
        if known is not None:
            z = torch.cat([z, known], 1)  # (N, latent + E)
        if self.clock:
            first = torch.zeros(1, device=z.device)
            z = torch.cat([z, SCALE * clock_features(start_noise, first, self.frames)[:, 0]], 1)  # (N, latent + E + 8)
        x = z[:, :, None, None, None]  # (N, inputs, 1, 1, 1)
        x = chain([self.first], x)  # (N, F, 4, 4, 4)
        return self.decoder(x, place, None if c is None else c.image)  # (N, C, T, H, W)


class Discriminator(Discriminators):
    """See `Discriminators`: that of the clip is strided 3D convolutions down to about 4x4x4, all of which it sees."""

    def __init__(self, config):
        plan = stages(config.frames, config.height, config.width)
        encoder = Encoder(config, plan)
        super().__init__(config, encoder, encoder.out_channels, plan[0].small)
