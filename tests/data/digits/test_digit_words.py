"""Sentences that describe no clip of the digits, and what is said about them."""

import pytest

from fastvgan.data.digits import COLOURS, MOTIONS, caption
from fastvgan.data.digits.phrases import NUMBERS, TEST, TRAINING, phrasings
from fastvgan.data.digits.words import describe_captions, explain_unsuitable
from fastvgan.models.vocabulary import Vocabulary

ROWS = [(digit, colour, motion) for digit in range(10) for colour in COLOURS for motion in MOTIONS]


def words_of(captions):
    return frozenset(Vocabulary.of(captions).words)


FIXED = words_of([caption(*row) for row in ROWS])
GREY = words_of([caption(*row, with_colour=False) for row in ROWS])
FREE = words_of([text for digit, colour, motion in ROWS for text in phrasings(digit, colour, motion)])
FREE_GREY = words_of([text for digit, _, motion in ROWS for text in phrasings(digit, None, motion)])


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_phrasing_is_suitable(split):
    for number, row in enumerate(ROWS):
        # One of 17 of the phrasings of each row, other ones in the next row.
        for text in phrasings(*row, split)[number % 17 :: 17]:
            assert explain_unsuitable(text, FREE) is None
        for text in phrasings(row[0], None, row[2], split)[number % 17 :: 17]:
            assert explain_unsuitable(text, FREE_GREY) is None


def test_every_fixed_caption_is_suitable():
    for row in ROWS:
        assert explain_unsuitable(caption(*row), FIXED) is None is explain_unsuitable(caption(*row), FREE)
        assert explain_unsuitable(caption(*row, with_colour=False), GREY) is None


@pytest.mark.parametrize("phrases", [TRAINING, TEST])
def test_a_sentence_without_a_part_names_that_part(phrases):
    for place, template in enumerate(phrases.templates):
        for motion, texts in phrases.motions.items():
            filled = {"a": "a", "number": str(place % 10), "colour": "red", "motion": texts[place % len(texts)]}
            assert explain_unsuitable(template.coloured.format(**filled), FREE) is None
            for part, name in (("number", "digit"), ("colour", "colour"), ("motion", "motion")):
                text = template.coloured.format(**{**filled, part: "moving"})
                assert f" names no {name}; name a colour (red, " in explain_unsuitable(text, FREE), (text, motion)


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("a pink 5 hopping up", FREE, "has words that were not in the training captions: 'pink', 'hopping'; "),
        ("a red 7 moving up. Pink PINK", FREE, "has words that were not in the training captions: 'pink'; "),
        ("", FREE, "names no colour, no digit and no motion; "),
        ("a blue digit", FREE, "names no digit and no motion; "),
        ("a red and blue 5 going up", FREE, "names 2 colours: red, blue; "),
        ("the 4 5 6 in red, going up", FREE, "names 3 digits: 4, 5, 6; "),
        ("the number five, a red 5 going up", FREE, None),
        ("RED 5: up!", FREE, None),
        ("a red 12 moving up", FREE, "has words that were not in the training captions: '12'; "),
        ("a red five moving up and down", FIXED, "has words that were not in the training captions: 'five'; "),
        ("a red 5 moving up and down", GREY, "has words that were not in the training captions: 'red'; "),
        ("a 5", GREY, "names no motion; "),
        ("a 5", {"a", "5", "dog"}, None),
        ("", set(), None),
    ],
)
def test_what_is_said(text, words, reason):
    found = explain_unsuitable(text, words)
    if reason is None:
        assert found is None
    else:
        assert found.startswith(f"the caption {text!r} {reason}") and found.endswith(describe_captions(words))


def test_the_words_are_listed_by_what_they_name_with_an_example():
    said = describe_captions(FREE)
    for colour in COLOURS:
        assert colour in said
    for motion in MOTIONS:
        assert motion in said
    assert "0 to 9 or zero to nine" in said and "zero" not in describe_captions(FIXED)
    assert "colour" not in describe_captions(GREY) and describe_captions(["dog", *FREE]) is None
    for words in (FREE, FIXED, GREY, FREE_GREY):
        example = describe_captions(words).split('"')[1]
        assert explain_unsuitable(example, words) is None
    assert set(NUMBERS) <= FREE
