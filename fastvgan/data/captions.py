"""From sentences to word indices, and sentences that do not fit a clip."""

import re
from collections.abc import Sequence

import torch

from fastvgan.errors import UserError

_WORD = re.compile(r"\w+")
_PADDING, _UNKNOWN = 0, 1
_LONGEST = 32
_CANDIDATES = 4096


def words_of(caption: str) -> list[str]:
    """The words of a sentence, in lower case, without punctuation."""
    return _WORD.findall(caption.lower())


class Vocabulary:
    """The words of a set of captions.

    Index 0 pads, 1 stands for a word that is not in `words`; a word's index is its place in `words` plus 2. Sentences
    are cut or padded to `length` words.
    """

    def __init__(self, words: Sequence[str], length: int):
        self.words = list(words)
        self.length = length
        self._index = {word: i + 2 for i, word in enumerate(self.words)}

    @classmethod
    def of(cls, captions: Sequence[str]) -> "Vocabulary":
        """The vocabulary of these captions; its length is that of the longest one, at most 32 words."""
        split = [words_of(caption) for caption in captions]
        return cls(sorted(set().union(*split)), min(_LONGEST, max((len(words) for words in split), default=1)))

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Word indices of captions, int64 (N, length)."""
        rows = torch.full((len(captions), self.length), _PADDING)
        for row, text in zip(rows, captions, strict=True):
            indices = [self._index.get(word, _UNKNOWN) for word in words_of(text)[: self.length]]
            row[: len(indices)] = torch.tensor(indices, dtype=torch.int64)
        return rows

    def unknown(self, text: str) -> list[str]:
        """The words of a caption that the vocabulary lacks.

        Raises:
            UserError: not one word of it is known, so that nothing could follow from it.
        """
        words = words_of(text)
        missing = [word for word in words if word not in self._index]
        if len(missing) == len(words):
            some = ", ".join(self.words[:40])
            raise UserError(f"no word of the caption {text!r} was in the training captions; known words: {some}")
        return missing


class WrongCaptions:
    """Draws, for a clip's caption, one that does not fit the clip but nearly does.

    A caption wrong in every word teaches a discriminator nothing about the hardest word. So a word of the true caption
    is picked at random, the more likely the fewer captions have it (by the logarithm of how few, the inverse document
    frequency of Spärck Jones 1972), and among the captions without that word one that shares most of the others is
    drawn. The matching-aware objective is that of Reed et al. 2016 (GAN-CLS), which draws wrong captions at random.

    Args:
        table: word indices of the distinct captions, int64 (M, L), as `Vocabulary.encode` gives them; M at least 2.
        vocabulary_size: number of word indices.
    """

    def __init__(self, table: torch.Tensor, vocabulary_size: int):
        self._bags = torch.zeros(len(table), vocabulary_size).scatter_(1, table, 1.0)
        self._bags[:, _PADDING] = 0
        # Words that all captions share tell nothing, and have the logarithm of 1. Where a caption has no other (a
        # duplicate but for word order), any other caption will do.
        self._telling = self._bags * (len(table) / self._bags.sum(0).clamp(min=1)).log()
        self._telling[self._telling.sum(1) == 0] = 1

    def draw(
        self,
        captions: torch.Tensor,
        generator: torch.Generator,
        count: int = 1,
        rows: slice = slice(None),
        total: int | None = None,
    ) -> torch.Tensor:
        """For caption indices (N,) the indices (N, count) of wrong ones, each drawn on its own.

        Args:
            rows, total: where `captions` are those rows of a batch of `total`, what is drawn for them is what would be
                for the whole batch.
        """
        total = len(captions) if total is None else total
        candidates = torch.arange(len(self._bags))
        if len(candidates) > _CANDIDATES:
            candidates = torch.randperm(len(candidates), generator=generator)[:_CANDIDATES]
        place = torch.rand(total, count, 1, generator=generator)[rows].double()
        reached = self._telling[captions].cumsum(1)[:, None]  # (N, 1, V)
        without = (reached > place * reached[..., -1:]).int().argmax(-1)  # (N, count), a word index each
        bags = self._bags[candidates]
        overlap = (self._bags[captions] @ bags.T)[:, None]  # (N, 1, M)
        overlap = overlap - 1e3 * bags.T[without]  # (N, count, M)
        overlap.masked_fill_((candidates == captions[:, None])[:, None], -1e6)
        noise = torch.rand(total, count, len(candidates), generator=generator)[rows]
        return candidates[(overlap + 0.5 * noise).argmax(-1)]
