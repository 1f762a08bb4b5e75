"""Streams of real and of generated clips, so that only one batch of them is in memory."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import torch

from fastvgan.data.source import Clips, Source
from fastvgan.metrics.evaluation import Generate
from fastvgan.metrics.prompts import conditions_of
from fastvgan.models.config import ModelConfig

Noise = Callable[[torch.Tensor, int], torch.Tensor]
"""Returns noise for the numbers of clips, int64 (n,), and a seed."""


class Streams(NamedTuple):
    """The clips of a comparison.

    model: the generator's configuration.
    source: of real clips, of the size and length of the generator's.
    clips: how many clips of each kind.
    seed: of real clips, conditions and noise.
    batch: clips per batch, on which no clip depends.
    """

    model: ModelConfig
    source: Source
    clips: int
    seed: int
    batch: int

    def batch_sizes(self) -> set[int]:
        """Return the sizes of the batches: all are equal but the last."""
        return {min(self.batch, self.clips), self.clips % self.batch or min(self.batch, self.clips)}

    def draw_real(self) -> Iterator[torch.Tensor]:
        """Yield batches of real clips, uint8 (N, T, H, W, C): the first of an epoch, each from another file."""
        for drawn in self._draw(self.seed):
            yield drawn.video

    def generate(self, generate: Generate, noise: Noise) -> Iterator[torch.Tensor]:
        """Yield batches of generated clips, uint8 (N, T, H, W, C).

        Their conditions are those of other random samples of the data than the real clips, so that generated and real
        clips are independent sets.

        Raises:
            UserError: the data lacks the model's condition, or the model does not know one of its words or classes.
        """
        numbers = torch.arange(self.clips).split(self.batch)
        if not self.model.condition:
            for part in numbers:
                yield generate(noise(part, self.seed), None)
            return
        for part, drawn in zip(numbers, self._draw(self.seed + 1), strict=True):
            yield generate(
                noise(part, self.seed), conditions_of(self.model, self.source, drawn, torch.arange(len(part)))
            )

    def _draw(self, seed: int) -> Iterator[Clips]:
        left = self.clips
        with closing(self.source.batches(min(self.batch, self.clips), seed)) as batches:
            while left > 0:
                drawn = next(batches)
                caption, label = (None if part is None else part[:left].cpu() for part in drawn[1:])
                yield Clips(drawn.video[:left].cpu(), caption, label)
                left -= len(drawn.video)
