"""From sentences to word indices, and sentences that do not fit a clip."""

import re
from collections.abc import Sequence

import torch

from fastvgan.errors import UserError

_WORD = re.compile(r"\w+")
_PADDING, _UNKNOWN = 0, 1
_LONGEST = 32
_CANDIDATES = 4096
_NEVER = 1024.0  # more words than a caption has


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
        vocabulary_size: number of word indices. device: where captions are drawn.
    """

    def __init__(self, table: torch.Tensor, vocabulary_size: int, device: "torch.device | str" = "cpu"):
        size, length = table.shape
        is_word = torch.zeros(size, vocabulary_size).scatter_(1, table, 1.0)
        is_word[:, _PADDING] = 0
        # A word that a caption has twice counts where it is first.
        earlier = (table[:, :, None] == table[:, None]).tril(-1).any(-1)  # (M, L)
        once = (~earlier & (table != _PADDING)).float()
        # Words that all captions share tell nothing, and have the logarithm of 1. Where a caption has no other (a
        # duplicate but for word order), any other caption will do.
        telling = once.double() * (size / is_word.sum(0).double().clamp(min=1)).log()[table]
        tells_nothing = telling.sum(1) == 0
        telling[tells_nothing] = 1
        reached = telling.cumsum(1)
        reached = (reached / reached[:, -1:]).float()
        reached[:, -1] = 1
        self.searches_some = size > _CANDIDATES
        """Whether captions are too many to search all, so that `draw` takes a start."""
        # Otherwise there is a caption without the wrong word, which fits better than the caption itself.
        self._may_find_itself = self.searches_some or bool(tells_nothing.any())
        # Those that are searched begin at a random place of this order, at whose end it begins again.
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        self._order = torch.cat([order, order[: _CANDIDATES - 1]]).to(device)
        self._size = size
        self._has_word = is_word.T.contiguous().to(device)  # (V, M)
        self._words, self._weights = table.to(device), torch.stack([reached, once], 1).to(device)
        self._places = torch.arange(length, device=device)
        self._all = torch.arange(min(size, _CANDIDATES), device=device)

    def draw(self, captions: torch.Tensor, chances: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """Wrong captions for true ones, each drawn on its own.

        Args:
            captions: indices of the true ones, int64 (N,), on the device.
            chances: float64 (N, K, 2) in [0, 1): which word is wrong, and which of the captions that fit best is taken.
            start: where captions are more than 4096, and so many of them are searched: from where on, float64 () in
                [0, 1). Otherwise None.

        Returns:
            Indices of wrong ones, int64 (N, K).
        """
        has_word, candidates = self._has_word, self._all
        if self.searches_some:
            candidates = self._order[(start * self._size).long() + self._all]
            has_word = has_word[:, candidates]
        reached, once = self._weights[captions].unbind(1)  # (N, L) each
        words = self._words[captions]  # (N, L)
        wrong = (reached[:, None] <= chances[..., :1]).sum(-1, keepdim=True)  # (N, K, 1), a place in the caption
        weights = torch.add(once[:, None], self._places == wrong, alpha=-_NEVER)  # (N, K, L)
        shared = weights @ has_word[words]  # (N, K, M); whole numbers, which every device adds up alike
        if self._may_find_itself:
            shared = shared.masked_fill((candidates == captions[:, None])[:, None], -2 * _NEVER)
        fits_best = (shared == shared.amax(-1, keepdim=True)).cumsum(-1)
        place = (fits_best <= fits_best[..., -1:] * chances[..., 1:]).sum(-1)  # (N, K)
        return candidates[place] if self.searches_some else place
