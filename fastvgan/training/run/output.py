"""Outputs of a run: metrics, samples, scores, checkpoints, the exported generator, the report.

A failed write is logged and training continues, since later writes may work.
"""

import errno
import logging
import math
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import NamedTuple, TypeVar

from fastvgan.data.source import Source
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import read_tensors
from fastvgan.generation.files import BEST, EXPORTED, export
from fastvgan.runs.checkpoint import find_best, list_complete, read_averaged_weights
from fastvgan.runs.config import RunConfig, TrainingConfig
from fastvgan.training.conditions import Conditions
from fastvgan.training.report.collect import write_report
from fastvgan.training.run import checkpoint
from fastvgan.training.run.checkpoint import Record
from fastvgan.training.run.folder import RunFolder
from fastvgan.training.run.resume import Start
from fastvgan.training.run.samples import Samples, set_samples_aside
from fastvgan.training.run.scoring import Scoring, describe, find_test_clips
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan_kernels.warn_once import WarnOnce

logger = logging.getLogger("fastvgan")
T = TypeVar("T")


class Due(NamedTuple):
    """Outputs that are due after a step.

    Attributes:
        sample: samples.
        save: a checkpoint.
        evaluate: an evaluation.
        save_best: a checkpoint as well if the evaluation finds a better score than all before.
    """

    sample: bool
    save: bool
    evaluate: bool
    save_best: bool

    @classmethod
    def after(cls, step: int, training: TrainingConfig, is_in_trouble: Callable[[], bool]) -> "Due":
        """Return what is due after a step.

        Args:
            step: its number, from 1.
            training: how often each output is due.
            is_in_trouble: whether the state is not to be saved; asked only if it may be, since it waits for the device.
        """
        save = step % training.checkpoint_every == 0
        evaluate = step % (training.evaluate_every or training.checkpoint_every) == 0
        is_well = (save or evaluate) and not is_in_trouble()
        return cls(step % training.sample_every == 0, save and is_well, evaluate, is_well)


class Written(NamedTuple):
    """Outputs that were written after a step; None for those that were not due or could not be written.

    Attributes:
        scores: scores of an evaluation, by name.
        checkpoint: folder of a checkpoint.
        samples: animation of samples.
    """

    scores: dict[str, float] | None = None
    checkpoint: Path | None = None
    samples: Path | None = None


