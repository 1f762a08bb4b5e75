"""Samples of a run's averaged generator, always from the same noise and conditions, and their score."""

from pathlib import Path

import torch

from fastvgan.data.source import Clips, Source
from fastvgan.files.pixels import to_float, to_uint8
from fastvgan.files.video import grid, strip_grid, write_still, write_video
from fastvgan.metrics.frechet import CoarseScore
from fastvgan.metrics.prompts import first_clips
from fastvgan.training.conditions import Conditions, condition_from
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.passes import settle_statistics

_SHOWN, _POOL, _ROUNDS = 16, 128, 4


class Samples:
    """Fixed noise and conditions, and the averaged generator's clips of them.

    The conditions come from clips drawn from the source. Some of them, with different captions if there are enough, are
    shown; all are used to settle the statistics of the averaged generator and to score it, against themselves or
    against frames that were kept for tests.

    Args:
        source: the data.
        conditions: conditions of the data.
        step: the step whose averaged generator makes the samples.
        seed: seed of the run.
        most: number of clips that the generator makes at a time, as many as the device's memory takes.
        test: source of the real clips to score against; by default the clips that supply the conditions.

    Attributes:
        count: number of clips that are generated for a score.
    """

    def __init__(
        self,
        source: Source,
        conditions: Conditions,
        step: AdversarialStep,
        seed: int,
        most: int = _POOL,
        test: Source | None = None,
    ):
        self._step, self.count = step, _ROUNDS * _POOL
        device = step.totals.device
        batches = source.batches(_POOL, seed)
        clips = next(batches)
        batches.close()
        text, label = (None if part is None else part.to(device) for part in conditions.right(clips))
        pool = condition_from(text, label, to_float(clips.video, device), conditions.parts)
        noise = step.ema.noise(self.count + _SHOWN, seed).to(device)
        parts = [slice(first, first + most) for first in range(0, _POOL, most)]
        self._pool = [
            (of_round[part], pool and pool.rows(part)) for of_round in noise[:-_SHOWN].split(_POOL) for part in parts
        ]
        self._noise = noise[-_SHOWN:]
        self._coarse = CoarseScore(clips.video if test is None else first_clips(test, _POOL, seed).video)
        shown = _distinct(clips, conditions.parts)[:_SHOWN]
        self._condition = pool and pool.rows(shown)
        self._labels = _labels(source, clips, conditions.parts, shown)

    def settle(self) -> None:
        """Update the averaged generator's batch norm statistics to its weights, before it is used or saved."""
        with self._step.autocast:
            settle_statistics(self._step.ema, self._pool)

    def score(self) -> float | None:
        """Return the `CoarseScore` of the averaged generator; None if its clips are not finite."""
        made = []
        with torch.no_grad(), self._step.autocast:
            for z, condition in self._pool:
                clips = self._step.ema(z, condition)
                if not torch.isfinite(clips).all():
                    return None
                made.append(to_uint8(clips))
        return self._coarse.score(torch.cat(made))

    def save(self, folder: Path, number: int) -> Path:
        """Write step-N.gif and step-N.png to a folder, and return the path of the former.

        Raises:
            UserError: a file cannot be written.
        """
        with torch.no_grad(), self._step.autocast:
            videos = to_uint8(self._step.ema(self._noise, self._condition))
        moving = folder / f"step-{number:06d}.gif"
        write_video(moving, grid(videos, self._labels))
        write_still(moving.with_suffix(".png"), strip_grid(videos, self._labels))
        return moving


def set_samples_aside(folder: Path, after_step: int) -> None:
    """Rename the samples of later steps than `after_step` to abandoned-step-N, as checkpoints of these are.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in list(folder.glob("step-*")):
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) > after_step:
            path.replace(path.with_name(f"abandoned-{path.name}"))


def _distinct(clips: Clips, parts: tuple[str, ...]) -> list[int]:
    """Return the indices of all clips, first those with different captions, or classes if G is given no captions."""
    is_of_class = clips.caption is None or ("class" in parts and "text" not in parts)
    key = clips.label if is_of_class else clips.caption
    if key is None:
        return list(range(len(clips.video)))
    seen: set[int] = set()
    first: list[int] = []
    rest: list[int] = []
    for i, value in enumerate(key.tolist()):
        (rest if value in seen else first).append(i)
        seen.add(value)
    return first + rest


def _labels(source: Source, clips: Clips, parts: tuple[str, ...], rows: list[int]) -> list[str] | None:
    if "text" in parts and clips.caption is not None:
        return [source.captions[i] for i in clips.caption[rows].tolist()]
    if "class" in parts and clips.label is not None:
        return [source.classes[i] for i in clips.label[rows].tolist()]
    return None
