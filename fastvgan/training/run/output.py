"""What a run writes: metrics, samples, scores, checkpoints, the exported generator, the report.

What cannot be written is told, and training goes on: it is worth more than its files, which can be written later.
"""

import errno
import logging
from collections.abc import Callable
from pathlib import Path

from fastvgan.data.source import Source
from fastvgan.errors import UserError
from fastvgan.export import BEST, EXPORTED, export
from fastvgan.files.tensor_file import read_tensors
from fastvgan.runs.checkpoint import find_best, list_complete, read_averaged_weights
from fastvgan.runs.config import RunConfig
from fastvgan.training.conditions import Conditions
from fastvgan.training.report.collect import write_report
from fastvgan.training.run import checkpoint
from fastvgan.training.run.checkpoint import Record
from fastvgan.training.run.folder import RunFolder
from fastvgan.training.run.samples import Samples
from fastvgan.training.run.scoring import Scoring, describe
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan_kernels.warn_once import WarnOnce

logger = logging.getLogger("fastvgan")


class Output:
    """The open run folder of a run, and everything that goes into it.

    Args:
        path: the folder. config: of the run. step: what is trained. source, conditions: of the data. done, steps: how
            many steps have been trained already, and will be at the end.

    Attributes:
        scores: of the last evaluation, by name.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        step: AdversarialStep,
        source: Source,
        conditions: Conditions,
        done: int,
        steps: int,
    ):
        self.path, self._config, self._step, self._steps = path, config, step, steps
        self.scores: dict[str, float] = {}
        self._warn_once = WarnOnce(logger)
        self._folder = RunFolder(path, config, done, config.training.wandb, source.fingerprint)
        self._make_samples = lambda: Samples(source, conditions, step, config.training.seed)
        self._make_scoring = lambda samples: Scoring(config, source, step, samples)
        self._samples: Samples | None = None
        self._scoring: Scoring | None = None

    def begin(self) -> None:
        """Draw what samples are made of, and what they are compared with, which on a slow source takes a while."""
        self._samples = self._make_samples()
        self._scoring = self._make_scoring(self._samples)

    def metrics(self, values: dict[str, float]) -> None:
        """A line of metrics; `values` has "step" among its keys."""
        self._folder.metrics(values)

    def now_and_then(self, record: Record, sample: bool, save: bool, evaluate: bool) -> None:
        """Samples, a checkpoint, an evaluation, or several of them, after the step of the record."""
        if not (sample or save or evaluate):
            return
        self._samples.settle()
        if evaluate:
            record = self._evaluate(record)
        if save:
            self._tolerantly(f"the checkpoint of step {record.step}", lambda: self._save(record))
        if sample:
            self._tolerantly(f"samples of step {record.step}", lambda: self._sample(record.step))

    def finish(self, record: Record, save: bool = True) -> None:
        """What a run leaves when it ends, early or not; without `save` the last checkpoint stays the one before.

        Raises:
            UserError: the last checkpoint cannot be written.
        """
        self._samples.settle()
        record = self._evaluate(record)
        self._tolerantly(f"samples of step {record.step}", lambda: self._sample(record.step))
        if save:
            self.save_last(record)
        self._tolerantly("report.html", lambda: write_report(self.path))

    def save_last(self, record: Record) -> None:
        """The checkpoint without which nothing of the last steps would be left.

        Raises:
            UserError: it cannot be written.
        """
        self._folder.ensure()
        try:
            self._save(record)
        except (OSError, UserError) as error:
            raise UserError(
                f"cannot write to {self.path}: {_reason(error)}, then go on from {self._newest()} by --resume auto"
            ) from error

    def rewind(self, step: int) -> None:
        """Forget what was written of later steps: they are trained anew."""
        checkpoint.set_aside(self.path / "checkpoints", step)
        self._folder.rewind(step)

    def close(self) -> None:
        self._folder.close()

    def _evaluate(self, record: Record) -> Record:
        """The record with the score of the averaged generator, which is also written and logged."""
        found = self._scoring.measure()
        self.scores = found.scores
        if found.scores:
            self._folder.evaluation({"step": record.step, **found.scores})
            logger.info("step %d: %s", record.step, describe(found.scores))
        # Early in a run every condition is ignored, which says nothing yet.
        for sentence in found.warnings if 2 * record.step >= self._steps else ():
            self._warn_once(f"step {record.step}: {sentence}", kind=sentence.partition(":")[0])
        return record._replace(score=found.choice)

    def _save(self, record: Record) -> None:
        self._folder.ensure()
        checkpoint.save(self.path / "checkpoints", self._step, record, self._config.training.keep)
        export(self._step.ema.state_dict(), self._config.model, self.path / EXPORTED, {"step": str(record.step)})
        self._tolerantly(str(BEST), lambda: self._export_best(record.step))

    def _export_best(self, now: int) -> None:
        """Make export/best.safetensors that of the best checkpoint there is, which a rollback may have changed too.

        Args:
            now: the step whose checkpoint has just been written.
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

    def _sample(self, number: int) -> None:
        self._folder.ensure()
        self._folder.samples(number, self._samples.save(self.path / "samples", number))

    def _tolerantly(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, UserError) as error:
            logger.warning("%s could not be written: %s; training goes on", what, _reason(error))

    def _newest(self) -> str:
        found = list_complete(self.path / "checkpoints")
        return f"the last complete checkpoint, {found[-1].name}," if found else "the beginning"


def _facts(path: Path) -> dict[str, str]:
    """What an exported file's metadata says; nothing where it is missing or damaged."""
    try:
        return read_tensors(path)[1]
    except UserError:
        return {}


def _reason(error: OSError | UserError) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({error.filename}); mend that"
    return str(error)
