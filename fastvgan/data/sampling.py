"""Random sampling from a set of clips: the clip, its first frame, its crop and its caption.

Sample `number` of a run is a function of (seed, number) alone, computed in integers. So every decoder and every device
yields the same samples, and a resumed run continues with the very next one.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastvgan.random_draws import Draws, Purpose, below

WORDS = 7  # random words per sample: stride, mirror, caption, start, top, left and reverse, in this order
_HALF = 2**31  # the middle of the words' range, which crops at the centre
_AHEAD = 2**14  # short epochs are shuffled together, up to about this many samples


@dataclass(frozen=True)
class Cut:
    """How samples are cut from longer and larger clips.

    frames: Frames per sample.
    height: Height of a sample, in pixels.
    width: Width of a sample, in pixels.
    channels: 1 (grey) or 3 (RGB).
    stride: Distance of the frames that are taken.
    max_stride: If set, the stride is drawn from [stride, max_stride], limited by the clip's length.
    crop: "random" or "center".
    mirror: Mirror each sample from left to right with probability 1/2.
    reverse: Show each sample backwards in time with probability 1/2.
    """

    frames: int
    height: int
    width: int
    channels: int = 3
    stride: int = 1
    max_stride: int | None = None
    crop: str = "random"
    mirror: bool = False
    reverse: bool = False


class Member(NamedTuple):
    """A clip of the set: its number of frames, and the indices of its captions and of its class (-1 for no class).

    first: The first of these frames in the file, of which samples may show only a part.
    """

    frames: int
    captions: tuple[int, ...]
    label: int
    first: int = 0


class Draw(NamedTuple):
    """One sample: frames `indices` of clip `clip`, scaled to cover the size of a `Cut` and cropped.

    top: Word in [0, 2**32) that chooses the first row of the crop.
    left: Word in [0, 2**32) that chooses its first column.
    caption: Index of the caption; -1 for none.
    label: Index of the class; -1 for none.
    reverse: Whether the frames are shown in the opposite order; `indices` ascend nevertheless.
    """

    clip: int
    indices: tuple[int, ...]
    top: int
    left: int
    mirror: bool
    caption: int
    label: int
    reverse: bool = False

    def offsets(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Return the first row and column of the crop, in frames scaled to `size` (height, width)."""
        return below(self.top, size[0] - height + 1), below(self.left, size[1] - width + 1)


