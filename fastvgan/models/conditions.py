"""Conditions of a network: a caption, a class, a first frame, or several of these."""

import math
from typing import NamedTuple

import torch
from torch import nn

from fastvgan.layers import Conv3d
from fastvgan.models.config import ModelConfig
from fastvgan.models.text.encoders import EmbeddingEncoder, SequenceEncoder


class Condition(NamedTuple):
    """A batch of conditions. A part that the model does not use is None.

    text: word indices, int64 (N, L), or embeddings by a pretrained text model, float (N, E); (N, K, L) or (N, K, E) for
        K captions per clip.
    label: class indices, int64 (N,), or (N, K).
    image: first frames in [-1, 1], float (N, C, H, W), the same for all K.
    """

    text: torch.Tensor | None = None
    label: torch.Tensor | None = None
    image: torch.Tensor | None = None

    def rows(self, rows: slice | torch.Tensor | list[int]) -> "Condition":
        """Select rows of every part: all parts keep their shapes (N, ...), with a smaller N."""
        return Condition(*(None if part is None else part[rows] for part in self))

    def alike(self) -> torch.Tensor:
        """Return which clips have equal conditions, bool (N, N). Each clip must have one condition."""
        parts = [part.flatten(1) if part.dim() > 1 else part[:, None] for part in self if part is not None]
        return torch.stack([(part[:, None] == part).all(2) for part in parts]).all(0)


class EncodedCondition(NamedTuple):
    """A batch of conditions that were encoded before, such as points between two sentences.

    vector: what `ConditionEncoder` returns, float (N, D).
    image: first frames as in `Condition`, which networks also read as pictures.
    """

    vector: torch.Tensor
    image: torch.Tensor | None = None


class TextEncoder(nn.Module):
    """Encodes a sentence as a vector: word embeddings, concatenated in order, then two linear layers.

    Captions are short and alike in form. Separate weights for each position in the sentence therefore learn in fewer
    steps than a recurrent encoder.
    """

    def __init__(self, vocabulary_size: int, length: int, dim: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, dim // 2, padding_idx=0)
        self.mix = nn.Sequential(nn.Linear(length * (dim // 2), dim), nn.LeakyReLU(0.2), nn.Linear(dim, dim))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Encode word indices, int64 (N, L) or (N, K, L), as (N, D) or (N, K, D)."""
        words = self.embed(text)  # (N, L, D/2)
        return self.mix(words.flatten(-2))  # (N, D)


class ImageEncoder(nn.Module):
    """Encodes a frame as a vector: strided convolutions down to about 4x4, then a linear layer."""

    def __init__(self, channels: int, height: int, width: int, dim: int):
        super().__init__()
        halvings = int(math.log2(min(height, width) // 4))
        features = [channels] + [min(32 * 2**i, 256) for i in range(halvings)]
        layers = []
        for before, after in zip(features, features[1:], strict=False):
            layers += [Conv3d(before, after, (1, 4, 4), (1, 2, 2), (0, 1, 1)), nn.LeakyReLU(0.2)]
        self.convs = nn.Sequential(*layers)
        self.out = nn.Linear(features[-1] * (height >> halvings) * (width >> halvings), dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode frames (N, C, H, W) as (N, D)."""
        x = self.convs(image.unsqueeze(2))  # (N, F, 1, h, w)
        return self.out(x.flatten(1))  # (N, D)


class ConditionEncoder(nn.Module):
    """Encodes a condition as one vector, with `dim` values for each part that the model uses."""

    def __init__(self, config: ModelConfig, dim: int = 128):
        super().__init__()
        self.parts = nn.ModuleDict()
        if "text" in config.condition:
            self.parts["text"] = _text_encoder(config, dim)
        if "class" in config.condition:
            self.parts["label"] = nn.Embedding(config.classes, dim)
        if "image" in config.condition:
            self.parts["image"] = ImageEncoder(config.channels, config.height, config.width, dim)
        self.out_dim = dim * len(self.parts)

    def forward(self, c: Condition | EncodedCondition) -> torch.Tensor:
        """Encode conditions as (N, D), or (N, K, D) for K conditions per clip, with D = `out_dim`."""
        if isinstance(c, EncodedCondition):
            return c.vector
        parts = [encode(getattr(c, name)) for name, encode in self.parts.items()]
        # (N, D), or (N, K, D) if a text or label has K values per clip; a first frame has one.
        most = max([part.dim() for part in parts])
        several = next(part for part in parts if part.dim() == most)
        parts = [part if part.dim() == several.dim() else part[:, None].expand_as(several) for part in parts]
        return torch.cat(parts, -1)


def _text_encoder(config: ModelConfig, dim: int) -> nn.Module:
    if config.text_encoder is not None:
        return EmbeddingEncoder(config.text_width, dim)
    if config.text_model == "sequence":
        return SequenceEncoder(config.vocabulary_size, dim)
    return TextEncoder(config.vocabulary_size, config.caption_length, dim)
