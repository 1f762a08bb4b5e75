"""Vocabulary and wrong captions."""

import math
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan.data.digits import DigitsSource
from fastvgan.errors import UserError
from fastvgan.models.config import MOST_WORDS
from fastvgan.models.vocabulary import Vocabulary, WrongCaptions, split_words
from fastvgan.random_draws import Draws, Purpose, uniforms


def draw(wrong, right, seed, count=1):
    """Draw wrong captions for right ones, as training does."""
    draws = Draws(seed, {Purpose.WRONG_CONDITION: 2 * count, Purpose.CANDIDATES: 1})(torch.arange(len(right)))
    chances = uniforms(draws[Purpose.WRONG_CONDITION]).unflatten(1, (count, 2))
    return wrong.draw(right, chances, uniforms(draws[Purpose.CANDIDATES])[0, 0] if wrong.searches_some else None)


def test_encoding_ignores_case_and_punctuation_and_marks_unknown_words():
    vocabulary = Vocabulary.of(["A red 7.", "ein größeres Übel, naïve"])
    known = dict(zip(vocabulary.words, range(2, 99), strict=False))
    rows = vocabulary.encode(["RED, a!", "a green ÜBEL"])
    assert rows.tolist() == [[known["red"], known["a"], 0, 0], [known["a"], 1, known["übel"], 0]]


def test_a_long_caption_is_cut_and_an_empty_one_is_padding():
    vocabulary = Vocabulary(["a"], 2)
    assert vocabulary.encode(["a a a a", ""]).tolist() == [[2, 2], [0, 0]]
    assert Vocabulary.of(["x " * 100]).length == 32


def test_a_caption_without_a_known_word_is_refused():
    vocabulary = Vocabulary.of(["a red 7"])
    assert vocabulary.unknown_words("a blue 7") == ["blue"]
    for text, reason in (("zebra", "no word of the caption 'zebra' was"), ("", "the caption is empty"), ("…", "empty")):
        with pytest.raises(UserError, match=f"{reason}.*; known words: 7, a, red"):
            vocabulary.unknown_words(text)


@given(st.lists(st.text("abcdef ", min_size=1, max_size=12), min_size=2, max_size=20, unique=True), st.integers(0, 99))
def test_a_wrong_caption_is_another_one(captions, seed):
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary))
    right = torch.arange(len(captions))
    drawn = draw(wrong, right, seed, 3)
    assert drawn.shape == (len(captions), 3)
    assert not (drawn == right[:, None]).any() and drawn.min() >= 0 and drawn.max() < len(captions)


def test_wrong_captions_of_the_digits_change_one_thing_and_each_thing_in_turn():
    source = DigitsSource()
    vocabulary = Vocabulary.of(source.captions)
    wrong = WrongCaptions(vocabulary.encode(source.captions), len(vocabulary))
    right = torch.arange(240)
    drawn = draw(wrong, right, 0, 4)
    assert (drawn.float().var(1) > 0).float().mean() > 0.95  # each of the four is drawn on its own
    right, drawn = right.repeat_interleave(4), drawn.flatten()
    changed = [0, 0, 0]
    for before, after in zip(right.tolist(), drawn.tolist(), strict=True):
        pairs = zip(source._table[before], source._table[after], strict=True)
        which = [i for i, (a, b) in enumerate(pairs) if a != b]
        assert len(which) == 1, (source.captions[before], source.captions[after])
        changed[which[0]] += 1
    assert min(changed) > 0.15 * len(right), changed


def test_each_caption_that_fits_best_is_drawn_equally_often():
    captions = ["a red 7 here", "a red 8 here", "a red 9 here", "a blue 7 there"]
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary))
    drawn = draw(wrong, torch.zeros(2000, dtype=torch.int64), 5, 2).flatten()
    # "red" and "here" have log(4/3) each, "7" has log(2): 1 and 2 fit best without "7", and 3 alone is without others.
    share = math.log(2) / (math.log(2) + 2 * math.log(4 / 3))
    expected = [0, share / 2, share / 2, 1 - share]
    assert (drawn.bincount(minlength=4) / len(drawn)).tolist() == pytest.approx(expected, abs=0.03)


def test_a_table_too_large_to_search_is_sampled():
    captions = [f"clip {i}" for i in range(5000)]
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary))
    right = torch.arange(0, 5000, 100)
    first, again = (draw(wrong, right, 3) for _ in range(2))
    assert torch.equal(first, again) and not (first == right[:, None]).any() and first.max() > 4096
    assert len(torch.cat([draw(wrong, right, seed) for seed in range(40)]).unique()) > 1500


@given(st.data())
def test_captions_of_one_clip_and_of_equal_words_are_not_wrong_for_each_other(data):
    """The judge is a search of all captions, clip by clip."""
    count = data.draw(st.integers(3, 12))
    captions = data.draw(st.lists(st.text("abc ", min_size=1, max_size=6), min_size=count, max_size=count, unique=True))
    sets = data.draw(st.lists(st.lists(st.integers(0, count - 1), min_size=2, max_size=4, unique=True), max_size=4))
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary), sets=sets)
    drawn = draw(wrong, torch.arange(count), data.draw(st.integers(0, 99)), 3).tolist()
    rest = []
    for i in range(count):
        alike = {i, *(j for each in sets if i in each for j in each)}
        alike |= {j for j in range(count) if split_words(captions[i]) == split_words(captions[j])}
        rest.append(set(range(count)) - alike)
        assert i not in drawn[i] and (not rest[i] or rest[i] >= set(drawn[i])), (i, sets, captions)
    assert wrong.exist == any(rest)


