"""The generator and the discriminator of a configuration, by its family."""

from typing import TypeVar

import torch
from torch import nn

from fastvgan.layers.upsampling import find_upsampling_kernels
from fastvgan.models import conv3d, recurrent
from fastvgan.models.conditions import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.noise import NoiseDriven
from fastvgan_kernels.projection import project

__all__ = ["Condition", "ModelConfig", "build", "build_generator"]

N = TypeVar("N", bound=nn.Module)
_FAMILIES = {"conv3d": conv3d, "recurrent": recurrent}


def build(config: ModelConfig) -> tuple[NoiseDriven, Discriminators]:
    """Return a new generator and discriminator, initialised from torch's global random state."""
    generator = build_generator(config)
    discriminator = _FAMILIES[config.family].Discriminator(config)
    return generator, _channels_last(discriminator)


def build_generator(config: ModelConfig) -> NoiseDriven:
    """Return a new generator alone."""
    generator = _channels_last(_FAMILIES[config.family].Generator(config))
    if config.upsampling == "resize":
        project(find_upsampling_kernels(generator))
    return generator


def _channels_last(network: N) -> N:
    # Module.to takes one memory format for all parameters, but 2D and 3D weights have different ones.
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return network
