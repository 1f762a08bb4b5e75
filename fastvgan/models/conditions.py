"""What a network is told beside the noise or the clip: a caption, a class, a first frame, or several at once."""

import math
from typing import NamedTuple

import torch
from torch import nn

from fastvgan.layers import Conv3d


class Condition(NamedTuple):
    """A batch of conditions; a part that the model does not use is None.

    text: word indices, int64 (N, L), or (N, K, L) for K captions per clip.
    label: class indices, int64 (N,), or (N, K).
    image: first frames in [-1, 1], float (N, C, H, W), the same for all K.
    """

    text: torch.Tensor | None = None
    label: torch.Tensor | None = None
    image: torch.Tensor | None = None

    def rows(self, rows: slice | torch.Tensor | list[int]) -> "Condition":
        """These rows of each part."""
        return Condition(*(None if part is None else part[rows] for part in self))

    def alike(self) -> torch.Tensor:
        """Which clips have the very same condition, bool (N, N), of one condition per clip."""
        parts = [part.flatten(1) if part.dim() > 1 else part[:, None] for part in self if part is not None]
        return torch.stack([(part[:, None] == part).all(2) for part in parts]).all(0)


class TextEncoder(nn.Module):
    """A sentence to a vector: word embeddings, kept in their order, then two linear layers.

    Captions are short and of one form, so each place in the sentence has weights of its own, which learns in fewer
    steps than a recurrent encoder does.
    """

    def __init__(self, vocabulary_size: int, length: int, dim: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, dim // 2, padding_idx=0)
        self.mix = nn.Sequential(nn.Linear(length * (dim // 2), dim), nn.LeakyReLU(0.2), nn.Linear(dim, dim))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        words = self.embed(text)  # (N, L, D/2)
        return self.mix(words.flatten(-2))  # (N, D)


class ImageEncoder(nn.Module):
    """A frame to a vector: strided convolutions down to 4x4 or so, then a linear layer."""

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
        x = self.convs(image.unsqueeze(2))  # (N, F, 1, h, w)
        return self.out(x.flatten(1))  # (N, D)


class ConditionEncoder(nn.Module):
    """All parts of a condition to one vector, a slice of `dim` values for each part that the model uses.

    `forward(c)` gives (N, `out_dim`), or (N, K, `out_dim`) for K conditions per clip.
    """

    def __init__(self, config, dim: int = 128):
        super().__init__()
        self.parts = nn.ModuleDict()
        if "text" in config.condition:
            self.parts["text"] = TextEncoder(config.vocabulary_size, config.caption_length, dim)
        if "class" in config.condition:
            self.parts["label"] = nn.Embedding(config.classes, dim)
        if "image" in config.condition:
            self.parts["image"] = ImageEncoder(config.channels, config.height, config.width, dim)
        self.out_dim = dim * len(self.parts)

    def forward(self, c: Condition) -> torch.Tensor:
        parts = [encode(getattr(c, name)) for name, encode in self.parts.items()]
        several = max(parts, key=torch.Tensor.dim)  # (N, D), or (N, K, D), which a first frame has no K of
        parts = [part if part.dim() == several.dim() else part[:, None].expand_as(several) for part in parts]
        return torch.cat(parts, -1)
