"""Calls of a generator: lists, seeds, pictures, batches, devices and dtypes."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_generators import make_generator

from fastvgan.errors import UserError
from fastvgan.generation.generator import VideoGenerator
from fastvgan.machine import memory

EVERY = {"family": "recurrent", "condition": ("text", "class", "image"), "frames": 4, "warm_up": 1, "clock": True}


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.fixture(scope="module")
def with_every_condition():
    return make_generator(**EVERY)


def test_each_sentence_has_its_seed(generator):
    videos = generator(["a red", "a green"], seed=[5, 6], batch_size=1)
    assert videos.shape == (2, 16, 16, 16, 3) and videos.captions == ["a red", "a green"]
    assert torch.equal(videos.frames[:1], generator.generate(text="a red", seed=5))
    assert torch.equal(videos.frames[1:], generator.generate(text="a green", seed=6))


def test_single_values_are_for_all_clips(generator):
    alone = [generator(text, seed=seed).frames for text in ("a red", "a green") for seed in (0, 1)]
    assert torch.equal(generator("a red", seed=range(2), batch_size=1).frames, torch.cat(alone[:2]))
    both = generator(["a red", "a green"], seed=1, batch_size=1).frames
    assert torch.equal(both, torch.cat([alone[1], alone[3]]))
    assert torch.equal(generator(["a red"], seed=(0, 1), batch_size=1).frames, torch.cat(alone[:2]))
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[0], alone[2])


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_clips_of_a_batch_differ_from_single_ones_by_rounding_at_most(with_every_condition, batch_size):
    arguments = {"text": "a red", "label": ["cat", "dog"] * 4, "image": np.zeros((9, 9), np.uint8), "seed": range(8)}
    single = with_every_condition(**arguments, batch_size=1).frames
    batch = with_every_condition(**arguments, batch_size=batch_size).frames
    difference = (single.int() - batch.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_pictures_of_each_kind_and_lists_of_them(with_every_condition):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    floats = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255)
    forms = [
        list(pixels),
        [Image.fromarray(one) for one in pixels],
        list(floats),
        [pixels[0], Image.fromarray(pixels[1]), floats[2]],
        pixels,
        floats,
        torch.from_numpy(pixels),
    ]
    expected = torch.cat(
        [with_every_condition.generate(text="red", label=1, seed=i, image=one) for i, one in enumerate(pixels)]
    )
    for form in forms:
        videos = with_every_condition("red", seed=range(3), image=form, label="dog", batch_size=1)
        assert torch.equal(videos.frames, expected)
    assert not torch.equal(expected, with_every_condition("red", range(3), image=pixels[0], label=1).frames)


def test_lists_of_classes_and_other_lengths(with_every_condition):
    image = np.zeros((4, 4), np.uint8)
    videos = with_every_condition("red", label=["cat", np.int64(1)], image=image, frames=7, batch_size=1)
    assert videos.shape == (2, 7, 16, 16, 3) and videos.captions == ["red", "red"]
    for frames, label in zip(videos.frames, ("cat", "dog"), strict=True):
        alone = with_every_condition.generate(text="red", label=label, image=image, frames=7)[0]
        assert torch.equal(frames, alone)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_seeds_may_be_an_array(generator, make):
    expected = generator("a red", seed=[5, 6])
    assert torch.equal(generator("a red", seed=make([5, 6])).frames, expected.frames)
    assert torch.equal(generator("a red", seed=make(6)).frames, generator("a red", seed=6).frames)


@pytest.mark.parametrize("make", [np.array, torch.tensor, list, tuple])
def test_labels_may_be_an_array(make):
    generator = make_generator(condition=("class",))
    expected = [generator.generate(label=number, seed=3) for number in (1, 0)]
    assert torch.equal(generator(label=make([1, 0]), seed=3, batch_size=1).frames, torch.cat(expected))
    if make in (np.array, torch.tensor):
        assert torch.equal(generator(label=make(1), seed=3).frames, expected[0])
        with pytest.raises(UserError, match="unknown class"):
            generator(label=make([0.5]), seed=3)
        with pytest.raises(UserError, match="unknown class"):
            generator(label=make([[0, 1]]), seed=3)


def test_a_seed_may_be_any_integer(generator):
    clips = generator("red", seed=[-1, 2**64 - 1, 10**30, np.int64(3)], batch_size=1).frames
    assert torch.equal(clips[0], clips[1])  # seeds are taken modulo 2**64
    assert torch.equal(clips[3:], generator.generate(text="red", seed=3))


def test_without_a_condition():
    generator = make_generator(condition=())
    videos = generator(seed=range(3))
    assert len(videos) == 3 and torch.equal(videos.frames[:1], generator.generate(seed=0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"text": ["a", "red"], "seed": range(3)}, "text has 2 values and seed has 3; pass as many of each"),
        ({"text": ["a", "red"], "seed": range(2), "label": list("abc")}, "text has 2 values and label has 3"),
        ({"text": []}, "text is an empty list"),
        ({"text": "a", "seed": ()}, "seed is an empty list"),
        ({"text": "a", "seed": 0.5}, "seed is a float, 0.5; pass one value or a list"),
        ({"text": "a", "seed": [1, "2"]}, "seed '2' is no whole number"),
        ({"text": ["a", None]}, "text has None, a NoneType; pass sentences"),
        ({"text": 5}, "text is a int, 5; pass"),
        ({"text": ["a", "zebra"]}, "no word of the caption 'zebra'"),
        ({}, "this model follows text: pass text"),
        ({"text": "a", "label": [0]}, "label was given, but this model follows text; leave it out"),
        ({"text": "a", "frames": 8}, "makes clips of 16 frames only, not 8"),
        ({"text": "a", "batch_size": 0}, "batch_size 0: must be at least 1"),
        ({"text": "a", "batch_size": 2.0}, "batch_size 2.0 is no whole number; pass one of at least 1"),
        ({"text": "a", "frames": "16"}, "frames '16' is no whole number; pass one of at least 1"),
        ({"text": "a", "frames": 0}, "frames 0: the length of a clip must be at least 1"),
    ],
)
def test_unusable_arguments(generator, arguments, sentence):
    with pytest.raises(UserError) as raised:
        generator(**arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_unusable_arguments_of_generate(generator):
    with pytest.raises(UserError, match="n 1.5 is no whole number"):
        generator.generate("a", n=1.5)
    with pytest.raises(UserError, match="seed '1' is no whole number"):
        generator.generate("a", seed="1")


def test_too_many_clips_for_the_memory(generator, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    assert len(generator("a", seed=range(8))) == 8
    with pytest.raises(UserError, match="100 clips of 16 frames needs at least 1 MiB of memory"):
        generator("a", seed=range(100))


@pytest.mark.parametrize(("dtype", "mean"), [(torch.float16, 0.15), (torch.bfloat16, 1)])
@pytest.mark.parametrize("values", [{}, {**EVERY, "warp": True}, {"text_model": "sequence", "refine": 1}])
def test_half_precision_is_close_to_float32(values, dtype, mean):
    """The mean difference in levels of 255, on the CPU."""
    generator = make_generator(**values)
    arguments = {"text": "a red", "seed": range(4)}
    if "class" in generator.config.condition:
        arguments |= {"label": 1, "image": np.full((16, 16), 99, np.uint8)}
    expected = generator(**arguments).frames.int()
    assert generator.to(dtype) is generator and generator.dtype == dtype
    kinds = {one.dtype for one in generator.network.parameters()}
    assert kinds == {dtype, torch.float32}
    difference = (generator(**arguments).frames.int() - expected).abs().float()
    assert 0 < difference.mean() < mean and (difference > 16).float().mean() < 0.02
    assert expected.float().std() > 20
    rounded = generator.float()(**arguments).frames.int()
    assert {one.dtype for one in generator.network.parameters()} == {torch.float32}
    assert (rounded - expected).abs().float().mean() < mean


def test_half_and_bfloat16_and_device(generator):
    other = make_generator()
    assert other.half().dtype == torch.float16 and other.bfloat16().dtype == torch.bfloat16
    assert other.to("cpu", torch.float32).device == torch.device("cpu") and other.dtype == torch.float32
    with pytest.raises(UserError, match="'nonsense' is not a device; pass cpu, cuda"):
        other.to("nonsense")
    with pytest.raises(UserError, match=r"torch\.int8: a generator computes in torch\.float32, torch\.float16"):
        other.to(torch.int8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(generator):
    with pytest.raises(UserError, match="cuda: torch sees no CUDA device; use cpu"):
        generator.to("cuda")


@pytest.mark.parametrize("name", [name for name in ("mps", "xpu") if not getattr(torch, name).is_available()])
def test_a_device_that_this_torch_cannot_use(generator, name):
    with pytest.raises(UserError, match=f"{name}: torch cannot use this device .*; use cpu, or another one"):
        generator.to(name)


def test_a_compiled_generator_makes_the_same_clips():
    generator = make_generator(base_width=1)
    expected = generator("a red", seed=range(2)).frames.int()
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    assert isinstance(generator.compile(backend=backend, fullgraph=True), VideoGenerator)
    assert (generator("a red", seed=range(2)).frames.int() - expected).abs().max() <= 1
    assert len(calls) == 1
