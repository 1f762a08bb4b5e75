"""The interface between sources of clips and the trainer."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from fastvgan.data.fingerprint import Fingerprint


class Clips(NamedTuple):
    """One batch of clips.

    video: uint8 (N, T, H, W, C), C = 1 (grey) or 3 (RGB).
    caption: int64 (N,), index into the source's `captions`, or None if the source has no captions.
    label: int64 (N,), index into the source's `classes`, or None if the source has no classes.
    """

    video: torch.Tensor
    caption: torch.Tensor | None = None
    label: torch.Tensor | None = None


@runtime_checkable
class Source(Protocol):
    """A training set of clips of one size, whose conditions are indices into tables."""

    captions: Sequence[str]
    """The distinct captions; empty if the source has no captions."""
    classes: Sequence[str]
    """The class names; empty if the source has no classes."""
    size: int
    """Number of clips per epoch."""
    fingerprint: Fingerprint
    """Identification of the data, independent of its place."""
    remarks: Sequence[str]
    """Sentences on files that were left out or are treated in an unexpected way, with the reason."""
    decoder: str
    """The decoder, and the reason for its choice."""
    draws: int
    """Number of random words per clip of `draw`; 0 if only `batches` is supported."""
    shuffles: bool
    """Whether `draw` needs indices of clips, each of which occurs once per epoch.

    `fastvgan.data.sampling.Shuffle` computes them on the device from the samples' numbers. Before each step the host
    calls `Shuffle.reach`, which has work to do about once per epoch.
    """

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Yield batches endlessly.

        Batch k is a function of (seed, k) alone, so that a resumed run continues with the very next batch. Every epoch
        is a new shuffle; batches are always full and may cross the end of an epoch. Closing the generator ends the
        threads and processes that decode.

        Args:
            batch_size: Clips per batch and rank.
            seed: Seed of the run.
            start: Number of the first batch.
            rank: Rank of this process in a distributed run.
            world_size: Number of processes. Their batches k, concatenated by rank, are the batch k that a single
                process draws with world_size * batch_size clips.
        """
        ...

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Draw clips by random words on their device, without a synchronization with the host, if `draws` is not 0.

        `batches` yields the same clips: the words of sample n of a seed are those of `Purpose.CLIP` and number n.

        Args:
            words: int64 (N, `draws`) in [0, 2**32), see `fastvgan.random_draws`.
            clips: int64 (N,), indices of the clips, on the same device; needed if the source `shuffles`.

        Raises:
            ValueError: `draws` is 0, or `clips` is missing.
        """
        ...


@runtime_checkable
class HasCaptionSets(Protocol):
    """A source whose clips may have several captions each, which are no wrong captions of each other."""

    caption_sets: Sequence[Sequence[int]]
    """The captions of each clip that has several, as indices into the source's `captions`."""
