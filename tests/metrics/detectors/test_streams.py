"""Streams of clips: which clips, conditions and noise they hold, in batches of any size."""

import pytest
import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.digits.stacked import StackedDigitsSource
from fastvgan.errors import UserError
from fastvgan.metrics.detectors.streams import Streams
from fastvgan.metrics.prompts import check_count
from fastvgan.models import ModelConfig
from fastvgan.models.vocabulary import Vocabulary

SOURCE = DigitsSource(frames=4, height=8, width=8)


def streams(condition, batch, clips=10, seed=5):
    vocabulary = Vocabulary.of(SOURCE.captions)
    known = {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length}
    model = ModelConfig(base_width=2, latent=4, condition=condition, class_names=SOURCE.classes, **known)
    return Streams(model, SOURCE, clips, seed, batch)


def generate(condition, batch):
    """The noise and conditions that a generator is called with, concatenated, and the sizes of the calls."""
    calls = []

    def record(z, given):
        calls.append((z, given))
        return torch.zeros(len(z), 1, 1, 1, 3, dtype=torch.uint8)

    for _ in streams(condition, batch).generate(record, lambda numbers, seed: 100 * seed + numbers):
        pass
    noise, given = zip(*calls, strict=True)
    parts = [None if part[0] is None else torch.cat(part) for part in zip(*given, strict=True)] if condition else given
    return torch.cat(noise), parts, [len(z) for z in noise]


@pytest.mark.parametrize("batch", [1, 3, 5, 10, 64])
def test_real_clips_are_the_first_of_the_seed(batch):
    drawn = list(streams((), batch).draw_real())
    assert torch.equal(torch.cat(drawn), next(SOURCE.batches(10, 5)).video)
    assert {len(part) for part in drawn} == streams((), batch).batch_sizes()


@pytest.mark.parametrize("batch", [1, 3, 5, 10, 64])
def test_conditions_are_those_of_other_samples_and_noise_counts_on(batch):
    others = next(SOURCE.batches(10, 6))
    noise, (text, label, image), sizes = generate(("text", "class", "image"), batch)
    assert noise.tolist() == [500 + i for i in range(10)] and set(sizes) == streams((), batch).batch_sizes()
    vocabulary = Vocabulary.of(SOURCE.captions)
    assert torch.equal(text, vocabulary.encode([SOURCE.captions[i] for i in others.caption]))
    assert torch.equal(label, others.label)
    torch.testing.assert_close(image, others.video[:, 0].permute(0, 3, 1, 2).float() / 127.5 - 1)


def test_a_model_without_a_condition_draws_none():
    noise, given, _ = generate((), 4)
    assert noise.tolist() == [500 + i for i in range(10)] and set(given) == {None}


def test_words_that_the_model_does_not_know():
    unknown = streams(("text",), 4)
    unknown = unknown._replace(model=unknown.model.model_copy(update={"vocabulary": ("a", "dog")}))
    with pytest.raises(UserError, match="was not trained on the word"):
        next(unknown.generate(lambda z, c: z, lambda numbers, seed: numbers))


def test_counts():
    class Few:
        size, draws, shuffles = 30, 0, False

    class Resident(Few):
        draws, shuffles = 7, True

    check_count(SOURCE, 10**6, True)
    check_count(StackedDigitsSource(), 10**6)
    check_count(Few(), 30, True)
    with pytest.raises(UserError, match="published scores compare 2,048 clips, but the data has 30; pass --clips 30"):
        check_count(Few(), 2048, True)
    with pytest.raises(UserError, match="--clips 31: the data has only 30 clips"):
        check_count(Few(), 31)
    with pytest.raises(UserError, match="--clips 31: the data has only 30 clips"):
        check_count(Resident(), 31)