@pytest.mark.parametrize("limit", [1, 2**24])
def test_a_search_of_many_words_finds_what_a_search_of_few_does(monkeypatch, limit):
    """Where the table of words is too large, each draw makes the rows that it needs."""
    monkeypatch.setattr("fastvgan.models.vocabulary._MOST_ENTRIES", limit)
    same_words = ["a b", "b a", "a b a", "b a b b", "a a b"]  # in each caption, so that a place of padding may be drawn
    for captions in (DigitsSource().captions, same_words):
        vocabulary, drawn = Vocabulary.of(captions), []
        for entries in (limit, 2**24):
            monkeypatch.setattr("fastvgan.models.vocabulary._MOST_ENTRIES", entries)
            wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary), sets=[(0, 4, 2), (3, 2)])
            assert (wrong._has_word is None) == (entries == 1)
            drawn.append(draw(wrong, torch.arange(len(captions)), 3, 9))
        assert torch.equal(*drawn)


def test_captions_of_equal_words_are_not_wrong_for_each_other():
    captions = ["a b", "A, b!", "b a"]
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary))
    drawn = draw(wrong, torch.arange(3), 0, 20)
    assert (drawn[:2] == 2).all() and set(drawn[2].tolist()) == {0, 1} and wrong.exist
    assert not WrongCaptions(vocabulary.encode(captions[:2]), len(vocabulary)).exist


def test_a_large_set_excludes_as_many_others_as_fit():
    captions = [f"clip {i}" for i in range(1000)]
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary), sets=[range(600), (5, 900)])
    excluded = [set(row) - {i} for i, row in enumerate(wrong._alike.tolist())]
    assert [len(row) for row in excluded[:600]] == [256] * 600 and excluded[900] == {5}
    assert all(max(row) < 600 for i, row in enumerate(excluded[:600]) if i != 5) and not any(excluded[601:900])
    taken = torch.tensor([j for row in excluded[:600] for j in row if j < 600]).bincount()
    assert taken.min() >= 255  # each is excluded by about as many


def test_a_large_table_takes_little_memory():
    """20,000 captions of 6,000 words: a dense table of words had 480 MB."""
    letters = torch.randint(6000, (20000, 12), generator=torch.Generator().manual_seed(0)).tolist()
    captions = [" ".join(f"w{i}" for i in row) for row in letters]
    vocabulary = Vocabulary.of(captions)
    wrong = WrongCaptions(vocabulary.encode(captions), len(vocabulary))
    assert sum(x.numel() * x.element_size() for x in vars(wrong).values() if isinstance(x, torch.Tensor)) < 2**24
    right = torch.arange(0, 20000, 1000)
    assert not (draw(wrong, right, 3) == right[:, None]).any()


def test_words():
    assert split_words("Don't stop: 3x!") == ["don", "t", "stop", "3x"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("लड़का चल रहा है।", ["लड़का", "चल", "रहा", "है"]),
        ("Two cafe\u0301s, naïve", ["two", "cafés", "naïve"]),
        ("ที่นี่", ["ที่นี่"]),
        ("İstanbul", ["i̇stanbul"]),
        ("５ ｃａｔｓ", ["5", "cats"]),
        ("می\u200cرود و", ["میرود", "و"]),
        ("一只猫。runs", ["一", "只", "猫", "runs"]),
        ("snake_case – größer", ["snake_case", "größer"]),
        ("I ❤\ufe0f cats ¨a", ["i", "cats", "a"]),
        ("Lego™ 100㎒", ["legotm", "100mhz"]),
        ("a\u200bb", ["a", "b"]),
    ],
)
def test_words_of_any_script(caption, words):
    assert split_words(caption) == [unicodedata.normalize("NFKC", word) for word in words]


@given(st.text(max_size=30))
def test_how_a_letter_was_typed_does_not_matter(caption):
    """The judge of what is the same text is Unicode's own normalisation."""
    forms = [split_words(unicodedata.normalize(form, caption)) for form in ("NFC", "NFD")]
    assert forms[0] == forms[1]
    assert all(word == "".join(split_words(word)) for word in forms[0])


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_words_of_western_letters_are_those_of_a_regular_expression(caption):
    text = unicodedata.normalize("NFKC", caption).lower()
    assert split_words(caption) == re.findall(r"\w+", text.replace("\xad", ""))


def test_words_beyond_the_longest_caption_are_unknown():
    vocabulary = Vocabulary.of(["a " + " ".join(f"w{i}" for i in range(40))])
    assert vocabulary.length == MOST_WORDS == 32
    assert vocabulary.unknown_words("a w30 w31 w38") == ["w31", "w38"]
