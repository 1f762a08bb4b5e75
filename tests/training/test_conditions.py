"""Right and wrong conditions of a batch."""

import pytest
import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.pixels import to_float, to_uint8
from fastvgan.training.conditions import Conditions, with_data
from fastvgan.training.device import pick_device, pick_precision

CPU = torch.device("cpu")


class Bare:
    """A source without captions and classes."""

    captions = classes = remarks = ()
    size = 3


def test_words_and_classes_come_from_the_data():
    model = with_data(ModelConfig(condition=("text", "class")), DigitsSource())
    assert "purple" in model.vocabulary and model.caption_length == 7 and model.class_names == tuple("0123456789")
    assert with_data(ModelConfig(condition=("image",)), Bare()).vocabulary == ()
    with pytest.raises(UserError, match=r"no captions.*clip\.txt"):
        with_data(ModelConfig(condition=("text",)), Bare())
    with pytest.raises(UserError, match=r"no classes.*folder of its own"):
        with_data(ModelConfig(condition=("class",)), Bare())


@pytest.mark.parametrize("parts", [(), ("text",), ("class",), ("image",), ("class", "image", "text")])
def test_a_wrong_condition_differs_in_one_part_for_every_clip(parts):
    source = DigitsSource()
    model = with_data(ModelConfig(condition=parts), source)
    conditions = Conditions(model, source, CPU)
    clips = next(source.batches(16, 0))
    video = to_float(clips.video, CPU)
    right = conditions.right(clips, video)
    assert conditions.can_be_wrong == bool(parts)
    if not parts:
        assert right is None
        return
    assert torch.equal(to_uint8(video), clips.video)
    assert (right.text is not None, right.label is not None, right.image is not None) == tuple(
        part in parts for part in ("text", "class", "image")
    )
    seen = set()
    for seed in range(20):
        wrong = conditions.wrong(clips, right, torch.Generator().manual_seed(seed))
        changed = [name for name in right._fields if getattr(right, name) is not getattr(wrong, name)]
        assert len(changed) == 1
        before, after = (
            getattr(right, changed[0]).flatten(1 if changed[0] != "label" else 0),
            getattr(wrong, changed[0]),
        )
        assert after.shape == getattr(right, changed[0]).shape
        different = before != after.flatten(1 if changed[0] != "label" else 0)
        assert (different.any(1) if different.dim() > 1 else different).all()
        seen |= set(changed)
    assert len(seen) == len(parts)


def test_one_condition_only_leaves_nothing_wrong_to_draw():
    class One(Bare):
        captions, classes = ("the same for all",), ("x",)

    model = with_data(ModelConfig(condition=("text", "class")), One())
    conditions = Conditions(model, One(), CPU)
    assert not conditions.can_be_wrong
    clips = Clips(
        torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), torch.zeros(2).long()
    )
    assert conditions.right(clips, to_float(clips.video, CPU)).text.shape == (2, 4)


def test_pixels_are_channels_last_without_a_copy_of_layout():
    clips = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    video = to_float(clips, CPU)
    assert video.shape == (2, 3, 4, 16, 16) and video.is_contiguous(memory_format=torch.channels_last_3d)
    assert video.min() >= -1 and video.max() <= 1


def test_device_and_precision(monkeypatch):
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(UserError, match="--device cpu"):
        pick_device("cuda")
    assert pick_precision("fp32", CPU) == torch.float32 and pick_precision("bf16", CPU) == torch.bfloat16
    for flags, expected in [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        assert pick_precision("auto", CPU) == expected
