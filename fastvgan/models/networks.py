"""Generator and discriminator of a configuration, by its family."""

from typing import TypeVar

import torch
from torch import nn

from fastvgan.models import conv3d, recurrent
from fastvgan.models.conditions import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.noise import NoiseDriven

__all__ = ["Condition", "ModelConfig", "build", "build_generator"]

_FAMILIES = {"conv3d": conv3d, "recurrent": recurrent}


Network = TypeVar("Network", bound=nn.Module)


def build(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of a configuration, freshly initialised from torch's global random state."""
    generator = build_generator(config)
    discriminator = _FAMILIES[config.family].Discriminator(config)
    return generator, _channels_last(discriminator)


def build_generator(config: ModelConfig) -> NoiseDriven:
    """The generator of a configuration alone."""
    return _channels_last(_FAMILIES[config.family].Generator(config))


def _channels_last(network: Network) -> Network:
    # Module.to takes one memory format for all; frames and clips have different ones.
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return network
