"""Caption match on words with known errors, and words read from real clips."""

import pytest
import torch

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource
from fastvgan.errors import UserError
from fastvgan.metrics.caption_match import CHANCE, match, match_shuffled, read_words
from fastvgan.metrics.oracle import load_oracle
from fastvgan.metrics.prompts import digit_words


def test_each_word_counts_and_joint_takes_all_of_them():
    shown = {"digit": torch.tensor([1, 2, 3, 4]), "colour": torch.tensor([0, 0, 1, 1]), "motion": torch.zeros(4)}
    asked = {"digit": torch.tensor([1, 2, 3, 5]), "colour": torch.tensor([0, 1, 1, 0])}
    assert match(shown, asked) == {"digit": 0.75, "colour": 0.5, "joint": 0.5}
    assert match(shown, {"digit": shown["digit"]}) == {"digit": 1, "joint": 1}
    assert match(shown, {}) == {}


def test_shuffled_captions_are_right_by_chance_however_right_the_clips_are():
    words = {
        "digit": torch.arange(960) % 10,
        "colour": torch.arange(960) // 10 % 6,
        "motion": torch.arange(960) // 60 % 4,
    }
    found = match_shuffled(words, words, seed=0)
    for name, chance in {**CHANCE, "joint": 1 / 240}.items():
        assert found[name] == pytest.approx(chance, abs=0.015)
    assert found == match_shuffled(words, words, seed=0) != match_shuffled(words, words, seed=1)


def test_words_of_captions_are_those_that_stand_in_them():
    source = DigitsSource()
    words = digit_words(source.captions, channels=3)
    for i in range(0, 240, 7):
        digit, colour, motion = (words[name][i].item() for name in ("digit", "colour", "motion"))
        assert source.captions[i] == f"a {list(COLOURS)[colour]} {digit} moving {MOTIONS[motion]}"
    assert set(digit_words(DigitsSource(channels=1).captions, channels=1)) == {"digit", "motion"}
    with pytest.raises(UserError, match="'a red cat' is not a caption of the digits"):
        digit_words(["a red cat"], channels=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_words_read_off_real_clips_are_those_of_their_captions(channels):
    source = DigitsSource(split="test", channels=channels)
    clips = next(source.batches(200, seed=4))
    shown = read_words(clips.video, load_oracle().read(clips.video))
    asked = {name: words[clips.caption] for name, words in digit_words(source.captions, channels).items()}
    assert shown.keys() == asked.keys() and min(match(shown, asked).values()) >= 0.97
    still = clips.video[:, :1].expand(-1, 16, -1, -1, -1)
    assert (read_words(still, load_oracle().read(still))["motion"] == -1).all()
