"""Reading of a dataset's items by the number of the sample, with the same random numbers in every process and run."""

import importlib
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch.utils.data import Dataset, IterableDataset

from fastvgan.data.sampling import clip_of
from fastvgan.errors import UserError
from fastvgan.machine.optional import is_installed
from fastvgan.random_draws import global_seed, seed_everything

Convert = Callable[[Any, int], Any]
"""Converts an item of the dataset, given with its number."""
Collate = Callable[[list[Any]], Any]
"""Makes a batch of converted items."""


@runtime_checkable
class MapStyle(Protocol):
    """A dataset with items by index: a torch Dataset, or anything else of this form, such as a list."""

    def __getitem__(self, index: int, /) -> Any:
        """Return an item."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...


AnyDataset = MapStyle | IterableDataset[Any]


def is_dataset(data: object) -> TypeGuard[AnyDataset]:
    """Return whether this is an IterableDataset or has items by index and a length, as map-style datasets have."""
    if isinstance(data, IterableDataset):
        return True
    return isinstance(data, MapStyle) and not isinstance(data, str | bytes | Mapping)


@contextmanager
def seed_within(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch's CPU within this context, and restore them after it."""
    # Imported here where it is installed: else the first item that imports it would draw unseeded numbers.
    numpy = importlib.import_module("numpy") if is_installed("numpy") else None
    before = random.getstate(), numpy and numpy.random.get_state(), torch.get_rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        if numpy is not None:
            numpy.random.set_state(before[1])
        torch.set_rng_state(before[2])


def read_item(dataset: MapStyle, index: int, seed: int) -> Any:
    """Read an item of a map-style dataset; its random changes are a function of the seed."""
    with seed_within(seed):
        return dataset[index]


def read_stream(dataset: Iterable[Any], seed: int) -> Generator[tuple[int, Any], None, None]:
    """Yield the items of an iterable dataset with their numbers, endlessly: one iteration follows another.

    The random changes of an item are a function of the seed and its number, also where a resumed run skips others.

    Raises:
        UserError: An iteration yields nothing.
    """
    number = 0
    while True:
        first = number
        with seed_within(global_seed(seed, number)):
            items = iter(dataset)
        while True:
            try:
                with seed_within(global_seed(seed, number)):
                    item = next(items)
            except StopIteration:
                break
            yield number, item
            number += 1
        if number == first:
            raise UserError("an iteration over the dataset yields no item; an epoch needs at least one")


class MappedBatches(Dataset[Any]):
    """Maps a range of sample numbers to a batch, or to the error that a bad item raises.

    Errors are returned, since a DataLoader would put its worker's traceback into their sentence.

    Args:
        dataset: A map-style dataset, shuffled in every epoch.
        size: Number of its items.
        seed: Seed of the run.
        convert: Converts items.
        collate: Makes batches.
    """

    def __init__(self, dataset: MapStyle, size: int, seed: int, convert: Convert, collate: Collate):
        self._dataset, self._size, self._seed = dataset, size, seed
        self._convert, self._collate = convert, collate

    def __getitem__(self, index: range) -> Any:
        try:
            return self._collate([self._make(number) for number in index])
        except UserError as error:
            return error

    def _make(self, number: int) -> Any:
        clip = clip_of(self._size, self._seed, number)
        return self._convert(read_item(self._dataset, clip, global_seed(self._seed, number)), clip)


class StreamedBatches(IterableDataset[Any]):
    """Yields the batches of an iterable dataset for ascending ranges of sample numbers, or the error of a bad item.

    Args:
        dataset: An iterable dataset.
        numbers: The ranges of sample numbers; the samples between them are skipped.
        seed: Seed of the run.
        convert: Converts items.
        collate: Makes batches.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        numbers: Callable[[], Iterator[range]],
        seed: int,
        convert: Convert,
        collate: Collate,
    ):
        self._dataset, self._numbers, self._seed = dataset, numbers, seed
        self._convert, self._collate = convert, collate

    def __iter__(self) -> Iterator[Any]:
        stream = read_stream(self._dataset, self._seed)
        for numbers in self._numbers():
            try:
                yield self._collate(self._take(stream, numbers))
            except UserError as error:
                yield error
                return

    def _take(self, stream: Iterator[tuple[int, Any]], numbers: range) -> list[Any]:
        made: list[Any] = []
        for number, item in stream:
            if number in numbers:
                made.append(self._convert(item, number))
            if number == numbers[-1]:
                break
        return made


class Listed(Dataset[Any]):
    """Maps an index to a converted item, or to the error that it raises, to read a map-style dataset once.

    Args:
        dataset: A map-style dataset.
        convert: Converts items.
    """

    def __init__(self, dataset: MapStyle, convert: Convert):
        self._dataset, self._convert = dataset, convert

    def __getitem__(self, index: range) -> Any:
        (number,) = index
        try:
            return self._convert(read_item(self._dataset, number, number), number)
        except UserError as error:
            return error


def spread(size: int, most: int) -> Sequence[int]:
    """Return at most `most` indices below `size`, at equal distances."""
    return range(size) if size <= most else [i * size // most for i in range(most)]