class Output:
    """The open run folder of a run, and its outputs.

    Args:
        start: where the run starts.
        config: the run's settings.
        step: the step that trains.
        source: the data.
        conditions: conditions of the data.
        done: number of steps trained so far.
        steps: number of steps at the end of the run.

    Attributes:
        path: the folder.
        scores: scores of the last evaluation, by name.
        scored_step: its step, or 0.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        start: Start,
        config: RunConfig,
        step: AdversarialStep,
        source: Source,
        conditions: Conditions,
        done: int,
        steps: int,
    ):
        self._config, self._step, self._steps = config, step, steps
        self.scores: dict[str, float] = {}
        self.scored_step = 0
        self._warn_once = WarnOnce(logger)
        next_folder = start.next_folder if start.is_new else None
        self._folder = RunFolder(start.folder, config, done, config.training.wandb, source.fingerprint, next_folder)
        self.path = self._folder.path
        self._captions = conditions.table
        # Without gradients a pass of some more clips than a part of a batch has takes less memory. The statistics
        # depend on their number, so the number of processes, which may change in a run, makes no difference.
        part = config.training.batch_size // config.training.accumulate
        most = min(128, 2 ** (part.bit_length() + 1))  # a divisor of 128

        def draw() -> tuple[Samples, Scoring]:
            test = find_test_clips(source)
            samples = Samples(source, conditions, step, config.training.seed, most, test)
            return samples, Scoring(config, source, step, samples, test)

        self._draw = draw
        self._samples: Samples | None = None
        self._scoring: Scoring | None = None

    def begin(self) -> None:
        """Draw noise and conditions of samples, and clips to compare them with; this is slow on slow sources."""
        if self._captions is not None:
            self._captions.save(self.path)
        self._samples, self._scoring = self._draw()

    def write_metrics(self, values: dict[str, float]) -> None:
        """Write a line of metrics; `values` includes "step"."""
        self._folder.add_metrics(values)

    def write_due(self, record: Record, due: Due) -> tuple[Record, Written]:
        """Write the outputs that are due after the step of the record.

        Returns:
            The record, with the score of an evaluation, and the outputs that were written.
        """
        if not (due.sample or due.save or due.evaluate):
            return record, Written()
        self._settle()
        path = samples = None
        if due.evaluate:
            record = self._evaluate(record)
        is_best = due.evaluate and due.save_best and self._try_to_write(str(BEST), lambda: self._is_best(record))
        if due.save or is_best:
            path = self._try_to_write(f"the checkpoint of step {record.step}", lambda: self._save(record))
        if due.sample:
            samples = self._try_to_write(f"samples of step {record.step}", lambda: self._sample(record.step))
        return record, Written(self.scores if due.evaluate else None, path, samples)

    def finish(self, record: Record, signal: int = 0, save: bool = True) -> Written:
        """Write the outputs of a run that ends, early or not.

        After a signal the state is saved first. SIGTERM may leave only seconds, so scores and samples are left out
        then.

        Args:
            record: the record of the last step.
            signal: number of the signal that ended the run; another number if none did.
            save: whether to write the last checkpoint.

        Raises:
            UserError: the last checkpoint cannot be written.
        """
        self._settle()
        path = samples = scores = None
        if save and signal in (SIGINT, SIGTERM):
            path = self.save_last(record)
            if signal == SIGINT:
                logger.info("saved step %d; scoring it, unless Ctrl-C ends that too", record.step)
        if signal != SIGTERM:
            record = self._evaluate(record)
            scores = self.scores
            samples = self._try_to_write(f"samples of step {record.step}", lambda: self._sample(record.step))
            path = self.save_last(record) if save else None
        self._try_to_write("report.html", lambda: write_report(self.path))
        return Written(scores, path, samples)

    def rescue(self, record: Record) -> None:
        """Save the state of a run that an error ends between two steps.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._settle()
        except RuntimeError as error:  # the device may be what failed
            logger.warning("the averaged generator keeps the statistics of its last use: %s", error)
        self.save_last(record)

    def save_last(self, record: Record) -> Path:
        """Save the run's last checkpoint, and return its folder.

        Raises:
            UserError: it cannot be written.
        """
        self._folder.ensure()
        try:
            return self._save(record)
        except (OSError, UserError) as error:
            raise UserError(
                f"cannot write to {self.path}: {_describe(error)}, then resume from {self._newest()} with --resume auto"
            ) from error

    def rewind(self, step: int) -> None:
        """Discard the outputs of later steps, which are trained again."""
        checkpoint.set_aside(self.path / "checkpoints", step)
        self._try_to_write("names of samples", lambda: set_samples_aside(self.path / "samples", step))
        self._folder.rewind(step)

    def close(self) -> None:
        """Close the run folder; see `RunFolder.close`."""
        self._folder.close()

    def _settle(self) -> None:
        if self._samples is not None:
            self._samples.settle()

    def _evaluate(self, record: Record) -> Record:
        """Evaluate the averaged generator, write and log its scores, and add its score to the record."""
        if self._scoring is None:
            raise RuntimeError("begin() comes before evaluations")
        found = self._scoring.measure()
        self.scores, self.scored_step = found.scores, record.step
        if found.scores:
            self._folder.add_evaluation({"step": record.step, **found.scores})
            logger.info("step %d: %s", record.step, describe(found.scores))
        # Early in a run the generator ignores every condition, which is no reason to warn.
        for sentence in found.warnings if 2 * record.step >= self._steps else ():
            self._warn_once(f"step {record.step}: {sentence}", kind=sentence.partition(":")[0])
        return record._replace(score=found.choice, scored_clips=found.clips, on_test_frames=found.on_test_frames)

    def _is_best(self, record: Record) -> bool:
        """Whether the record's score is better than that of each checkpoint it can be compared with."""
        if record.score is None or not math.isfinite(record.score):
            return False
        best = find_best(self.path / "checkpoints", record)
        return best is None or record.score < best[1]

    def _save(self, record: Record) -> Path:
        self._folder.ensure()
        path = checkpoint.save(self.path / "checkpoints", self._step, record, self._config.training.keep)
        export(self._step.ema.state_dict(), self._config.model, self.path / EXPORTED, {"step": str(record.step)})
        self._try_to_write(str(BEST), lambda: self._export_best(record.step))
        return path

    def _export_best(self, now: int) -> None:
        """Export the best checkpoint to export/best.safetensors unless it is there; a rollback may change which it is.

        Args:
            now: the step whose checkpoint was just written.
        """
        path, best = self.path / BEST, find_best(self.path / "checkpoints")
        if best is None:
            path.unlink(missing_ok=True)
            return
        folder, score = best
        facts = {"step": folder.name.removeprefix("step-"), "score": repr(score)}
        if facts.items() <= _facts(path).items():
            return
        is_new = folder.name == f"step-{now}"
        weights = self._step.ema.state_dict() if is_new else read_averaged_weights(folder)
        export(weights, self._config.model, path, facts)

    def _sample(self, number: int) -> Path | None:
        self._folder.ensure()
        if self._samples is None:
            return None
        path = self._samples.save(self.path / "samples", number)
        self._folder.add_samples(number, path)
        return path

    def _try_to_write(self, name: str, write: Callable[[], T]) -> T | None:
        try:
            return write()
        except (OSError, UserError) as error:
            logger.warning("cannot write %s: %s; training continues", name, _describe(error))
            return None

    def _newest(self) -> str:
        found = list_complete(self.path / "checkpoints")
        return f"the last complete checkpoint, {found[-1].name}," if found else "the beginning"


def _facts(path: Path) -> dict[str, str]:
    """Return an exported file's metadata; empty if the file is missing or damaged."""
    try:
        return read_tensors(path)[1]
    except UserError:
        return {}


def _describe(error: OSError | UserError) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({error.filename}); fix that"
    return str(error)
