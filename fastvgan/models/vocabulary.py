"""The word indices of sentences, and wrong sentences for clips."""

import re
from collections.abc import Sequence

import torch

from fastvgan.errors import UserError
from fastvgan.models.config import MOST_WORDS

_WORD = re.compile(r"\w+")
PADDING, _UNKNOWN = 0, 1
_CANDIDATES = 4096
_NEVER = 1024.0  # more words than a caption has


def split_words(caption: str) -> list[str]:
    """Split a sentence into words, in lower case and without punctuation."""
    return _WORD.findall(caption.lower())


class Vocabulary:
    """The words of a set of captions.

    Index 0 is padding and 1 an unknown word; the index of a known word is its position in `words` plus 2. Sentences are
    cut or padded to `length` words.
    """

    def __init__(self, words: Sequence[str], length: int):
        self.words = list(words)
        self.length = length
        self._index = {word: i + 2 for i, word in enumerate(self.words)}

    @classmethod
    def of(cls, captions: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary of captions; its length is that of the longest one, at most 32 words."""
        split = [split_words(caption) for caption in captions]
        return cls(sorted(set().union(*split)), min(MOST_WORDS, max((len(words) for words in split), default=1)))

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Return the word indices of captions, int64 (N, length)."""
        rows = torch.full((len(captions), self.length), PADDING)
        for row, text in zip(rows, captions, strict=True):
            indices = [self._index.get(word, _UNKNOWN) for word in split_words(text)[: self.length]]
            row[: len(indices)] = torch.tensor(indices, dtype=torch.int64)
        return rows

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a caption that are not in the vocabulary.

        Raises:
            UserError: no word of the caption is in the vocabulary.
        """
        words = split_words(text)
        missing = [word for word in words if word not in self._index]
        if len(missing) == len(words):
            some = ", ".join(self.words[:40])
            raise UserError(f"no word of the caption {text!r} was in the training captions; known words: {some}")
        return missing


class WrongCaptions:
    """Draws wrong captions for clips that nearly fit them.

    A caption that is wrong in every word teaches a discriminator nothing about the hardest word. So one word of the
    true caption is drawn, weighted by its inverse document frequency (Spärck Jones 1972), so that rare words are more
    likely. Then one of the captions without that word that share most of the others is drawn. The matching-aware
    objective is that of Reed et al. 2016 (GAN-CLS), which draws wrong captions at random.

    Args:
        table: word indices of the distinct captions, int64 (M, L) as `Vocabulary.encode` returns them; M at least 2.
        vocabulary_size: the number of word indices.
        device: the device on which captions are drawn.
    """

    def __init__(self, table: torch.Tensor, vocabulary_size: int, device: "torch.device | str" = "cpu"):
        size, length = table.shape
        is_word = torch.zeros(size, vocabulary_size).scatter_(1, table, 1.0)
        is_word[:, PADDING] = 0
        # A repeated word counts at its first position only.
        earlier = (table[:, :, None] == table[:, None]).tril(-1).any(-1)  # (M, L)
        once = (~earlier & (table != PADDING)).float()
        # A word in all captions distinguishes none and has weight log 1 = 0. If a caption has only such words, because
        # it differs from another one in word order alone, all its words get the same weight.
        weights = once.double() * (size / is_word.sum(0).double().clamp(min=1)).log()[table]
        has_no_weight = weights.sum(1) == 0
        weights[has_no_weight] = 1
        reached = weights.cumsum(1)
        reached = (reached / reached[:, -1:]).float()
        reached[:, -1] = 1
        self.searches_some = size > _CANDIDATES
        """Whether there are too many captions to search all, so that `draw` needs a start."""
        # In all other cases some caption without the wrong word fits better than the caption itself.
        self._may_find_itself = self.searches_some or bool(has_no_weight.any())
        # `draw` searches consecutive captions of this order, which is cyclic, from a random start.
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        self._order = torch.cat([order, order[: _CANDIDATES - 1]]).to(device)
        self._size = size
        self._has_word = is_word.T.contiguous().to(device)  # (V, M)
        self._words, self._weights = table.to(device), torch.stack([reached, once], 1).to(device)
        self._places = torch.arange(length, device=device)
        self._all = torch.arange(min(size, _CANDIDATES), device=device)

    def draw(self, captions: torch.Tensor, chances: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """Draw K wrong captions for each true one, independently.

        Args:
            captions: indices of the true captions, int64 (N,), on the device.
            chances: float64 (N, K, 2) in [0, 1), which select the wrong word and one of the captions that fit best.
            start: with more than 4096 captions, of which 4096 are searched, the start of the search: float64 () in
                [0, 1). Otherwise None.

        Returns:
            Indices of wrong captions, int64 (N, K).

        Raises:
            ValueError: `searches_some` is true and `start` is None.
        """
        has_word, candidates = self._has_word, self._all
        if self.searches_some:
            if start is None:
                raise ValueError(f"with more than {_CANDIDATES} captions draw needs a start")
            candidates = self._order[(start * self._size).long() + self._all]
            has_word = has_word[:, candidates]
        reached, once = self._weights[captions].unbind(1)  # (N, L) each
        words = self._words[captions]  # (N, L)
        wrong = (reached[:, None] <= chances[..., :1]).sum(-1, keepdim=True)  # (N, K, 1), a position in the caption
        weights = torch.add(once[:, None], self._places == wrong, alpha=-_NEVER)  # (N, K, L)
        shared = weights @ has_word[words]  # (N, K, M); integers, which every device sums exactly
        if self._may_find_itself:
            shared = shared.masked_fill((candidates == captions[:, None])[:, None], -2 * _NEVER)
        fits_best = (shared == shared.amax(-1, keepdim=True)).cumsum(-1)
        place = (fits_best <= fits_best[..., -1:] * chances[..., 1:]).sum(-1)  # (N, K)
        return candidates[place] if self.searches_some else place
