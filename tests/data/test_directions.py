"""Captions that a mirrored or a reversed clip would contradict are refused, and others are not."""

import pytest

from fastvgan.data.digits import DigitsSource
from fastvgan.data.directions import find_direction, refuse_directions
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import DataConfig, RunConfig
from fastvgan.training.conditions import fit_to_source


@pytest.mark.parametrize(
    ("text", "mirror", "reverse"),
    [
        ("a man turns left", "left", "left"),
        ("The RIGHT hand, waving", "right", "right"),
        ("a wheel turning clockwise", "clockwise", "clockwise"),
        ("a car driving westwards", "westwards", "westwards"),
        ("a ball going up then down", None, "up"),
        ("walking backwards", None, "backwards"),
        ("a door opening", None, "opening"),
        ("open_the_door", None, "open"),
        ("TurnLeft", "left", "left"),
        ("PullUps", None, "pull"),
        ("close the lid", None, "close"),
        ("she zooms in", None, "in"),
        ("zoom_in", None, "in"),
        ("he walks in from the garden", None, "in"),
        ("walking out of the house", None, "out"),
        ("falling into water", None, "falling"),
        ("one, then another", None, "then"),
        # No direction, or both ways in turn.
        ("a red 7 moving left and right", None, None),
        ("a red 7 moving up and down", None, None),
        ("a red 7 moving in a circle", None, None),
        ("a red 7 moving diagonally", None, None),
        ("rocking back and forth", None, None),
        ("a close up of a face in the sun", None, None),
        ("a close-up, out of focus", None, None),
        ("wave_left_and_right", None, None),
        ("close_up_of_a_face", None, None),
        ("bright lights upon a street", None, None),
        ("", None, None),
    ],
)
def test_words_of_direction(text, mirror, reverse):
    assert find_direction(text, "--mirror") == mirror
    assert find_direction(text, "--reverse") == reverse


def test_the_first_caption_is_named_and_the_others_are_counted():
    captions = ["a cat", "a dog runs left", "a dog runs right"]
    with pytest.raises(UserError) as error:
        refuse_directions(["--mirror"], captions, [])
    assert str(error.value) == (
        "--mirror: the caption 'a dog runs left' names a direction, 'left' (as do 1 more), which a mirrored clip does "
        "not show; leave --mirror out, or reword the caption"
    )
    with pytest.raises(
        UserError, match=r"--reverse: the class 'door_open' .*'open', .* reversed .*; leave --reverse out"
    ):
        refuse_directions(["--reverse"], [], ["cat", "door_open"])
    refuse_directions([], captions, ["left"])
    refuse_directions(["--mirror", "--reverse"], ["a cat"], ["dog"])


class Named:
    captions, classes = ("go left",), ("open", "cat")


@pytest.mark.parametrize(
    ("parts", "refused"), [((), []), (("image",), []), (("text",), ["mirror", "reverse"]), (("class",), ["reverse"])]
)
def test_only_what_the_model_is_conditioned_on_counts(parts, refused):
    for change in ("mirror", "reverse"):
        config = RunConfig(model=ModelConfig(condition=parts), data=DataConfig(**{change: True}))
        if change in refused:
            with pytest.raises(UserError, match=f"--{change}: the (caption|class) "):
                fit_to_source(config, Named())
        else:
            fit_to_source(config, Named())


def test_the_digits_may_be_reversed():
    config = RunConfig(model=ModelConfig(condition=("class", "text")), data=DataConfig(reverse=True))
    fit_to_source(config, DigitsSource())
