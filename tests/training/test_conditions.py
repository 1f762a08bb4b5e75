"""Right and wrong conditions of a batch."""

import pytest
import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_float, to_uint8
from fastvgan.machine.device import pick_device, pick_precision, time_algorithms, use_precision
from fastvgan.models.config import ModelConfig
from fastvgan.models.noise import NoiseDriven
from fastvgan.training.batches import BatchMaker, with_wrong_images
from fastvgan.training.conditions import Conditions, add_vocabulary, condition_from, swap_neighbours

CPU = torch.device("cpu")


class Bare:
    """A source without captions and classes."""

    captions = classes = remarks = ()
    size, draws, shuffles = 3, 0, False


class Three(NoiseDriven):
    """A generator whose noise is three numbers."""

    def noise_size(self, frames=None):
        return 3

    def arrange(self, numbers, frames=None):
        return numbers


def test_words_and_classes_come_from_the_data():
    model = add_vocabulary(ModelConfig(condition=("text", "class")), DigitsSource())
    assert "purple" in model.vocabulary and model.caption_length == 7 and model.class_names == tuple("0123456789")
    assert add_vocabulary(ModelConfig(condition=("image",)), Bare()).vocabulary == ()
    with pytest.raises(UserError, match=r"no captions.*clip\.txt"):
        add_vocabulary(ModelConfig(condition=("text",)), Bare())
    with pytest.raises(UserError, match=r"no classes.*separate folder"):
        add_vocabulary(ModelConfig(condition=("class",)), Bare())


@pytest.mark.parametrize("parts", [(), ("text",), ("class",), ("image",), ("class", "image", "text")])
def test_a_wrong_condition_differs_in_one_part_for_every_clip(parts):
    source = DigitsSource()
    model = add_vocabulary(ModelConfig(condition=parts), source)
    conditions = Conditions(model, source)
    clips = next(source.batches(16, 0))
    maker = BatchMaker(conditions, Three(), source, 0, 3, range(16), 16)
    assert conditions.can_be_wrong == parts
    seen = set()
    for number in range(20 if parts else 1):
        part = maker.draw_wrong_part(number)
        inputs = maker.make(torch.tensor(number), torch.tensor(part), clips)
        inputs = with_wrong_images(inputs) if maker.has_wrong_image(part) else inputs
        real, z, right, wrong = inputs[:4]
        assert torch.equal(to_uint8(real), clips.video) and z.shape == (16, 3)
        if not parts:
            assert right is None and wrong is None
            return
        given = {"text": right.text, "class": right.label, "image": right.image}
        assert {part for part, value in given.items() if value is not None} == set(parts)
        several = right._replace(
            text=right.text if right.text is None else torch.stack([right.text] * 3, 1),
            label=right.label if right.label is None else torch.stack([right.label] * 3, 1),
        )
        pairs = {name: (getattr(several, name), getattr(wrong, name)) for name in right._fields}
        changed = [name for name, (a, b) in pairs.items() if a is not None and not torch.equal(a, b)]
        assert len(changed) == 1 and inputs.is_image_wrong == (changed == ["image"])
        before, after = pairs[changed[0]]
        different = before != after
        assert before.shape == after.shape
        assert (different.any(-1) if changed == ["text"] else different.flatten(1).any(1)).all()
        assert changed == ["image"] or (after[:, 0] != after[:, 1]).any()
        seen |= set(changed)
    assert len(seen) == len(parts)


@pytest.mark.parametrize("parts", [("image", "text"), ("class", "image"), ("class", "image", "text")])
def test_g_s_conditions_are_wrong_in_text_or_class_in_every_step(parts):
    """Also where D is shown wrong first frames: copies of the right condition would teach G nothing."""
    source = DigitsSource()
    conditions = Conditions(add_vocabulary(ModelConfig(condition=parts), source), source)
    maker = BatchMaker(conditions, Three(), source, 0, 3, range(16), 16)
    seen = set()
    for number in range(20):
        part = maker.draw_wrong_part(number)
        inputs = maker.make(torch.tensor(number), torch.tensor(part))
        c, wrong = inputs.c, inputs.wrong
        given = {"text": (c.text, wrong.text), "class": (c.label, wrong.label)}
        changed = {
            name
            for name, (right, others) in given.items()
            if right is not None and all((others[i, k] != right[i]).any() for i in range(16) for k in range(3))
        }
        assert len(changed) == 1 and wrong.image is c.image
        assert conditions.can_be_wrong[part] == "image" or changed == {conditions.can_be_wrong[part]}
        seen.add(part)
    assert len(seen) == len(parts)


