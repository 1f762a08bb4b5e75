"""What is drawn at random of a set of clips: which one, where it begins, how it is cropped, which of its captions.

Sample `number` of a run is a function of (seed, number) alone, computed in integers, so that every decoder gives the
same clips on every device, and a resumed run goes on with the very next one.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fastvgan.random_draws import Draws, Purpose, below

WORDS = 6  # random ones that a sample takes: stride, mirror, caption, start, top and left, in this order
_HALF = 2**31  # the word in the middle, which crops at the centre
_AHEAD = 2**14  # samples whose clips are shuffled at once, where epochs are shorter


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

    top, left: words in [0, 2**32), which say how much of what is beyond the crop is cut off there. caption, label: -1
    for none.
    """

    clip: int
    indices: tuple[int, ...]
    top: int
    left: int
    mirror: bool
    caption: int
    label: int

    def offsets(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Row and column at which the crop begins, in frames scaled to `size`."""
        return below(self.top, size[0] - height + 1), below(self.left, size[1] - width + 1)


def centre_offsets(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Row and column at which a crop at the centre begins, in frames scaled to `size` (height, width)."""
    return below(_HALF, size[0] - height + 1), below(_HALF, size[1] - width + 1)


class Picks(NamedTuple):
    """What is drawn of N clips, int64 on one device.

    indices: (N, T), which frames. crop: (N, 2) or (1, 2), words for top and left, see `Draw`. mirror: (N,), 0 or 1.
    caption, label: (N,), -1 for none.
    """

    indices: torch.Tensor
    crop: torch.Tensor
    mirror: torch.Tensor
    caption: torch.Tensor
    label: torch.Tensor


class Sampler:
    """Draws samples of a set of clips; every epoch is a new shuffle that has each clip once."""

    def __init__(self, members: Sequence[Member], cut: Cut):
        self.cut = cut
        self.size = len(members)
        self._members = members
        self._tables: dict[torch.device, _Tables] = {}

    def draw(self, seed: int, number: int) -> Draw:
        """Sample `number` of a run."""
        return self.draws(seed, [number])[0]

    def draws(self, seed: int, numbers: Sequence[int]) -> list[Draw]:
        """Those samples of a run."""
        return self._draw(seed, numbers, self.clips(seed, numbers))

    def clips(self, seed: int, numbers: Sequence[int]) -> list[int]:
        """Which clip each of those samples of a run shows."""
        return [self._clip(seed, number) for number in numbers]

    def candidates(self, seed: int, number: int, first: Draw | None = None) -> Iterator[Draw]:
        """Sample `number`, then those that take its place, one after the other, where its clip cannot be read.

        Args:
            first: the sample, where it is drawn already.
        """
        yield first or self.draw(seed, number)
        for offset in range(1, self.size):
            yield self._draw(seed, [number], [self._clip(seed, number, offset)])[0]

    def words(self, seed: int, numbers: torch.Tensor) -> torch.Tensor:
        """Random words, int64 (N, WORDS), of samples int64 (N,), on their device."""
        return Draws(seed, {Purpose.CLIP: WORDS}, numbers.device)(numbers)[Purpose.CLIP]

    def pick(self, words: torch.Tensor, clips: torch.Tensor) -> Picks:
        """What random words draw of clips, on their device; the host waits for nothing.

        Args:
            words: int64 (N, WORDS) in [0, 2**32). clips: int64 (N,), indices of members.
        """
        tables, cut = self._tables_on(words.device), self.cut
        row = tables.clips[clips]  # (N, 7)
        more, mirror, caption = below(words[:, :3], row[:, :3]).unbind(1)
        last, starts, first_caption, label = row[:, 3:].unbind(1)
        starts = torch.add(starts, more, alpha=1 - cut.frames).clamp_(min=1)
        start, stride = below(words[:, 3], starts), more + cut.stride
        indices = torch.addcmul(start[:, None], stride[:, None], tables.steps)  # (N, T)
        crop = words[:, 4:] if cut.crop == "random" else tables.centre
        caption = tables.captions[first_caption + caption]
        return Picks(torch.minimum(indices, last[:, None]), crop, mirror, caption, label)

    def _clip(self, seed: int, number: int, offset: int = 0) -> int:
        epoch, place = divmod(number, self.size)
        block, row = divmod(epoch, _epochs_at_once(self.size))
        return int(_orders(self.size, seed, block)[row, (place + offset) % self.size])

    def _draw(self, seed: int, numbers: Sequence[int], clips: Sequence[int]) -> list[Draw]:
        words = self.words(seed, torch.tensor(numbers, dtype=torch.int64, device="cpu"))
        picks = self.pick(words, torch.tensor(clips, dtype=torch.int64, device="cpu"))
        picks = picks._replace(crop=picks.crop.expand(len(clips), 2))
        return [
            Draw(clip, tuple(indices), top, left, bool(mirror), caption, label)
            for clip, indices, (top, left), mirror, caption, label in zip(
                clips, *(part.tolist() for part in picks), strict=True
            )
        ]

    def _tables_on(self, device: torch.device) -> "_Tables":
        if device not in self._tables:
            self._tables[device] = _Tables(*(table.to(device) for table in _tables_of(self._members, self.cut)))
        return self._tables[device]


class _Tables(NamedTuple):
    """What samples are drawn from, int64 on one device.

    clips: (clips, 7), for each: among how many strides, mirrorings and captions one is drawn, its last frame, at how
    many places it may begin at the smallest stride (below 1: at its first frame), where its captions begin in
    `captions`, and its class. captions: those of all clips, one after the other, then -1. steps:
    (T,), 0 and on. centre: (1, 2), the words of a crop at the centre.
    """

    clips: torch.Tensor
    captions: torch.Tensor
    steps: torch.Tensor
    centre: torch.Tensor


def _tables_of(members: Sequence[Member], cut: Cut) -> _Tables:
    captions = [caption for member in members for caption in member.captions]
    counts = [len(member.captions) for member in members]
    begins = itertools.accumulate(counts, initial=0)
    frames = torch.tensor([member.frames for member in members], dtype=torch.int64, device="cpu")
    longest = (frames - 1) // max(1, cut.frames - 1)  # stride at which the clip is long enough
    strides = longest.clamp(max=cut.max_stride or cut.stride).clamp_(min=cut.stride) - cut.stride + 1
    # A clip without captions draws the -1 at the end.
    among = [(n, first) if n else (1, len(captions)) for n, first in zip(counts, begins, strict=False)]
    count, first_caption = torch.tensor(among, dtype=torch.int64, device="cpu").unbind(1)
    label = torch.tensor([member.label for member in members], dtype=torch.int64, device="cpu")
    starts = frames - (cut.frames - 1) * cut.stride
    mirrors = torch.full_like(frames, 2 if cut.mirror else 1)
    return _Tables(
        torch.stack([strides, mirrors, count, frames - 1, starts, first_caption, label], 1),
        torch.tensor([*captions, -1], dtype=torch.int64, device="cpu"),
        torch.arange(cut.frames, device="cpu"),
        torch.full((1, 2), _HALF, dtype=torch.int64, device="cpu"),
    )


class Shuffle:
    """Which clip each sample of a run shows, on a device: for steps whose number is known there alone.

    It holds the orders of as many epochs as a batch may touch; the host brings them up to date between steps.

    Args:
        size: clips of the set. seed: of the run. batch: the most samples that are asked for at once, in a row.
    """

    def __init__(self, size: int, seed: int, batch: int, device: "torch.device | str" = "cpu"):
        self._size, self._seed = size, seed
        touched = 1 + -(-(batch - 1) // size)  # epochs, where a batch begins with the last clip of one
        self._epochs = torch.arange(max(touched, _epochs_at_once(size)), device=device)
        self._orders = torch.zeros(len(self._epochs) * size, dtype=torch.int64, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # the sample to which the first order belongs
        self._held = range(0)

    def reach(self, numbers: range) -> None:
        """Have the clips of these samples, in a row, ready for `__call__`. The host waits for nothing."""
        first, last = numbers[0] // self._size, numbers[-1] // self._size
        if first in self._held and last in self._held:
            return
        self._held = range(first, first + len(self._epochs))
        self._orders.copy_(shuffled(self._size, self._seed, self._epochs + first).flatten())
        self._first.fill_(first * self._size)

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """Clips, int64 (N,), of samples int64 (N,) that were reached."""
        return self._orders[numbers - self._first]


def shuffled(size: int, seed: int, epochs: torch.Tensor) -> torch.Tensor:
    """The order of all clips in each of these epochs, int64 (E, size), for int64 (E,) and on its device.

    Clips are sorted by 64 random bits each, of `Purpose.SHUFFLE` and the epoch; of equal ones, the first comes first.
    """
    words = Draws(seed, {Purpose.SHUFFLE: 2 * size}, epochs.device)(epochs)[Purpose.SHUFFLE]
    high, low = words.unflatten(1, (size, 2)).unbind(2)
    return torch.add(low, high - _HALF, alpha=2**32).sort(dim=1, stable=True).indices


def sample_numbers(batch_size: int, start: int, rank: int, world_size: int) -> Iterator[range]:
    """The numbers of the samples of batches start, start + 1, …: those of all ranks of a batch follow each other."""
    for batch in itertools.count(start):
        first = (batch * world_size + rank) * batch_size
        yield range(first, first + batch_size)


def _epochs_at_once(size: int) -> int:
    return max(1, _AHEAD // size)


@functools.lru_cache(4)  # for two runs of batches at the end of an epoch: training and an evaluation
def _orders(size: int, seed: int, block: int) -> np.ndarray:
    """The orders of a block of epochs, on the host."""
    count = _epochs_at_once(size)
    return shuffled(size, seed, torch.arange(block * count, (block + 1) * count, device="cpu")).numpy()
