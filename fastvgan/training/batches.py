"""What one step is given, made on the host ahead of it: clips, noise and conditions, as tensors to be copied."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from fastvgan.data.source import Clips
from fastvgan.models import Condition
from fastvgan.pixels import to_float
from fastvgan.training.conditions import Conditions, swapped, told


class Batch(NamedTuple):
    """The data of a step.

    video: uint8 (N, T, H, W, C). z: noise as the generator draws it, float32 (N, ...).
    text, label: word indices (N, L) and class indices (N,), or None. wrong_text, wrong_label: (N, K, L) and (N, K), K
    conditions per clip of which one part is wrong. has_wrong: whether there is a wrong condition at all. wrong_image:
    whether first frames are what is wrong.
    """

    video: torch.Tensor
    z: torch.Tensor
    text: torch.Tensor | None = None
    label: torch.Tensor | None = None
    wrong_text: torch.Tensor | None = None
    wrong_label: torch.Tensor | None = None
    has_wrong: bool = False
    wrong_image: bool = False


class Inputs(NamedTuple):
    """The same as the networks take it: real (N, C, T, H, W) in [-1, 1], z, and conditions or None."""

    real: torch.Tensor
    z: torch.Tensor
    c: Condition | None
    wrong: Condition | None


class BatchMaker:
    """Makes the batch of step k from the clips of step k; what is random in it comes from (seed, k) alone.

    Args:
        noise: draws noise for n clips, as a generator's `noise`. wrong: how many wrong conditions a clip gets.
        rows, total: which clips of a batch of `total` these are, where several processes share it. All of them draw for
            the whole batch, so that together they compute what a single process would.
    """

    def __init__(self, conditions: Conditions, noise, seed: int, wrong: int, rows: slice, total: int):
        self._conditions, self._noise, self._seed = conditions, noise, seed
        self._wrong = wrong if conditions.can_be_wrong else 0
        self._rows, self._total = rows, total

    def make(self, number: int, clips: Clips) -> Batch:
        """The batch of step `number` (from 0)."""
        draw = torch.Generator().manual_seed(step_seed(self._seed, number))
        z = self._noise(self._total, draw)[self._rows]
        batch = Batch(clips.video, z, *self._conditions.right(clips))
        if not self._wrong:
            return batch
        text, label, image = self._conditions.wrong(clips, draw, self._wrong, self._rows, self._total)
        return batch._replace(wrong_text=text, wrong_label=label, has_wrong=True, wrong_image=image)

    def all(self, clips: Iterator[Clips], start: int) -> Iterator[Batch]:
        """Batches from step `start` on; closing it closes `clips`."""
        try:
            for number, one in enumerate(clips, start):
                yield self.make(number, one)
        finally:
            if hasattr(clips, "close"):
                clips.close()


def opened(batch: Batch, parts: tuple[str, ...]) -> Inputs:
    """A batch on the device as the networks take it, for a model that follows `parts`; the host waits for nothing."""
    real = to_float(batch.video, batch.video.device)
    c = told(batch.text, batch.label, real, parts)
    wrong = told(batch.wrong_text, batch.wrong_label, real, parts) if batch.has_wrong else None
    if wrong is not None and "image" in parts:
        wrong = wrong._replace(image=swapped(c.image) if batch.wrong_image else c.image)
    return Inputs(real, batch.z, c, wrong)


def step_seed(seed: int, step: int) -> int:
    """The seed of all that is random in a step: one 63-bit number for the pair."""
    # The multiplier is that of Knuth's 64-bit linear congruential generator.
    return (seed * 6364136223846793005 + step) % 2**63
