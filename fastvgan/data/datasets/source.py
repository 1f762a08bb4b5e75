"""A torch Dataset of clips as a `fastvgan.data.source.Source`."""

import hashlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset
from tqdm import tqdm

from fastvgan.data.datasets.items import ClipShape, find_shape, name_of, split_item, to_clip
from fastvgan.data.datasets.reading import (
    AnyDataset,
    Listed,
    MappedBatches,
    StreamedBatches,
    read_item,
    read_stream,
    spread,
)
from fastvgan.data.fingerprint import compute_fingerprint
from fastvgan.data.loading import load_batches
from fastvgan.data.sampling import sample_numbers
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.files.pictures import to_bytes

_PROBED = 16  # items that are read at the start if the dataset need not be read as a whole


class DatasetSource:
    """The clips of a torch Dataset; see `fastvgan.data.source.Source`.

    The items are clips (T, H, W, C), (C, T, H, W) or (T, C, H, W), tensors or arrays of uint8 or floats in [0, 1];
    dicts of such a "video" and optionally a "caption" (a string) and a "label" (a whole number or a name); or tuples of
    them in this order. They have the size that the model takes: the dataset cuts and resizes.

    A map-style dataset is shuffled in every epoch. An IterableDataset is read in its own order, again from its
    beginning when it ends; a resumed run reads and skips the items before its batch. While an item is read, the global
    generators of Python, NumPy and torch are seeded by the seed of the run and the number of the sample, so that random
    changes to it, such as torchvision's, are the same in a resumed run and with any number of worker processes.

    At construction some items are read and checked, and all of them if the condition has captions or classes that are
    not given.

    Args:
        dataset: The dataset.
        shape: The size of the clips.
        condition: What the model needs of each item: "text" a caption, "class" a label.
        captions: The distinct captions, if they are known; else the dataset is read once to find them.
        classes: The names of the classes, in the order of their indices, if they are known; else it is read once.
        size: Number of clips per epoch; needed for an IterableDataset without a length.
        workers: Worker processes that read items; 0 reads them in this process. At most 1 reads an IterableDataset.

    Raises:
        UserError: The dataset is empty or has no length, or an item lacks what is needed or has another size or form.

    Example:
        ```python
        clips = [{"video": torch.rand(16, 32, 32, 3), "caption": "noise"} for _ in range(100)]
        source = DatasetSource(clips, ClipShape(16, 32, 32, 3), condition=("text",))
        fastvgan.Trainer("clips", source, height=32, width=32).train()
        ```
    """

    draws = 0
    shuffles = False

    def __init__(
        self,
        dataset: AnyDataset,
        shape: ClipShape,
        condition: Sequence[str] = (),
        *,
        captions: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        workers: int = 0,
    ):
        self._dataset, self._is_stream = dataset, isinstance(dataset, IterableDataset)
        self.size = _count(dataset, size)
        self.remarks: Sequence[str] = ()
        if self._is_stream and workers > 1:
            self.remarks = (f"workers {workers}: one process reads an IterableDataset, so that its order is fixed",)
            workers = 1
        self._workers = workers
        where = f"{workers} worker process{'es' * (workers > 1)}" if workers else "this process"
        self.decoder = f"torch Dataset {type(dataset).__name__}, read in {where}"
        needs = _Needs("text" in condition, "class" in condition)
        is_known = (captions is not None or not needs.caption) and (classes is not None or not needs.label)
        facts = self._survey(_Survey(shape, needs), _PROBED if is_known else self.size)
        self.captions: Sequence[str] = ()
        if needs.caption:
            self.captions = list(captions or dict.fromkeys(fact.caption or "" for fact in facts))
        self.classes, indices = _name_classes([fact.label for fact in facts], classes) if needs.label else ((), {})
        self.fingerprint = compute_fingerprint([self.size, shape, *facts], self.size, self.captions, self.classes)
        self._convert = _Conversion(shape, {text: i for i, text in enumerate(self.captions)}, indices)
        for fact in facts:
            self._convert.find(fact.caption, fact.label, fact.number)

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Yield batches; see `fastvgan.data.source.Source.batches`.

        Raises:
            UserError: An item has another size or form, or an unknown caption or class.
        """
        numbers = partial(sample_numbers, batch_size, start, rank, world_size)
        if isinstance(self._dataset, IterableDataset):
            stream = StreamedBatches(self._dataset, numbers, seed, self._convert, _collate)
            loader = load_batches(stream, self._workers)
        else:
            mapped = MappedBatches(self._dataset, self.size, seed, self._convert, _collate)
            loader = load_batches(mapped, self._workers, numbers())
        yield from _raise_errors(loader)

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Raise a ValueError for words (N, 0), since `draws` is 0; see `fastvgan.data.source.Source.draw`."""
        raise ValueError("a dataset's clips cannot be drawn by random words; use batches")

    def _survey(self, survey: "_Survey", most: int) -> "list[_Fact]":
        """Read at most `most` items, and return facts about each."""
        count = min(most, self.size)
        if isinstance(self._dataset, IterableDataset):
            with closing(read_stream(self._dataset, 0)) as stream:
                return [survey(item, number) for number, item in _show(itertools.islice(stream, count), count)]
        numbers = (range(i, i + 1) for i in spread(self.size, count))
        workers = self._workers if count > _PROBED else 0
        facts = list(_show(_raise_errors(load_batches(Listed(self._dataset, survey), workers, numbers)), count))
        first = facts[0]
        if survey(read_item(self._dataset, first.number, first.number), first.number) == first:
            return facts
        self.remarks = (
            *self.remarks,
            "the dataset's items differ whenever they are read, though Python's, NumPy's and torch's generators are "
            "seeded; a resumed run trains on other clips",
        )
        return [fact._replace(checksum="") for fact in facts]


