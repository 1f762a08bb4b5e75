"""Interpolation of noise and of encoded conditions."""

import math

import numpy as np
import pytest
import torch
from small_generators import make_generator

from fastvgan.errors import UserError
from fastvgan.generation.interpolation import interpolate_noise, interpolate_vectors
from fastvgan.models.conditions import EncodedCondition


def test_noise_moves_on_a_great_circle():
    """In the plane of two unit vectors at 90 degrees, and in high dimensions by rotating one towards the other."""
    x, y = torch.eye(2).unbind()
    shares = torch.tensor([0, 1 / 3, 0.5, 1])
    expected = [[math.cos(math.pi / 2 * s), math.sin(math.pi / 2 * s)] for s in shares.tolist()]
    torch.testing.assert_close(interpolate_noise(x, y, shares), torch.tensor(expected), atol=1e-6, rtol=0)
    a, b = torch.randn(2, 3, 100).unbind()
    b = b * a.norm() / b.norm()
    path = interpolate_noise(a, b, torch.linspace(0, 1, 5)).flatten(1)
    torch.testing.assert_close(path.norm(dim=1), a.norm().expand(5), rtol=1e-5, atol=0)
    steps = torch.nn.functional.cosine_similarity(path[1:], path[:-1])
    torch.testing.assert_close(steps, steps[:1].expand(4), rtol=1e-5, atol=0)


def test_equal_noise_and_none_stay():
    a = torch.randn(7)
    torch.testing.assert_close(interpolate_noise(a, a, torch.tensor([0.3, 1.0])), torch.stack([a, a]))
    assert torch.equal(interpolate_noise(a * 0, a * 0, torch.tensor([0.5])), a[None] * 0)
    assert interpolate_noise(a, -a, torch.tensor([0.25])).isfinite().all()


def test_vectors_move_straight():
    a, b = torch.randn(2, 9)
    expected = torch.stack([a, 0.75 * a + 0.25 * b, b])
    torch.testing.assert_close(interpolate_vectors(a, b, torch.tensor([0, 0.25, 1])), expected)


@pytest.mark.parametrize("values", [{}, {"family": "recurrent", "frames": 4, "clock": True, "warp": True}])
def test_ends_are_the_plain_clips_and_the_middle_is_between(values):
    generator = make_generator(**values)
    videos = generator.interpolate("a red", "a green moving", 5, seed=(3, 4))
    assert len(videos) == 5 and videos.captions == ["a red", "25%", "50%", "75%", "a green moving"]
    assert torch.equal(videos.frames[:1], generator("a red", seed=3).frames)
    assert torch.equal(videos.frames[-1:], generator("a green moving", seed=4).frames)
    network, vocabulary = generator.network, generator.vocabulary
    vectors = network.condition.parts["text"](vocabulary.encode(["a red", "a green moving"]))
    noise = interpolate_noise(network.noise(1, 3)[0], network.noise(1, 4)[0], torch.tensor([0.5]))
    middle = network(noise, EncodedCondition(vectors.mean(0, keepdim=True)))
    expected = ((middle + 1) * 127.5).round().permute(0, 2, 3, 4, 1)
    assert (videos.frames[2:3] - expected).abs().max() <= 1
    assert not torch.equal(videos.frames[1], videos.frames[2])


def test_sentences_seeds_and_classes_alone():
    generator = make_generator(condition=("text", "class", "image"), frames=4)
    image = np.full((16, 16, 3), 90, np.uint8)
    same = {"image": image, "label": 1}
    videos = generator.interpolate("a red", "a green", 3, seed=5, **same)
    assert torch.equal(videos.frames[2:], generator("a green", seed=5, **same).frames)
    videos = generator.interpolate(5, 6, 3, text="a red", **same)
    assert torch.equal(videos.frames[2:], generator("a red", seed=6, **same).frames)
    assert videos.captions == ["a red", "50%", "a red"]
    array = np.array([5, 6])
    assert torch.equal(generator.interpolate(array[0], array[1], 3, text="a red", **same).frames, videos.frames)
    videos = generator.interpolate(text="a red", label=("cat", "dog"), image=image, steps=2)
    assert torch.equal(videos.frames[1:], generator("a red", **same).frames)
    assert torch.equal(videos.frames[:1], generator("a red", image=image, label=0).frames)


def test_without_a_condition():
    generator = make_generator(condition=())
    videos = generator.interpolate(1, 2, 4)
    assert torch.equal(videos.frames[::3], generator(seed=[1, 2], batch_size=1).frames)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"a": "red", "b": 3}, "cannot interpolate between 'red' and 3; pass two sentences, or two seeds"),
        ({"a": "red"}, "cannot interpolate between 'red' and None"),
        ({"a": "red", "b": "green", "steps": 1}, "steps 1: must be at least 2"),
        ({"a": "red", "b": "green", "text": "a"}, "text 'a' was given beside two sentences"),
        ({"a": 1, "b": 2, "seed": 3, "text": "a"}, "seed 3 was given beside two seeds"),
        ({"text": "red"}, "1 clips to interpolate between; pass two sentences, seeds or classes"),
        ({"text": "red", "seed": (1, 2, 3)}, "3 clips to interpolate between"),
        ({"a": "red", "b": "zebra"}, "no word of the caption 'zebra'"),
    ],
)
def test_unusable_arguments(arguments, sentence):
    with pytest.raises(UserError) as raised:
        make_generator().interpolate(**arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