def centre_offsets(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the first row and column of a crop at the centre, in frames scaled to `size` (height, width)."""
    return below(_HALF, size[0] - height + 1), below(_HALF, size[1] - width + 1)


class Picks(NamedTuple):
    """N samples as tensors, int64 on one device.

    indices: (N, T), the frames.
    crop: (N, 2) or (1, 2), the words `top` and `left` of `Draw`.
    mirror: (N,), 0 or 1.
    caption: (N,), -1 for none.
    label: (N,), -1 for none.
    reverse: (N,), 0 or 1; `indices` ascend nevertheless.
    """

    indices: torch.Tensor
    crop: torch.Tensor
    mirror: torch.Tensor
    caption: torch.Tensor
    label: torch.Tensor
    reverse: torch.Tensor


class Sampler:
    """Draws samples of a set of clips; every epoch is a new shuffle with each clip once.

    Args:
        members: The clips of the set.
        cut: How samples are cut.
    """

    def __init__(self, members: Sequence[Member], cut: Cut):
        self.cut = cut
        self.size = len(members)
        self._members = members
        self._has_parts = any(member.first for member in members)
        self._tables: dict[torch.device, _Tables] = {}

    def draw(self, seed: int, number: int) -> Draw:
        """Draw one sample of a run."""
        return self.draws(seed, [number])[0]

    def draws(self, seed: int, numbers: Sequence[int]) -> list[Draw]:
        """Draw several samples of a run."""
        return self._draw(seed, numbers, self.clips(seed, numbers))

    def clips(self, seed: int, numbers: Sequence[int]) -> list[int]:
        """Return the index of the clip that each of these samples of a run shows."""
        return [clip_of(self.size, seed, number) for number in numbers]

    def candidates(self, seed: int, number: int, first: Draw | None = None) -> Iterator[Draw]:
        """Yield a sample of a run, then the samples that replace it, in turn, if its clip is unreadable.

        Args:
            seed: Seed of the run.
            number: Number of the sample.
            first: The sample's draw, if it is known already.
        """
        yield first or self.draw(seed, number)
        for offset in range(1, self.size):
            yield self._draw(seed, [number], [clip_of(self.size, seed, number, offset)])[0]

    def words(self, seed: int, numbers: torch.Tensor) -> torch.Tensor:
        """Draw the random words, int64 (N, WORDS), of samples with numbers int64 (N,), on their device."""
        return Draws(seed, {Purpose.CLIP: WORDS}, numbers.device)(numbers)[Purpose.CLIP]

    def pick(self, words: torch.Tensor, clips: torch.Tensor) -> Picks:
        """Convert random words to samples on their device, without a synchronization with the host.

        Args:
            words: int64 (N, WORDS) in [0, 2**32).
            clips: int64 (N,), indices of members.
        """
        tables, cut = self._tables_on(words.device), self.cut
        row = tables.clips[clips]  # (N, 8)
        more, mirror, caption = below(words[:, :3], row[:, :3]).unbind(1)
        first, last, starts, first_caption, label = row[:, 3:].unbind(1)
        starts = torch.add(starts, more, alpha=1 - cut.frames).clamp_(min=1)
        start, stride = below(words[:, 3], starts), more + cut.stride
        if self._has_parts:
            start = start + first
        indices = torch.addcmul(start[:, None], stride[:, None], tables.steps)  # (N, T)
        crop = words[:, 4:6] if cut.crop == "random" else tables.centre
        caption = tables.captions[first_caption + caption]
        reverse = below(words[:, 6], 2 if cut.reverse else 1)
        return Picks(torch.minimum(indices, last[:, None]), crop, mirror, caption, label, reverse)

    def _draw(self, seed: int, numbers: Sequence[int], clips: Sequence[int]) -> list[Draw]:
        words = self.words(seed, torch.tensor(numbers, dtype=torch.int64, device="cpu"))
        picks = self.pick(words, torch.tensor(clips, dtype=torch.int64, device="cpu"))
        picks = picks._replace(crop=picks.crop.expand(len(clips), 2))
        return [
            Draw(clip, tuple(indices), top, left, bool(mirror), caption, label, bool(reverse))
            for clip, indices, (top, left), mirror, caption, label, reverse in zip(
                clips, *(part.tolist() for part in picks), strict=True
            )
        ]

    def _tables_on(self, device: torch.device) -> "_Tables":
        if device not in self._tables:
            self._tables[device] = _Tables(*(table.to(device) for table in _make_tables(self._members, self.cut)))
        return self._tables[device]


class _Tables(NamedTuple):
    """Tables from which samples are drawn, int64 on one device.

    clips: (clips, 8): number of strides, of mirrorings and of captions to choose from, the first and the last frame,
        the number of frames at which a sample may start at the smallest stride (below 1: only the first), the place of
        the first caption in `captions`, and the class.
    captions: Captions of all clips, concatenated, then -1.
    steps: (T,), 0 to T - 1.
    centre: (1, 2), the words of a crop at the centre.
    """

    clips: torch.Tensor
    captions: torch.Tensor
    steps: torch.Tensor
    centre: torch.Tensor


def _make_tables(members: Sequence[Member], cut: Cut) -> _Tables:
    captions = [caption for member in members for caption in member.captions]
    counts = [len(member.captions) for member in members]
    begins = itertools.accumulate(counts, initial=0)
    frames = torch.tensor([member.frames for member in members], dtype=torch.int64, device="cpu")
    longest = (frames - 1) // max(1, cut.frames - 1)  # largest stride at which the clip is long enough
    strides = longest.clamp(max=cut.max_stride or cut.stride).clamp_(min=cut.stride) - cut.stride + 1
    # A clip without captions draws the -1 at the end.
    choices = [(n, first) if n else (1, len(captions)) for n, first in zip(counts, begins, strict=False)]
    count, first_caption = torch.tensor(choices, dtype=torch.int64, device="cpu").unbind(1)
    label = torch.tensor([member.label for member in members], dtype=torch.int64, device="cpu")
    first = torch.tensor([member.first for member in members], dtype=torch.int64, device="cpu")
    starts = frames - (cut.frames - 1) * cut.stride
    mirrors = torch.full_like(frames, 2 if cut.mirror else 1)
    return _Tables(
        torch.stack([strides, mirrors, count, first, first + frames - 1, starts, first_caption, label], 1),
        torch.tensor([*captions, -1], dtype=torch.int64, device="cpu"),
        torch.arange(cut.frames, device="cpu"),
        torch.full((1, 2), _HALF, dtype=torch.int64, device="cpu"),
    )


class Shuffle:
    """Maps the numbers of samples to their clips on a device, for steps whose number only the device knows.

    It holds the orders of as many epochs as a batch may touch; the host updates them between steps.

    Args:
        size: Number of clips in the set.
        seed: Seed of the run.
        batch: Largest number of consecutive samples per call.
        device: Device of the numbers and the clips.
    """

    def __init__(self, size: int, seed: int, batch: int, device: "torch.device | str" = "cpu"):
        self._size, self._seed = size, seed
        touched = 1 + -(-(batch - 1) // size)  # epochs in a batch that begins with the last clip of one
        self._epochs = torch.arange(max(touched, _epochs_at_once(size)), device=device)
        self._orders = torch.zeros(len(self._epochs) * size, dtype=torch.int64, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # number of the first sample in the orders
        self._loaded = range(0)  # epochs whose orders are loaded

    def reach(self, numbers: range) -> None:
        """Prepare these consecutive samples for `__call__`, without a synchronization with the device."""
        first, last = numbers[0] // self._size, numbers[-1] // self._size
        if first in self._loaded and last in self._loaded:
            return
        self._loaded = range(first, first + len(self._epochs))
        self._orders.copy_(shuffle_epochs(self._size, self._seed, self._epochs + first).flatten())
        self._first.fill_(first * self._size)

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the clips, int64 (N,), of samples with numbers int64 (N,), which `reach` has prepared."""
        return self._orders[numbers - self._first]


def shuffle_epochs(size: int, seed: int, epochs: torch.Tensor) -> torch.Tensor:
    """Shuffle the clips of a set for each of some epochs.

    Each clip gets 64 random bits, from `Purpose.SHUFFLE` and the epoch, by which a stable sort orders the clips.

    Args:
        size: Number of clips.
        seed: Seed of the run.
        epochs: int64 (E,).

    Returns:
        int64 (E, size) on the device of `epochs`, the order of the clips in each epoch.
    """
    words = Draws(seed, {Purpose.SHUFFLE: 2 * size}, epochs.device)(epochs)[Purpose.SHUFFLE]
    high, low = words.unflatten(1, (size, 2)).unbind(2)
    return torch.add(low, high - _HALF, alpha=2**32).sort(dim=1, stable=True).indices


def clip_of(size: int, seed: int, number: int, offset: int = 0) -> int:
    """Return the clip, of `size`, that a sample of a run shows, or the one `offset` places later in its epoch."""
    epoch, place = divmod(number, size)
    block, row = divmod(epoch, _epochs_at_once(size))
    return int(_orders(size, seed, block)[row, (place + offset) % size])


def sample_numbers(batch_size: int, start: int, rank: int, world_size: int) -> Iterator[range]:
    """Yield the numbers of a rank's samples in batches start, start + 1, …; ranks follow each other in each batch."""
    for batch in itertools.count(start):
        first = (batch * world_size + rank) * batch_size
        yield range(first, first + batch_size)


def _epochs_at_once(size: int) -> int:
    return max(1, _AHEAD // size)


@functools.lru_cache(4)  # training and an evaluation, each at the border of two blocks
def _orders(size: int, seed: int, block: int) -> torch.Tensor:
    """Orders of a block of epochs, int64 (epochs, size), on the host."""
    count = _epochs_at_once(size)
    return shuffle_epochs(size, seed, torch.arange(block * count, (block + 1) * count, device="cpu"))
