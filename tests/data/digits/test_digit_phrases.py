"""The digits' captions in free language."""

import pytest
import torch

from fastvgan.data import open_source
from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, Variant
from fastvgan.data.digits.phrases import NUMBERS, TEST, TRAINING, phrasings
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.models.vocabulary import MOST_WORDS, split_words
from fastvgan.runs.config import DataConfig

COLOUR = {3: tuple(COLOURS), 1: (None,)}


def every(channels, split):
    rows = [(d, c, m) for d in range(10) for c in COLOUR[channels] for m in MOTIONS]
    return {row: phrasings(*row, split) for row in rows}


@pytest.mark.parametrize("channels", [1, 3])
def test_test_phrasings_are_new_but_their_words_are_known(channels):
    training, test = (
        {tuple(split_words(text)): row for row, texts in every(channels, split).items() for text in texts}
        for split in ("train", "test")
    )
    assert training.keys().isdisjoint(test)
    assert {word for text in test for word in text} <= {word for text in training for word in text}
    assert max(map(len, [*training, *test])) <= MOST_WORDS


def test_neither_templates_nor_motions_are_shared():
    for field in ("coloured", "grey"):
        first, second = ({tuple(split_words(getattr(t, field))) for t in p.templates} for p in (TRAINING, TEST))
        assert first.isdisjoint(second)
    first, second = ({text for texts in p.motions.values() for text in texts} for p in (TRAINING, TEST))
    assert first.isdisjoint(second) and len(first) == 32 and len(second) == 20
    assert set(TRAINING.motions) == set(TEST.motions) == set(MOTIONS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_phrasing_has_one_meaning_and_names_all_of_it(channels, split):
    meanings = {}
    for row, texts in every(channels, split).items():
        for text in texts:
            words = split_words(text)
            assert meanings.setdefault(tuple(words), row) == row
            assert (str(row[0]) in words) != (NUMBERS[row[0]] in words)
            assert {word for word in words if word in COLOURS} == ({row[1]} if row[1] else set())
            assert not {w for w in words if w in NUMBERS or w.isdigit()} - {str(row[0]), NUMBERS[row[0]]}
            assert "{" not in text and "a 8" not in text and "a eight" not in text and "an 7" not in text


def test_the_sentence_of_the_issue_is_a_test_phrasing():
    assert "the number seven, in red, going up then down" in phrasings(7, "red", "up and down", "test")
    assert "the number 7, in red, going up then down" in phrasings(7, "red", "up and down", "test")


def test_the_source_draws_the_same_clips_with_phrasings_beside_them():
    fixed, free = DigitsSource(hold_out=0.1), DigitsSource(hold_out=0.1, variant=Variant(is_free=True))
    assert fixed.phrasings == () and fixed.captions == free.captions and fixed.held_out == free.held_out
    assert fixed.fingerprint != free.fingerprint and fixed.fingerprint == DigitsSource(hold_out=0.1).fingerprint
    for ours, theirs in zip(next(fixed.batches(8, 3)), next(free.batches(8, 3)), strict=True):
        assert torch.equal(ours, theirs)
    assert len(free.phrasings) == len(free.captions) == 216 and {len(row) for row in free.phrasings} == {192}
    assert all(caption in row for caption, row in zip(free.captions, free.phrasings, strict=True))
    held_out = [text for text in free.held_out]
    assert not set(held_out) & {text for row in free.phrasings for text in row}


def test_free_captions_are_for_the_digits():
    assert open_source(DataConfig(captions="free"), ModelConfig()).phrasings
    with pytest.raises(UserError, match="--captions free applies only to the digits; with --data clips use --captions"):
        open_source(DataConfig(data="clips", captions="free"), ModelConfig())
