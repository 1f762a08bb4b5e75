"""Encoders of text that train along with a network: of words in free order, and of a frozen model's embeddings."""

import torch
import torch.nn.functional as F
from torch import nn

from fastvgan.models.vocabulary import PADDING

_LAYERS, _HEADS = 2, 4
_REACH = 8  # distances of words beyond this count as this


class SequenceEncoder(nn.Module):
    """Encodes a sentence in free word order as a vector: a small transformer over its words.

    Pre-norm layers (Xiong et al. 2020) with relative positions (Shaw et al. 2018, here as a bias of the attention), so
    that sentences may be longer than those in training. The result is the maximum of each feature over the words. The
    attention is written out, since fused ones have no second derivatives, and masks padding, so that shapes do not
    depend on the data.

    Args:
        vocabulary_size: number of word indices; index 0 is padding.
        dim: length of the vector.
    """

    def __init__(self, vocabulary_size: int, dim: int):
        super().__init__()
        width = dim // 2
        self.embed = nn.Embedding(vocabulary_size, width, padding_idx=PADDING)
        self.start = nn.Parameter(torch.zeros(width))
        self.layers = nn.Sequential(*(_Layer(width) for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, dim), nn.LeakyReLU(0.2), nn.Linear(dim, dim))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Encode word indices, int64 (N, L) or (N, K, L) with any L, as (N, D) or (N, K, D)."""
        words = text.flatten(0, -2)  # (B, L)
        # A first place that is never padding, so that a sentence without words has one, too.
        is_word = F.pad(words != PADDING, (1, 0), value=True)  # (B, S) with S = 1 + L
        start = self.start.expand(words.shape[0], 1, -1)
        x = torch.cat([start, self.embed(words)], 1)  # (B, S, E)
        for layer in self.layers:
            x = layer(x, is_word)
        x = self.norm(x)
        x = x.masked_fill(~is_word[..., None], torch.finfo(x.dtype).min).amax(1)  # (B, E)
        return self.mix(x).unflatten(0, text.shape[:-1])  # (N, D) or (N, K, D)


class _Layer(nn.Module):
    """Attention over the words of a sentence, then two linear layers for each word."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(_HEADS, 2 * _REACH + 1))
        self.each = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Transform words x (B, S, E), of which those at `is_word` (B, S) are seen."""
        queries, keys, values = self.inputs(self.norm(x)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(2, 3) / keys.shape[-1] ** 0.5 + self._bias(x.shape[1])  # (B, heads, S, S)
        scores = scores.masked_fill(~is_word[:, None, None], -torch.inf)
        seen = scores.softmax(-1).to(values.dtype) @ values  # (B, heads, S, E / heads)
        x = x + self.output(seen.transpose(1, 2).flatten(2))
        return x + self.each(self.second_norm(x))

    def _bias(self, size: int) -> torch.Tensor:
        """Return the bias of each pair of words by their distance, (heads, S, S)."""
        place = torch.arange(size, device=self.distance.device)
        distance = (place - place[:, None]).clamp(-_REACH, _REACH) + _REACH
        # A product rather than an index, whose gradient would be a scatter.
        is_distance = distance[..., None] == torch.arange(2 * _REACH + 1, device=distance.device)  # (S, S, 2R + 1)
        return (is_distance.to(self.distance.dtype) @ self.distance.T).permute(2, 0, 1)


class EmbeddingEncoder(nn.Module):
    """Maps embeddings of sentences, by a frozen text model, to vectors: a trained linear projection.

    Embeddings are brought to mean 0 and variance 1 first, since their scale differs from model to model.

    Args:
        width: length of an embedding.
        dim: length of the vector.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.project = nn.Linear(width, dim)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Project embeddings, float (N, E) or (N, K, E), to (N, D) or (N, K, D)."""
        return self.project(self.norm(text.to(self.project.weight.dtype)))
