"""Scores of the averaged generator during training, and the number that selects the best checkpoint."""

import logging
from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch

from fastvgan.data import open_source
from fastvgan.data.clips import ClipSource
from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Clips, Source
from fastvgan.files.pixels import to_uint8
from fastvgan.machine.optional import install_command, is_installed
from fastvgan.metrics.evaluation import Evaluator, warnings
from fastvgan.metrics.prompts import FEWEST, TrainingDraws, first_clips
from fastvgan.models import Condition
from fastvgan.runs.config import RunConfig
from fastvgan.training.report.curves import score_text
from fastvgan.training.run.samples import Samples
from fastvgan.training.step.adversarial import AdversarialStep

logger = logging.getLogger("fastvgan")
_NOT_FINITE = "the averaged generator's clips are not finite"
_SEED_OFFSET = 2**20  # so that `evaluate` draws other clips than those that selected the checkpoint
_JOINT = 1000  # one clip of 240 that does not match its caption counts as 4 of the Fréchet distance
_MAIN = (
    *("joint", "digit", "colour", "motion", "held_out_joint", "paraphrased_joint", "same_digit", "first_frame_psnr"),
    "diversity",
    *("varied_digit", "varied_colour", "varied_motion", "frechet", "coarse_frechet"),
)


class Scored(NamedTuple):
    """Result of an evaluation.

    Attributes:
        scores: scores by name, see `fastvgan.metrics.evaluation`; empty if the generator's clips are not finite.
        choice: the number that selects the best checkpoint, lower is better, or None.
        warnings: one sentence per warning.
        clips: number of generated clips that `choice` was computed from, or None.
        on_test_frames: whether `choice` compares with frames that were kept for tests.
    """

    scores: dict[str, float]
    choice: float | None
    warnings: list[str]
    clips: int | None = None
    on_test_frames: bool = False


class Scoring:
    """Evaluates the averaged generator of a step, always with the same noise, conditions and real clips.

    Real clips of the digits are by writers who are not in the training set. Of other data, as many clips as are
    generated are drawn once and kept in memory, to look for copies of; they are also the real clips, unless there are
    frames for tests.

    Global random state stays unchanged, so that an evaluation does not change training.

    Args:
        config: the run's settings.
        source: the data.
        step: the step whose averaged generator is evaluated.
        samples: samples, whose coarse Fréchet distance selects the best checkpoint of data other than the digits.
        test: the frames for tests, see `find_test_clips`.
    """

    def __init__(
        self, config: RunConfig, source: Source, step: AdversarialStep, samples: Samples, test: Source | None = None
    ):
        self._step, self._samples, self._on_test_frames = step, samples, test is not None
        self._has_oracle = isinstance(source, DigitsSource)
        self._evaluator: Evaluator | None = None
        training = config.training
        seed = training.seed + _SEED_OFFSET
        if not is_installed("numpy"):
            left = "" if self._has_oracle else " but coarse_frechet"
            logger.warning("no scores%s: the package numpy is not installed (%s)", left, install_command("train"))
        elif self._has_oracle:
            reference = open_source(config.data, config.model, split="test")
            seen = TrainingDraws(training.seed, training.count_clips(source.size))
            self._evaluator = Evaluator(config.model, source, reference, training.evaluate_clips, seed, seen)
        elif source.size >= FEWEST:
            drawn = _InMemory(source, min(training.evaluate_clips, source.size), seed)
            real = drawn if test is None else _InMemory(test, min(drawn.size, test.size), seed)
            self._evaluator = Evaluator(config.model, drawn, real, real.size, seed)

    def measure(self) -> Scored:
        """Evaluate the averaged generator, after `Samples.settle`."""
        scores: dict[str, float] = {}
        try:
            if self._evaluator is not None:
                scores = self._evaluator.quick(self._generate, self._step.ema.noise)
        except FloatingPointError as error:
            return _skip(str(error))
        if self._has_oracle:
            if self._evaluator is None:
                return Scored({}, None, [])
            return Scored(scores, choice(scores), warnings(scores), self._evaluator.clips)
        coarse = self._samples.score()
        if coarse is None:
            return _skip(_NOT_FINITE)
        scores.pop("frechet", None)  # the same features of fewer clips
        scores = {"coarse_frechet": coarse, **scores}
        return Scored(scores, coarse, warnings(scores), self._samples.count, self._on_test_frames)

    def _generate(self, z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        device = self._step.totals.device
        if condition is not None:
            condition = Condition(*(None if part is None else part.to(device) for part in condition))
        with torch.no_grad(), self._step.autocast:
            clips = self._step.ema(z.to(device), condition)
        if not torch.isfinite(clips).all():
            raise FloatingPointError(_NOT_FINITE)
        return to_uint8(clips)


def find_test_clips(source: Source) -> Source | None:
    """Open the frames that were kept for tests; None without --test-share, or (logged) with too few clips."""
    if not isinstance(source, ClipSource) or source.open_test is None:
        return None
    test = source.open_test()
    if test.size >= FEWEST:
        return test
    logger.warning(
        "scores compare with training clips: only %d clips have frames for tests, and %d are needed", test.size, FEWEST
    )
    return None


class _InMemory:
    """The first clips of a source as another `Source`, in memory."""

    remarks: Sequence[str] = ()
    decoder = "in memory"
    draws = 0
    shuffles = False

    def __init__(self, source: Source, size: int, seed: int):
        self.captions, self.classes, self.size = source.captions, source.classes, size
        self.fingerprint = source.fingerprint
        self._clips = first_clips(source, size, seed)

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Yield batches in the order in which the clips were drawn, with any seed, for a single process."""
        while True:
            rows = (torch.arange(batch_size) + start * batch_size) % self.size
            video, *indices = self._clips
            yield Clips(video[rows], *(None if part is None else part[rows] for part in indices))
            start += 1

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Raise a ValueError for words (N, 0), since `draws` is 0; see `fastvgan.data.source.Source.draw`."""
        raise ValueError("clips in memory cannot be drawn by random words; use batches")


def _skip(reason: str) -> Scored:
    logger.warning("no scores: %s", reason)
    return Scored({}, None, [])


def choice(scores: dict[str, float]) -> float:
    """Return the number that selects the best checkpoint of the digits: lower is better.

    It is the share of clips that do not match their caption in every word, and with a small weight the Fréchet distance
    in the oracle's features.
    """
    return _JOINT * (1 - scores.get("joint", 0.0)) + scores["frechet"]


def describe(scores: dict[str, float]) -> str:
    """Return the main scores in one line: "joint 93.3%, digit 94.6%, …, frechet 4.1"."""
    return ", ".join(f"{name} {score_text(name, scores[name])}" for name in _MAIN if name in scores)
