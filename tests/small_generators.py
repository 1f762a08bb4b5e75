"""Generators that are small, untrained, and follow their conditions visibly."""

import torch

from fastvgan.generation.generator import VideoGenerator
from fastvgan.models import ModelConfig, build_generator

_KNOWN = {
    "vocabulary": ("a", "green", "moving", "red"),
    "caption_length": 4,
    "class_names": ("cat", "dog"),
    "base_width": 2,
    "latent": 4,
}


def make_generator(**values):
    """Return a generator whose clips have contrast, and show the noise and the condition, as those of trained ones."""
    config = ModelConfig(**{**_KNOWN, "condition": ("text",), **values})
    torch.manual_seed(0)
    network = build_generator(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(1.5)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.01, 0.1)
    return VideoGenerator(network, config)
