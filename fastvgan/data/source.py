"""What every source of clips gives to the trainer."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import torch

from fastvgan.data.fingerprint import Fingerprint


class Clips(NamedTuple):
    """One batch of clips.

    video: uint8 (N, T, H, W, C), C = 1 (grey) or 3 (RGB).
    caption: int64 (N,), index into the source's `captions`, or None where the source has none.
    label: int64 (N,), index into the source's `classes`, or None where the source has none.
    """

    video: torch.Tensor
    caption: torch.Tensor | None = None
    label: torch.Tensor | None = None


class Source(Protocol):
    """A training set of clips of one size, with its conditions held as indices into tables."""

    captions: Sequence[str]
    """The distinct captions; empty where the source has none."""
    classes: Sequence[str]
    """The class names; empty where the source has none."""
    size: int
    """How many clips make an epoch."""
    fingerprint: Fingerprint
    """Which data these are; the same wherever they lie."""
    remarks: Sequence[str]
    """What was left out or is treated otherwise than one may think, and why; a sentence a file."""
    decoder: str
    """What decodes the clips, and why that."""
    draws: int
    """How many random words a clip of `draw` takes; 0 where `batches` has to make clips ahead of time."""
    shuffles: bool
    """Whether `draw` takes clips of the set, each once in an epoch: then it is given which.

    `fastvgan.data.sampling.Shuffle` gives them, from the samples' numbers on the device. Before a step the host brings
    it up to date by `Shuffle.reach`, which does something about once in an epoch.
    """

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Endless batches, from batch number `start` on; closing ends all that makes them.

        Batch k is a function of (seed, k) alone, so that a resumed run goes on with the very next batch. Every epoch
        is a new shuffle; batches are always full and may cross the end of an epoch.

        Args:
            batch_size: clips in a batch of one rank. rank, world_size: of a distributed run; the batches k of all
                ranks, one after the other, are the batch k of world_size * batch_size clips of a single process.
        """
        ...

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Clips by random words, where `draws` is not 0: on the words' device, by operations that wait for nothing.

        `batches` gives the same clips: sample n of a seed by the words of `Purpose.CLIP` and number n.

        Args:
            words: int64 (N, `draws`) in [0, 2**32), see `fastvgan.random_draws`.
            clips: where the source `shuffles`, which clip of the set each is, int64 (N,) on the same device.
        """
        ...