class Examined(NamedTuple):
    """The size and number of a set's clips, and the condition that the first one has."""

    shape: ClipShape
    condition: tuple[str, ...]
    size: int


def examine(dataset: AnyDataset) -> Examined:
    """Read the first item of a dataset.

    Raises:
        UserError: The dataset is empty or has no length, or the item is of a form that `DatasetSource` does not take.
    """
    size = _count(dataset, None)
    if isinstance(dataset, IterableDataset):
        with closing(read_stream(dataset, 0)) as stream:
            _, item = next(stream)
    else:
        item = read_item(dataset, 0, 0)
    _, caption, label = split_item(item, name_of(0))
    condition = ("text",) if caption is not None else ("class",) if label is not None else ()
    return Examined(find_shape(item), condition, size)


def examine_source(source: Source) -> Examined:
    """Draw the first clip of a source."""
    with closing(source.batches(1, 0)) as batches:
        shape = ClipShape(*next(batches).video.shape[1:])
    condition = ("text",) if source.captions else ("class",) if source.classes else ()
    return Examined(shape, condition, source.size)


class _Needs(NamedTuple):
    caption: bool
    label: bool


class _Fact(NamedTuple):
    """Facts about an item: its number, the checksum of its clip, and its caption and label if they are needed."""

    number: int
    checksum: str
    caption: str | None
    label: int | str | None


class _Survey:
    """Converts an item to facts about it."""

    def __init__(self, shape: ClipShape, needs: _Needs):
        self._shape, self._needs = shape, needs

    def __call__(self, item: Any, number: int) -> _Fact:
        name = name_of(number)
        video, caption, label = split_item(item, name)
        clip = to_clip(video, self._shape, name)
        if self._needs.caption and caption is None:
            raise UserError(f"{name} has no caption, but the model is conditioned on text; {_remedy('caption')}")
        if self._needs.label and label is None:
            raise UserError(f"{name} has no label, but the model is conditioned on the class; {_remedy('label')}")
        checksum = hashlib.sha256(to_bytes(clip)).hexdigest()
        return _Fact(number, checksum, caption if self._needs.caption else None, label if self._needs.label else None)


class _Conversion:
    """Converts an item to its clip, uint8 (T, H, W, C), and the indices of its caption and class."""

    def __init__(self, shape: ClipShape, captions: dict[str, int], classes: dict[int | str, int]):
        self._shape, self._captions, self._classes = shape, captions, classes

    def __call__(self, item: Any, number: int) -> tuple[torch.Tensor, int | None, int | None]:
        video, caption, label = split_item(item, name_of(number))
        return to_clip(video, self._shape, name_of(number)), *self.find(caption, label, number)

    def find(self, caption: str | None, label: int | str | None, number: int) -> tuple[int | None, int | None]:
        """Return the indices of a caption and a class; None for those that the model does not need."""
        for what, value, known in (("caption", caption, self._captions), ("label", label, self._classes)):
            if known and value not in known:
                count = len(set(known.values()))  # a class is known by its name and its index
                raise UserError(f"{name_of(number)} has the {what} {value!r}, which is none of the {count} known ones")
        return (
            self._captions[caption] if self._captions and caption is not None else None,
            self._classes[label] if self._classes and label is not None else None,
        )


def _remedy(key: str) -> str:
    return f"return dicts with a {key!r}, or train with condition='none'"


def _collate(items: list[tuple[torch.Tensor, int | None, int | None]]) -> Clips:
    videos, *parts = zip(*items, strict=True)
    return Clips(torch.stack(videos), *(None if part[0] is None else torch.tensor(part) for part in parts))


def _name_classes(
    labels: Sequence[int | str | None], names: Sequence[str] | None
) -> tuple[Sequence[str], dict[int | str, int]]:
    """Return the names of the classes, and the index of each label."""
    if names is not None:
        return list(names), {**{name: i for i, name in enumerate(names)}, **{i: i for i in range(len(names))}}
    found = sorted({label for label in labels if label is not None}, key=lambda label: (isinstance(label, str), label))
    names_found = [str(label) for label in found]
    if len(set(names_found)) < len(names_found):
        twice = next(name for name in names_found if names_found.count(name) > 1)
        raise UserError(f"the dataset has the labels {twice} and {twice!r}, which are one name; use one of them")
    return names_found, {label: i for i, label in enumerate(found)}


def _count(dataset: AnyDataset, size: int | None) -> int:
    """Return the number of clips per epoch."""
    if size is None:
        try:
            size = len(dataset)  # pyrefly: ignore[bad-argument-type]  an IterableDataset may have a length
        except TypeError:
            raise UserError(
                f"the dataset {type(dataset).__name__} has no length; define __len__, or pass "
                "fastvgan.data.DatasetSource(dataset, …, size=CLIPS_PER_EPOCH)"
            ) from None
    if size < 1:
        raise UserError(f"the dataset {type(dataset).__name__} has {size} items; it needs at least one")
    return size


def _raise_errors(loaded: Any) -> Generator[Any, None, None]:
    for made in loaded:
        if isinstance(made, UserError):
            raise made
        yield made


def _show(items: Iterator[Any], count: int) -> Iterator[Any]:
    """Show a progress bar while many items are read."""
    return iter(tqdm(items, "reading the dataset", count, unit="clip", disable=count <= _PROBED))
