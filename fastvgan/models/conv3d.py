"""The 3D-convolutional family (after VGAN, Vondrick et al. 2016, and DCGAN, Radford et al. 2016).

With frames = height = width = 16, base_width 128 and no condition these are the networks of the preset `reference`.
"""

import torch

from fastvgan.layers import ConvTransposeNormAct3d
from fastvgan.layers.deferred import chain
from fastvgan.models.clock import FREQUENCIES, SCALE, clock_features
from fastvgan.models.conditions import Condition, ConditionEncoder, EncodedCondition
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import clip_stages
from fastvgan.models.trunk import Decoder, Encoder
from fastvgan.models.warp import GeneratorOutput, MotionPath


class Generator(NoiseDriven):
    """Generates a clip from noise and, if the model has one, a condition."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.latent, self.frames, self.clock = config.latent, config.frames, config.clock
        self.condition = ConditionEncoder(config) if config.condition else None
        plan = clip_stages(config)
        decoder = Decoder(config, plan)
        known = self.condition.out_dim if self.condition else 0
        self.path = MotionPath(config.latent, known, config.frames, config.clock) if config.warp else None
        inputs = config.latent + known + (2 * FREQUENCIES if config.clock else 0)
        self.first = ConvTransposeNormAct3d(inputs, decoder.in_channels, plan[0].small, activation="relu")
        self.decoder = decoder

    def noise_size(self, frames: int | None = None) -> int:
        """See `NoiseDriven.noise_size`; `frames` is ignored."""
        return self.latent

    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Return numbers (N, latent) unchanged; `frames` is ignored."""
        return numbers

    def forward(self, z: torch.Tensor, c: Condition | EncodedCondition | None = None) -> torch.Tensor:
        """Generate clips (N, C, T, H, W) in [-1, 1] from noise (N, latent) and a condition."""
        return self.draw(z, c).clips

    def draw(self, z: torch.Tensor, c: Condition | EncodedCondition | None = None) -> GeneratorOutput:
        """Generate clips as `forward` does; with `warp`, also return their moved picture and redrawn share.

        Args:
            z: noise, float (N, latent).
            c: the condition, or None for a model without one.
        """
        start_noise = z[:, 0] if self.clock else None  # (N,)
        known = None if self.condition is None else self.condition(c)  # (N, E)
        place = None if self.path is None else self.path(z, known, start_noise, self.frames)
        if known is not None:
            z = torch.cat([z, known], 1)  # (N, latent + E)
        if start_noise is not None:
            first = torch.zeros(1, device=z.device)
            z = torch.cat([z, SCALE * clock_features(start_noise, first, self.frames)[:, 0]], 1)  # (N, latent + E + 8)
        x = z[:, :, None, None, None]  # (N, inputs, 1, 1, 1)
        x = chain([self.first], x)  # (N, F, 4, 4, 4), or (N, F, 6, 4, 4) with a margin
        return self.decoder(x, place, None if c is None else c.image)  # (N, C, T, H, W)


class Discriminator(Discriminators):
    """`Discriminators` whose clip discriminator has strided 3D convolutions down to about 4x4x4, scored as a whole."""

    def __init__(self, config: ModelConfig):
        plan = clip_stages(config)
        encoder = Encoder(config, plan)
        super().__init__(config, encoder, encoder.out_channels, plan[0].small)
