"""The words of the digits' captions, and the sentences that describe no clip of the digits. Imports no torch."""

import re
from collections.abc import Collection, Sequence
from functools import cache

from fastvgan.data.digits.phrases import NUMBERS, TRAINING

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "white": (255, 255, 255),
}
MOTIONS = ("up and down", "left and right", "diagonally", "in a circle")

_WORD = re.compile(r"\w+")
_DIGITS = {word: digit for digit in range(10) for word in (str(digit), NUMBERS[digit])}
# These occur in descriptions of one motion only, but do not say which.
_NOT_A_MOTION = {"again", "between", "following", "forth", "on", "path"}


def explain_unsuitable(caption: str, vocabulary: Collection[str]) -> str | None:
    """Return why a caption describes no clip of the digits, with the words that do and an example.

    Args:
        caption: a sentence, which should name one digit, a motion and, for coloured digits, one colour.
        vocabulary: the words that a model knows.

    Returns:
        The reason, or None if the caption is suitable or the vocabulary is not that of captioned digits.
    """
    if not _is_of_digits(vocabulary):
        return None
    words = _split(caption)
    unknown = [word for word in dict.fromkeys(words) if word not in vocabulary]
    has_colours = COLOURS.keys() <= set(vocabulary)
    if unknown:
        reason = f"has words that were not in the training captions: {', '.join(map(repr, unknown))}"
    else:
        reason = _explain_count(words, has_colours)
    return reason and f"the caption {caption!r} {reason}; {describe_captions(vocabulary)}"


def describe_captions(vocabulary: Collection[str]) -> str | None:
    """Return what to name in a caption of the digits, with an example; None if the vocabulary is not theirs."""
    if not _is_of_digits(vocabulary):
        return None
    has_colours = COLOURS.keys() <= set(vocabulary)
    numbers = " or zero to nine" if NUMBERS[0] in vocabulary else ""
    groups = [f"a colour ({', '.join(COLOURS)})"] if has_colours else []
    groups += [f"a digit (0 to 9{numbers})", f"a motion ({', '.join(MOTIONS)})"]
    example = f"a {'blue ' if has_colours else ''}5 moving left and right"
    return f'name {", ".join(groups[:-1])} and {groups[-1]}, for example "{example}"'


def _is_of_digits(vocabulary: Collection[str]) -> bool:
    needed = {str(digit) for digit in range(10)} | set(_split(" ".join(MOTIONS)))
    return needed <= set(vocabulary) <= _known_words()


@cache
def _known_words() -> set[str]:
    texts: list[str] = [text for template in TRAINING.templates for text in template]
    texts += [text for descriptions in TRAINING.motions.values() for text in descriptions]
    # The names of the places in templates are words of captions themselves, or harmless.
    return {*_split(" ".join(texts)), *_DIGITS, *COLOURS, "an"}


@cache
def _motion_words() -> set[str]:
    """Return the words that say which motion a clip shows."""
    of_motions = [set(_split(" ".join(texts))) for texts in TRAINING.motions.values()]
    of_templates = set(_split(" ".join(text for template in TRAINING.templates for text in template)))
    once = {word for words in of_motions for word in words if sum(word in other for other in of_motions) == 1}
    return once - of_templates - _NOT_A_MOTION


def _explain_count(words: Sequence[str], has_colours: bool) -> str | None:
    """Return a reason if the words name no colour, digit or motion, or several colours or digits."""
    colours = list(dict.fromkeys(word for word in words if word in COLOURS))
    digits = list(dict.fromkeys(str(_DIGITS[word]) for word in words if word in _DIGITS))
    counts = {"colour": len(colours)} if has_colours else {}
    counts |= {"digit": len(digits), "motion": len(_motion_words().intersection(words))}
    if missing := [f"no {what}" for what, count in counts.items() if not count]:
        return f"names {' and '.join([', '.join(missing[:-1]), missing[-1]] if missing[1:] else missing)}"
    for what, named in (("colours", colours), ("digits", digits)):
        if len(named) > 1:
            return f"names {len(named)} {what}: {', '.join(named)}"
    return None


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())
