"""Stand-ins for a generator of the digits, each with a known quality or fault."""

import numpy as np
import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.models import ModelConfig
from fastvgan.models.vocabulary import Vocabulary

DRAWN = 4000  # clips of a training run, among which each caption is found several times


def digits_model(source, **values):
    """Return the configuration of a digits model, by default with captions as condition."""
    vocabulary = Vocabulary.of(source.captions)
    known = {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length, "class_names": source.classes}
    return ModelConfig(**{"base_width": 2, "latent": 4, **known, **values})


def noise(n, seed):
    """One number per clip, which determines everything but the condition."""
    return torch.randint(0, 2**31, (n, 1), generator=torch.Generator().manual_seed(seed))


class StandIn:
    """Draws clips of the requested captions, by writers who are not in the training set.

    Each of the methods is called as a generator is.
    """

    def __init__(self, model, source, drawn_from=None):
        self.source = source
        self.drawn_from = drawn_from or DigitsSource(*source.shape, split="test")
        captions = self.drawn_from.captions
        rows = Vocabulary(model.vocabulary, model.caption_length).encode(captions).tolist()
        self._index = {tuple(row): i for i, row in enumerate(rows)}

    def real(self, z, condition):
        return self._render(self._find_rows(condition), z)

    def deaf(self, z, condition):
        """Clips of random captions, which ignore the condition."""
        numbers = [np.random.default_rng(row).integers(len(self.drawn_from.captions)) for row in z.tolist()]
        return self._render(np.array(numbers), z)

    def single(self, z, condition):
        """The same clip every time for a caption."""
        index = self._find_rows(condition)
        return self._render(index, torch.from_numpy(index)[:, None])

    def copying(self, z, condition):
        """Clips of a training run with seed 0, with noise of one grey level."""
        drawn = next(self.source.batches(DRAWN, seed=0))
        captions = [self.drawn_from.captions[i] for i in self._find_rows(condition)]
        index = [list(self.source.captions).index(text) for text in captions]
        parts = [drawn.video[drawn.caption == i] for i in index]
        clips = torch.stack([part[k % len(part)] for part, k in zip(parts, z[:, 0].tolist(), strict=True)])
        return (clips + torch.randn(clips.shape)).round().clamp(0, 255).to(torch.uint8)

    def noisy(self, amount):
        """Real clips blended with this share of noise."""

        def generate(z, condition):
            clips = self.real(z, condition)
            return ((1 - amount) * clips + amount * torch.randint(0, 256, clips.shape)).to(torch.uint8)

        return generate

    def _find_rows(self, condition):
        return np.array([self._index[tuple(row)] for row in condition.text.tolist()])

    def _render(self, index, z):
        chances = [np.random.default_rng([7, *row]).random(4) for row in z.tolist()]
        return self.drawn_from.render(torch.from_numpy(index), torch.tensor(np.array(chances)))