@pytest.mark.parametrize("parts", [("text",), ("class", "image", "text")])
def test_ranks_together_draw_what_a_single_process_draws(parts):
    source = DigitsSource()
    model = add_vocabulary(ModelConfig(condition=parts), source)
    conditions = Conditions(model, source)

    def batch(number, rank, size, ahead):
        rows = range(rank * 12 // size, (rank + 1) * 12 // size)
        maker = BatchMaker(conditions, Three(), source, 7, 2, rows, 12)
        clips = next(source.batches(12 // size, 7, number, rank, size)) if ahead else None
        inputs = maker.make(torch.tensor(number), torch.tensor(maker.draw_wrong_part(number)), clips)
        return [inputs.real, inputs.z, *inputs.c, *inputs.wrong]

    for number in range(8):
        for ahead in (False, True):
            shares = zip(*(batch(number, rank, 3, ahead) for rank in range(3)), strict=True)
            for value, share in zip(batch(number, 0, 1, False), shares, strict=True):
                assert value is None and set(share) == {None} or torch.equal(value, torch.cat(share))


def test_which_part_is_wrong_is_drawn_for_each_step_and_seed():
    source = DigitsSource()
    conditions = Conditions(add_vocabulary(ModelConfig(condition=("class", "image", "text")), source), source)
    drawn = [
        [maker.draw_wrong_part(number) for number in range(900)]
        for maker in (BatchMaker(conditions, Three(), source, seed, 1, range(2), 2) for seed in (0, 1))
    ]
    assert drawn[0] != drawn[1]
    assert all(abs(part.count(i) - 300) < 60 for part in drawn for i in range(3))


@pytest.mark.parametrize("n", [2, 5, 6])
def test_swapped_frames_are_all_a_neighbour_s(n):
    images = torch.arange(n)[:, None].repeat(1, 3)
    assert swap_neighbours(images)[:, 0].tolist() == {2: [1, 0], 5: [1, 0, 3, 2, 0], 6: [1, 0, 3, 2, 5, 4]}[n]


def test_one_condition_only_leaves_nothing_wrong_to_draw():
    class One(Bare):
        captions, classes = ("the same for all",), ("x",)

    model = add_vocabulary(ModelConfig(condition=("text", "class")), One())
    conditions = Conditions(model, One())
    assert not conditions.can_be_wrong
    clips = Clips(
        torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), torch.zeros(2).long()
    )
    assert condition_from(*conditions.right(clips), to_float(clips.video, CPU), conditions.parts).text.shape == (2, 4)


def test_pixels_are_channels_last_without_a_copy_of_layout():
    clips = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    video = to_float(clips, CPU)
    assert video.shape == (2, 3, 4, 16, 16) and video.is_contiguous(memory_format=torch.channels_last_3d)
    assert video.min() >= -1 and video.max() <= 1


@pytest.fixture
def precisions():
    places = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    before = [place.fp32_precision for place in places]
    yield
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


def test_cudnn_times_its_algorithms_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    time_algorithms(torch.device("cpu"))
    assert not torch.backends.cudnn.benchmark
    time_algorithms(torch.device("cuda", 0))
    assert torch.backends.cudnn.benchmark


def test_device_and_precision(monkeypatch, precisions):
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(UserError, match="--device cpu"):
        pick_device("cuda")
    assert [pick_precision(name, CPU) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert use_precision("bf16") == torch.bfloat16 and use_precision("fp16") == torch.float16
    assert use_precision("tf32") == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert use_precision("fp32") == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "ieee"
    with pytest.raises(UserError, match="tf32 is for NVIDIA GPUs"):
        pick_precision("tf32", CPU)
    for flags, expected in [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({}, "fp32"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        assert pick_precision("auto", CPU) == expected
