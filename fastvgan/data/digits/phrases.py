"""Captions of the digits in free language, written by hand: some to train on, and others to test with.

A phrasing combines a template, a description of the motion, and the digit as a numeral or a word. No template and no
description of the training phrasings occurs in the test phrasings, but each word of the latter occurs in the former,
so that a model without a pretrained text encoder can know it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Template(NamedTuple):
    """A sentence with places for the words, and the same sentence for grey digits, which have no colour.

    The places are "{number}", "{a}" (its article, a or an), "{colour}" and "{motion}".
    """

    coloured: str
    grey: str


class Phrases(NamedTuple):
    """Templates, and the descriptions of each of the digits' motions, by its name in the fixed captions."""

    templates: tuple[Template, ...]
    motions: Mapping[str, tuple[str, ...]]


TRAINING = Phrases(
    (
        # With a numeral and the first description, this is the fixed caption, but for the article of a grey 8.
        Template("a {colour} {number} {motion}", "{a} {number} {motion}"),
        Template("{a} {number} in {colour}, {motion}", "{a} {number}, {motion}"),
        Template("the number {number}, {colour}, {motion}", "the number {number}, {motion}"),
        Template("the digit {number} {motion}, drawn in {colour}", "the digit {number} {motion}, drawn by hand"),
        Template("{colour} {number} {motion}", "{number} {motion}"),
        Template("{motion}: a {colour} {number}", "{motion}: {a} {number}"),
        Template("a {colour} digit, {number}, {motion}", "a digit, {number}, {motion}"),
        Template("in {colour}, the number {number} is {motion}", "the number {number} is {motion}"),
        Template("there is a {colour} {number} {motion}", "there is {a} {number} {motion}"),
        Template("{motion}, the digit {number} is {colour}", "{motion}, there is the digit {number}"),
        Template("a handwritten {number} of the colour {colour}, {motion}", "a handwritten {number}, {motion}"),
        Template(
            "the colour is {colour}, the number is {number}, and it is {motion}",
            "the number is {number}, and it is {motion}",
        ),
    ),
    {
        "up and down": (
            "moving up and down",
            "going up and down",
            "bouncing up and down",
            "rising, then falling",
            "moving vertically",
            "sliding down and back up",
            "travelling from top to bottom and back",
            "sinking and rising again",
        ),
        "left and right": (
            "moving left and right",
            "going left and right",
            "bouncing from side to side",
            "drifting right, then left",
            "moving horizontally",
            "sliding to the left and back to the right",
            "travelling from left to right and back",
            "swinging sideways",
        ),
        "diagonally": (
            "moving diagonally",
            "going diagonally",
            "bouncing from corner to corner",
            "sliding along a diagonal",
            "travelling on a slant",
            "drifting along a slanted line",
            "moving back and forth on a diagonal line",
            "swinging between opposite corners",
        ),
        "in a circle": (
            "moving in a circle",
            "going in a circle",
            "circling around",
            "turning round and round",
            "going around in a ring",
            "travelling along a circular path",
            "moving around the centre",
            "following a ring",
        ),
    },
)

TEST = Phrases(
    (
        Template("the number {number}, in {colour}, {motion}", "the digit, {number}, {motion}"),
        Template("a {colour} number {number} {motion}", "a number {number} {motion}"),
        Template("it is {motion}: the {colour} digit {number}", "it is {motion}: the digit {number}"),
        Template("the {colour} {number} is {motion}", "the {number} is {motion}"),
        Template("{motion} in {colour}, a handwritten {number}", "{motion}, a handwritten {number}"),
        Template("the digit is {number}, the colour {colour}, {motion}", "the digit is {number}, {motion}"),
    ),
    {
        "up and down": (
            "going up then down",
            "rising and falling",
            "sliding vertically",
            "bouncing from bottom to top and back",
            "travelling up and back down",
        ),
        "left and right": (
            "going left then right",
            "sliding from side to side",
            "swinging left and right",
            "bouncing horizontally",
            "moving to the right and back to the left",
        ),
        "diagonally": (
            "sliding diagonally",
            "going from corner to opposite corner",
            "travelling along a diagonal line",
            "bouncing on a slanted line",
            "swinging from corner to corner",
        ),
        "in a circle": (
            "going round and round",
            "circling around the centre",
            "moving along a circle",
            "travelling in a ring",
            "following a circular path",
        ),
    },
)


def phrasings(
    digit: int, colour: str | None, motion: str, split: Literal["train", "test"] = "train"
) -> tuple[str, ...]:
    """Return all phrasings of what a clip shows; a place in the tuple has the same template for all clips.

    Args:
        digit: 0 to 9.
        colour: its name in the fixed captions; None for grey digits.
        motion: its name in the fixed captions.
        split: "train", or "test" for the phrasings that are kept out of training.
    """
    phrases = TRAINING if split == "train" else TEST
    return tuple(
        _fill(template, number, colour, description)
        for template, description, number in itertools.product(
            phrases.templates, phrases.motions[motion], (str(digit), NUMBERS[digit])
        )
    )


def _fill(template: Template, number: str, colour: str | None, motion: str) -> str:
    article = "an" if number in ("8", "eight") else "a"
    if colour is None:
        return template.grey.format(a=article, number=number, motion=motion)
    return template.coloured.format(a=article, number=number, colour=colour, motion=motion)


def phrase_table(
    rows: Sequence[tuple[int, str, str]], has_colour: bool, split: Literal["train", "test"] = "train"
) -> tuple[tuple[str, ...], ...]:
    """Return the phrasings of each row (digit, colour, motion); `has_colour` is False for grey digits."""
    return tuple(phrasings(digit, colour if has_colour else None, motion, split) for digit, colour, motion in rows)
