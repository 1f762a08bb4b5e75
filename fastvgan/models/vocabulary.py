"""The word indices of sentences, and wrong sentences for clips."""

import functools
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from fastvgan.errors import UserError
from fastvgan.models.config import MOST_WORDS

_WORD = re.compile(r"\w+")
_IDEOGRAPHS = (("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
PADDING, _UNKNOWN = 0, 1
_CANDIDATES = 4096
_NEVER = 1024.0  # more words than a caption has
_MOST_ENTRIES = 2**25  # 128 MB
_MOST_ALIKE = 256


def split_words(caption: str) -> list[str]:
    """Split a sentence into words, in lower case and without punctuation.

    Words are Unicode's, in its form NFKC: a letter and its marks stay together, however they were typed. Each
    ideograph is a word, since Chinese has no spaces, as in the tokenizer of Devlin et al. 2019 (BERT).
    """
    if caption.isascii():
        return _WORD.findall(caption.lower())
    # Some compatible forms are capitals, such as those of the sign for a trade mark.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).lower())
    spelled = "".join(map(_spell, text))
    # A mark without a letter before it, such as the last code point of many emoji, is none of a word.
    words = ("".join(itertools.dropwhile(_is_mark, word)) for word in spelled.split())
    return [word for word in words if word]


@functools.cache
def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


@functools.cache
def _spell(character: str) -> str:
    """Return a character of a word as it is, an ideograph between spaces, a space for others, "" for invisible ones."""
    if any(first <= character <= last for first, last in _IDEOGRAPHS):
        return f" {character} "
    if character == "\u200b":  # between the words of Thai and Khmer
        return " "
    if unicodedata.category(character) == "Cf":  # such as the joiners within Persian and Indic words
        return ""
    return character if character.isalnum() or character == "_" or _is_mark(character) else " "


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
        split = [split_words(caption)[:MOST_WORDS] for caption in captions]
        return cls(sorted(set().union(*split)), max((len(words) for words in split), default=1))

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
            UserError: the caption has no word, or none that is in the vocabulary.
        """
        words = split_words(text)
        missing = [word for word in words if word not in self._index]
        if len(missing) == len(words):
            some = ", ".join(self.words[:40])
            if not words:
                raise UserError(f"the caption is empty; known words: {some}")
            raise UserError(f"no word of the caption {text!r} was in the training captions; known words: {some}")
        return missing


class WrongCaptions:
    """Draws wrong captions for clips that nearly fit them.

    A caption that is wrong in every word teaches a discriminator nothing about the hardest word. So one word of the
    true caption is drawn, weighted by its inverse document frequency (Spärck Jones 1972), so that rare words are more
    likely. Then one of the captions without that word that share most of the others is drawn. The matching-aware
    objective is that of Reed et al. 2016 (GAN-CLS), which draws wrong captions at random. Captions of one clip, or of
    the same words, are not wrong for each other: they are drawn only where the search finds no other one. In a set of
    more than 257 captions, each caption excludes 256 others.

    Args:
        table: word indices of the distinct captions, int64 (M, L) as `Vocabulary.encode` returns them; M at least 2.
        vocabulary_size: the number of word indices.
        device: the device on which captions are drawn.
        sets: the captions of each clip that has several, as indices.
    """

    def __init__(
        self,
        table: torch.Tensor,
        vocabulary_size: int,
        device: "torch.device | str" = "cpu",
        sets: Iterable[Sequence[int]] = (),
    ):
        size = len(table)
        # A repeated word counts at its first position only.
        earlier = (table[:, :, None] == table[:, None]).tril(-1).any(-1)  # (M, L)
        once = (~earlier & (table != PADDING)).float()
        # A word in all captions distinguishes none and has weight log 1 = 0. If a caption has only such words, because
        # it differs from another one in word order alone, all its words get the same weight.
        frequency = table[once > 0].bincount(minlength=vocabulary_size)
        weights = once.double() * (size / frequency.double().clamp(min=1)).log()[table]
        has_no_weight = weights.sum(1) == 0
        weights[has_no_weight] = 1
        reached = weights.cumsum(1)
        reached = (reached / reached[:, -1:]).float()
        reached[:, -1] = 1
        self.searches_some = size > _CANDIDATES
        """Whether there are too many captions to search all, so that `draw` needs a start."""
        alike = _pad_sets(size, [*sets, *_find_equal(table)])  # (M, P), P = 0 without any
        self.exist = bool(((alike != torch.arange(size)[:, None]).sum(1) < size - 1).any())
        """Whether a caption has a wrong one."""
        self._alike = alike.to(device)
        # `draw` searches consecutive captions of this order, which is cyclic, from a random start.
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        self._order = torch.cat([order, order[: _CANDIDATES - 1]]).to(device)
        self._all = torch.arange(min(size, _CANDIDATES), device=device)
        self._size, self._vocabulary_size, self._table = size, vocabulary_size, table.to(device)
        words, weights = table, torch.stack([reached, once], 1)
        self._has_word = None
        if not self.searches_some and vocabulary_size * size <= _MOST_ENTRIES:
            has_word = torch.zeros(vocabulary_size, size).scatter_(0, table.T, 1.0)
            has_word[PADDING] = 0
            # Each caption gets one more word, of which it has -4, captions that are not wrong for it -2, and others 0
            # times _NEVER. It is never the wrong word, and counted once.
            excluded = torch.zeros(size, size).scatter_(1, alike, -2 * _NEVER).fill_diagonal_(-4 * _NEVER)
            self._has_word = torch.cat([has_word, excluded]).to(device)  # (V + M, M)
            words = torch.cat([table, vocabulary_size + torch.arange(size)[:, None]], 1)
            weights = torch.cat([weights, torch.tensor([2.0, 1.0])[:, None].repeat(size, 1, 1)], 2)
        self._words, self._weights = words.to(device), weights.to(device)
        self._places = torch.arange(words.shape[1], device=device)

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
        candidates = self._all
        if self.searches_some:
            if start is None:
                raise ValueError(f"with more than {_CANDIDATES} captions draw needs a start")
            candidates = self._order[(start * self._size).long() + self._all]
        reached, once = self._weights[captions].unbind(1)  # (N, L) each
        words = self._words[captions]  # (N, L)
        wrong = (reached[:, None] <= chances[..., :1]).sum(-1, keepdim=True)  # (N, K, 1), a position in the caption
        weights = torch.add(once[:, None], self._places == wrong, alpha=-_NEVER)  # (N, K, L)
        # The matrix product sums integers, which is exact on every device.
        if self._has_word is not None:
            shared = weights @ self._has_word[words]  # (N, K, M)
        else:
            shared = self._exclude(weights @ self._find_words(words, candidates), captions, candidates)
        fits_best = (shared == shared.amax(-1, keepdim=True)).cumsum(-1)
        place = (fits_best <= fits_best[..., -1:] * chances[..., 1:]).sum(-1)  # (N, K)
        return candidates[place] if self.searches_some else place

    def _find_words(self, words: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Return which candidates have which words of the true captions, float32 (N, L, M) of 0 and 1.

        Args:
            words: word indices, int64 (N, L).
            candidates: indices of captions, int64 (M,).
        """
        # Each word gets a row; of equal words all get the same one, whichever that is.
        count = words.numel()
        row = torch.full((self._vocabulary_size,), count, device=words.device)
        row[words.flatten()] = torch.arange(count, device=words.device)
        row[PADDING] = count
        found = torch.zeros(count + 1, len(candidates), device=words.device)
        found.scatter_(0, row[self._table[candidates]].T, 1.0)
        found[count] = 0
        return found[row[words]]

    def _exclude(self, shared: torch.Tensor, captions: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Lower the shared words (N, K, M) of true captions (N,) and candidates (M,) that are not wrong for them."""
        is_alike = torch.zeros(len(captions), self._size, dtype=torch.bool, device=captions.device)
        is_alike.scatter_(1, self._alike[captions], True)
        shared = shared.masked_fill(is_alike[:, None, candidates], -2 * _NEVER)
        return shared.masked_fill((candidates == captions[:, None])[:, None], -4 * _NEVER)


def _find_equal(table: torch.Tensor) -> list[list[int]]:
    """Return the sets of captions of the same words in the same order."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(table.tolist()):
        found[tuple(row)].append(i)
    return [members for members in found.values() if len(members) > 1]


def _pad_sets(size: int, sets: Iterable[Sequence[int]]) -> torch.Tensor:
    """Return for each of the captions those that share a set with it, and itself in the remaining places.

    Args:
        size: number of captions.
        sets: sets of captions, as indices.

    Returns:
        int64 (size, P). A caption that stands with very many others says little of a clip, so P has a limit.
    """
    alike: dict[int, set[int]] = defaultdict(set)
    for members in sets:
        for place, member in enumerate(members):
            # A caption takes those after it in a large set, which is cyclic, so that none is taken by all.
            if len(alike[member]) < _MOST_ALIKE:
                count = min(len(members), _MOST_ALIKE + 1)
                alike[member].update(members[(place + i) % len(members)] for i in range(1, count))
    rows = {i: sorted(found - {i})[:_MOST_ALIKE] for i, found in alike.items()}
    padded = torch.arange(size)[:, None].repeat(1, max(map(len, rows.values()), default=0))
    for i, found in rows.items():
        padded[i, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return padded
