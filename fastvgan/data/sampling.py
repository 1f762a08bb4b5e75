"""What is drawn at random of a set of clips: which one, where it begins, how it is cropped, which of its captions.

Sample `number` of a run is a function of (seed, number) alone, so that every decoder gives the same clips, and a run
taken up again anywhere goes on with the very next one.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Cut:
    """How clips are cut out of longer and larger ones.

    frames, height, width, channels: size of a clip. stride: every how many frames one is taken; with max_stride it is
    drawn from stride to max_stride for each clip, as far as the clip is long enough. crop: "random" or "center".
    mirror: every other clip, by chance, is shown left to right.
    """

    frames: int
    height: int
    width: int
    channels: int = 3
    stride: int = 1
    max_stride: int | None = None
    crop: str = "random"
    mirror: bool = False


class Member(NamedTuple):
    """What sampling needs to know of a clip: its length, and its captions' and class's indices (-1 for no class)."""

    frames: int
    captions: tuple[int, ...]
    label: int


class Draw(NamedTuple):
    """One sample: frames `indices` of clip `clip`, scaled to cover the size asked for and cropped.

    top, left: in [0, 1), the share of what is beyond the crop that is cut off there. caption, label: -1 for none.
    """

    clip: int
    indices: tuple[int, ...]
    top: float
    left: float
    mirror: bool
    caption: int
    label: int

    def offsets(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Row and column at which the crop begins, in frames scaled to `size`."""
        return int(self.top * (size[0] - height + 1)), int(self.left * (size[1] - width + 1))


class Sampler:
    """Draws samples of a set of clips; every epoch is a new shuffle that has each clip once."""

    def __init__(self, members: Sequence[Member], cut: Cut):
        self.cut = cut
        self._members = members

    def draw(self, seed: int, number: int) -> Draw:
        """Sample `number` of a run."""
        return next(self.candidates(seed, number))

    def candidates(self, seed: int, number: int) -> Iterator[Draw]:
        """Sample `number`, then those that take its place, one after the other, where its clip cannot be read."""
        size = len(self._members)
        epoch, place = divmod(number, size)
        order = _shuffle(size, seed, epoch)
        for offset in range(size):
            rng = np.random.default_rng([seed, number])
            yield self._draw(int(order[(place + offset) % size]), rng)

    def _draw(self, clip: int, rng: np.random.Generator) -> Draw:
        member, cut = self._members[clip], self.cut
        stride = cut.stride
        if cut.max_stride is not None:
            longest = (member.frames - 1) // max(1, cut.frames - 1)
            stride = int(rng.integers(cut.stride, max(cut.stride, min(cut.max_stride, longest)) + 1))
        start = int(rng.integers(max(1, member.frames - (cut.frames - 1) * stride)))
        indices = tuple(min(start + i * stride, member.frames - 1) for i in range(cut.frames))
        top, left = rng.random(2) if cut.crop == "random" else (0.5, 0.5)
        mirror = bool(cut.mirror and rng.random() < 0.5)
        caption = member.captions[rng.integers(len(member.captions))] if member.captions else -1
        return Draw(clip, indices, float(top), float(left), mirror, caption, member.label)


def sample_numbers(batch_size: int, start: int, rank: int, world_size: int) -> Iterator[range]:
    """The numbers of the samples of batches start, start + 1, …: those of all ranks of a batch follow each other."""
    for batch in itertools.count(start):
        first = (batch * world_size + rank) * batch_size
        yield range(first, first + batch_size)


@functools.lru_cache(2)
def _shuffle(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 1]).permutation(size)
