"""A torch Dataset as a source: its batches against items that are read one by one, and sentences about bad items."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from fastvgan.data import ClipShape, DatasetSource
from fastvgan.data.source import Source
from fastvgan.errors import UserError

SHAPE = ClipShape(4, 16, 32, 3)


def clip(index):
    generator = torch.Generator().manual_seed(index)
    return torch.randint(256, SHAPE, dtype=torch.uint8, generator=generator)


class Random(torch.utils.data.Dataset):
    """Clips that depend on their index, with noise of each of the three global generators."""

    def __init__(self, size=7):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError(index)
        video = clip(index).clone()
        video[0, 0, :4, 0] = torch.tensor(
            [random.randrange(256), np.random.randint(256), torch.randint(256, ()), index]
        )
        return {"video": video, "caption": f"clip {index % 3}", "label": "ab"[index % 2]}


class RandomStream(IterableDataset):
    def __init__(self, size=7):
        self.size = size

    def __iter__(self):
        return iter(Random(self.size))


def take(source, count, *arguments):
    batches = source.batches(*arguments)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def assert_same(batches, others):
    for a, b in zip(batches, others, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x is None and y is None or torch.equal(x, y)


@pytest.mark.parametrize("kind", [Random, RandomStream])
def test_batches_are_a_function_of_seed_and_number(kind):
    source = DatasetSource(kind(), SHAPE, ("text", "class"), size=7)
    assert isinstance(source, Source)
    assert source.captions == ["clip 0", "clip 1", "clip 2"] and source.classes == ["a", "b"] and source.size == 7
    state = random.getstate(), torch.get_rng_state()
    straight = take(source, 7, 4, 5)
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    assert_same(straight[4:], take(source, 3, 4, 5, 4))
    # 28 samples are four epochs, each of which shows each clip once.
    index = torch.cat([batch.video[:, 0, 0, 3, 0] for batch in straight]).view(4, 7)
    assert torch.equal(index.sort(dim=1).values, torch.arange(7).expand(4, 7))
    shuffled = not torch.equal(index[0], torch.arange(7)) and not torch.equal(index[0], index[1])
    assert shuffled == (kind is Random)
    for batch in straight:
        numbers = batch.video[:, 0, 0, 3, 0].tolist()
        expected = torch.stack([clip(i) for i in numbers])
        assert torch.equal(batch.video[:, 1:], expected[:, 1:])
        assert batch.caption.tolist() == [i % 3 for i in numbers] and batch.label.tolist() == [i % 2 for i in numbers]
    noise = torch.cat([batch.video[:, 0, 0, :3, 0] for batch in straight])
    assert all(len(column.unique()) > 14 for column in noise.unbind(1))  # of 28 draws of each generator
    other = take(source, 7, 4, 6)
    assert not torch.equal(other[0].video[:, 0, 0, 0, 0], straight[0].video[:, 0, 0, 0, 0])
    # Two processes draw the halves of what one draws.
    parts = [take(source, 2, 2, 5, 1, rank, 2) for rank in range(2)]
    assert_same(straight[1:3], [type(a)(*map(torch.cat, zip(a, b, strict=True))) for a, b in zip(*parts, strict=True)])


@pytest.mark.parametrize("kind", [Random, RandomStream])
def test_worker_processes_change_nothing(kind):
    expected = take(DatasetSource(kind(), SHAPE, ("text",), size=7), 3, 4, 5, 1)
    source = DatasetSource(kind(), SHAPE, ("text",), size=7, workers=2)
    assert ("2 worker processes" in source.decoder) == (kind is Random) == (not source.remarks)
    assert_same(expected, take(source, 3, 4, 5, 1))


def test_layouts_and_dtypes_are_read():
    expected = clip(3)
    exact = expected.double() / 255
    layouts = [expected, expected.permute(3, 0, 1, 2), expected.permute(0, 3, 1, 2), expected.numpy(), exact]
    layouts += [exact.float().numpy(), exact.half(), (expected,), [expected, None], (expected, torch.rand(2, 100))]
    source = DatasetSource(layouts, SHAPE)
    for batch in take(source, 10, 1, 0):
        assert torch.equal(batch.video[0], expected) and batch.caption is None and batch.label is None
    words = [
        (expected, "red", np.int64(4)),
        (expected, torch.tensor(2), "blue"),
        (expected, torch.rand(1, 9), 4, "red"),
        {"video": expected, "text": torch.zeros(3), "caption": "red", "label": 4},
    ]
    source = DatasetSource(words, SHAPE, ("text", "class"))
    assert source.captions == ["red", "blue"] and source.classes == ["2", "4"]
    rows = {(batch.caption.item(), batch.label.item()) for batch in take(source, 4, 1, 0)}
    assert rows == {(0, 1), (1, 0)}


def test_the_fingerprint_says_whether_the_data_is_the_same():
    first = DatasetSource(Random(), SHAPE, ("text",))
    assert first.fingerprint == DatasetSource(Random(), SHAPE, ("text",)).fingerprint and not first.remarks
    assert str(first.fingerprint) == "7 clips with 3 captions"
    assert first.fingerprint != DatasetSource(Random(6), SHAPE, ("text",)).fingerprint
    items = [clip(i) for i in range(7)]
    changed = [*items[:6], clip(9)]
    assert DatasetSource(items, SHAPE).fingerprint != DatasetSource(changed, SHAPE).fingerprint
    generator = torch.Generator()
    generator.seed()

    class Unseeded(Random):
        def __getitem__(self, index):
            return torch.rand(SHAPE, generator=generator)

    free = DatasetSource(Unseeded(), SHAPE)
    assert "items differ whenever they are read" in free.remarks[0]
    assert free.fingerprint == DatasetSource(Unseeded(), SHAPE).fingerprint


def test_known_captions_and_classes_spare_reading_the_dataset():
    read = []

    class Counted(Random):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    captions, classes = ["clip 2", "clip 1", "clip 0"], ["b", "a"]
    source = DatasetSource(Counted(1000), SHAPE, ("text", "class"), captions=captions, classes=classes)
    assert len(read) < 20 and source.captions == captions and source.classes == classes
    (batch,) = take(source, 1, 8, 0)
    index = [i for i in read[-8:]]
    assert batch.caption.tolist() == [2 - i % 3 for i in index] and batch.label.tolist() == [1 - i % 2 for i in index]
    with pytest.raises(UserError, match="item 0 of the dataset has the caption 'clip 0', which is none of the 1 known"):
        DatasetSource(Random(), SHAPE, ("text",), captions=["clip 1"])
    with pytest.raises(UserError, match="item 1 of the dataset has the label 'b', which is none of the 1 known"):
        DatasetSource(Random(), SHAPE, ("text", "class"), classes=["a"])
    assert source.draws == 0
    with pytest.raises(ValueError, match="use batches"):
        source.draw(torch.zeros(1, 0, dtype=torch.int64))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield clip(0)


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


GOOD = clip(0)


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        (
            [GOOD, GOOD[:3]],
            r"item 1 of the dataset has the shape \(3, 16, 32, 3\), but the model takes 4 frames of 16x32x3",
        ),
        ([GOOD, GOOD[0]], r"item 1 .* shape \(16, 32, 3\); return clips of \(T, H, W, C\), \(C, T, H, W\) or"),
        ([GOOD, GOOD.int()], "item 1 of the dataset is of int32; return uint8, or floats from 0 to 1"),
        ([GOOD, GOOD.float()], "item 1 of the dataset has values from 0 to 255; return floats from 0 to 1, or uint8"),
        ([GOOD, GOOD.float() * torch.nan], "item 1 of the dataset has values from nan to nan"),
        ([{"clip": GOOD}], "item 0 of the dataset is a dict with 'clip', but without 'video'"),
        (["a.mp4"], "item 0 of the dataset holds a value of the type str instead of a clip"),
        ([(GOOD, "a", "b")], "item 0 of the dataset has more than one caption or class"),
        *[
            ([(GOOD, part)], f"item 0 of the dataset holds a value of the type {kind}, neither a caption nor a class")
            for part, kind in ((["a"], "list"), (3.0, "float"), (True, "bool"), (GOOD.new_ones(1), "Tensor"))
        ],
        ([(GOOD, np.ones(1, int))], "item 0 .* type ndarray, neither"),
        ([{"video": GOOD, "text": "a"}], "item 0 .* has the key 'text', which is not read; name it 'caption', or"),
        ([{"video": GOOD, "caption": "a", "class": 1}], "the key 'class', which is not read; name it 'label', or"),
        ([{"video": GOOD, "caption": b"a"}], "the caption of item 0 .* type bytes, not a string"),
        ([{"video": GOOD, "label": 0.5}], "the label of item 0 .* type float, not a whole number"),
        ([], "the dataset list has 0 items"),
        (Endless(), "the dataset Endless has no length; define __len__, or pass .*size="),
    ],
)
def test_bad_items_are_refused(items, sentence):
    with pytest.raises(UserError, match=sentence):
        DatasetSource(items, SHAPE)


def test_missing_conditions_and_empty_streams_are_refused():
    with pytest.raises(UserError, match="item 1 of the dataset has no caption, but .* return dicts with a 'caption'"):
        DatasetSource([(GOOD, "a"), (GOOD, 1)], SHAPE, ("text",))
    with pytest.raises(UserError, match="item 0 of the dataset has no label"):
        DatasetSource([(GOOD, "a"), (GOOD, 1)], SHAPE, ("class",))
    with pytest.raises(UserError, match="the dataset has the labels 1 and '1', which are one name; use one of them"):
        DatasetSource([{"video": GOOD, "label": label} for label in (1, "1", 0)], SHAPE, ("class",))
    with pytest.raises(UserError, match="an iteration over the dataset yields no item"):
        DatasetSource(Empty(), SHAPE, size=3)
    assert torch.equal(take(DatasetSource(Endless(), SHAPE, size=3), 2, 2, 0)[1].video[1], GOOD)


class LateError(Random):
    def __getitem__(self, index):
        return clip(index)[: 3 if torch.initial_seed() > 100 else 4]  # bad once training begins


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_turns_bad_is_named_in_one_sentence(workers):
    source = DatasetSource(LateError(), SHAPE, workers=workers)
    with pytest.raises(UserError, match=r"^item \d of the dataset has the shape \(3, 16, 32, 3\), but") as raised:
        take(source, 1, 4, 5)
    assert "\n" not in str(raised.value)
