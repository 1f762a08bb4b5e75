"""What a run shows of its generator as it goes, always of the same noise and conditions: grids of samples, a score."""

from pathlib import Path

import torch

from fastvgan.data.source import Clips, Source
from fastvgan.files.video import grid, strip_grid, write_still, write_video
from fastvgan.metrics.frechet import CoarseScore
from fastvgan.pixels import to_float, to_uint8
from fastvgan.training.conditions import Conditions, condition_from
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.passes import settle_statistics

_SHOWN, _POOL, _ROUNDS = 16, 128, 4


class Samples:
    """Fixed noise and conditions, and what the averaged generator makes of them.

    The conditions are those of clips drawn from the source; of these, some with captions no two alike (as far as there
    are enough) are shown, and all serve to settle the statistics of the averaged generator, and to score it.
    """

    def __init__(self, source: Source, conditions: Conditions, step: AdversarialStep, seed: int):
        self._step = step
        device = step.totals.device
        batches = source.batches(_POOL, seed)
        clips = next(batches)
        batches.close()
        indices = (None if part is None else part.to(device) for part in conditions.right(clips))
        self._pool = condition_from(*indices, to_float(clips.video, device), conditions.parts)
        noise = step.ema.noise(_ROUNDS * _POOL + _SHOWN, seed).to(device).split(_POOL)
        self._pool_noise, self._noise = noise[:_ROUNDS], noise[_ROUNDS]
        self._coarse = CoarseScore(clips.video)
        shown = _distinct(clips)[:_SHOWN]
        self._condition = self._pool and self._pool.rows(shown)
        self._labels = _labels(source, clips, conditions.parts, shown)

    def settle(self) -> None:
        """Bring the averaged generator's batch norm statistics up to its weights; before it is used or saved."""
        with self._step.autocast:
            settle_statistics(self._step.ema, ((z, self._pool) for z in self._pool_noise))

    def score(self) -> float | None:
        """The `CoarseScore` of what it makes of all noise and conditions here; None where that is not finite."""
        with torch.no_grad(), self._step.autocast:
            made = [self._step.ema(z, self._pool) for z in self._pool_noise]
        if not all(torch.isfinite(clips).all() for clips in made):
            return None
        return self._coarse.score(torch.cat([to_uint8(clips) for clips in made]))

    def save(self, folder: Path, number: int) -> Path:
        """Write step-N.gif and step-N.png to the folder; gives the path of the former.

        Raises:
            UserError: they cannot be written.
        """
        with torch.no_grad(), self._step.autocast:
            videos = to_uint8(self._step.ema(self._noise, self._condition))
        moving = folder / f"step-{number:06d}.gif"
        write_video(moving, grid(videos, self._labels))
        write_still(moving.with_suffix(".png"), strip_grid(videos, self._labels))
        return moving


def _distinct(clips: Clips) -> list[int]:
    key = clips.caption if clips.caption is not None else clips.label
    if key is None:
        return list(range(len(clips.video)))
    seen, first, rest = set(), [], []
    for i, value in enumerate(key.tolist()):
        (rest if value in seen else first).append(i)
        seen.add(value)
    return first + rest


def _labels(source: Source, clips: Clips, parts: tuple[str, ...], rows: list[int]) -> list[str] | None:
    if "text" in parts:
        return [source.captions[i] for i in clips.caption[rows].tolist()]
    if "class" in parts:
        return [source.classes[i] for i in clips.label[rows].tolist()]
    return None
