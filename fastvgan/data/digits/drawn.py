"""The base class of the sources that draw every clip from random words."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator

import torch

from fastvgan.data.sampling import sample_numbers
from fastvgan.data.source import Clips
from fastvgan.random_draws import Draws, Purpose


class DrawnSource(ABC):
    """A source that draws a new clip from the random words of each sample; subclasses define `draw`."""

    draws: int
    _words: int  # random words per clip, even where `draws` is set to 0 so that clips are made ahead
    shuffles = False

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Yield batches of new clips; see `fastvgan.data.source.Source.batches`."""
        draw_words = self._words_by(seed)
        for numbers in sample_numbers(batch_size, start, rank, world_size):
            yield self.draw(draw_words(numbers))

    def _words_by(self, seed: int) -> Callable[[range], torch.Tensor]:
        """Return what draws the random words of numbered samples, int64 (N, W)."""
        draws = Draws(seed, {Purpose.CLIP: self._words})
        return lambda numbers: draws(torch.arange(numbers.start, numbers.stop))[Purpose.CLIP]

    @abstractmethod
    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Draw clips by random words, int64 (N, W) with W = `draws`; see `fastvgan.data.source.Source.draw`."""
