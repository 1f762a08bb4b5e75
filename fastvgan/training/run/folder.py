"""The folder a run writes to, and what it writes beside checkpoints: configuration, environment, logs and metrics."""

import json
import logging
import os
import platform
import sys
from pathlib import Path

import torch

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.machine.device import pick_implementations
from fastvgan.machine.threads import thread_settings
from fastvgan.machine.versions import find_versions
from fastvgan.runs.config import RunConfig
from fastvgan.training.run import checkpoint
from fastvgan.training.run.backlog import Backlog, reason
from fastvgan.training.run.log_file import LogFile
from fastvgan.training.run.sinks import MetricsFile, TensorBoard, WandB

logger = logging.getLogger("fastvgan")
_PARTS = ("samples", "checkpoints", "export")


class RunFolder:
    """A run's folder, open for writing.

    Once it is open nothing here raises an OSError: what cannot be written is told once, kept in memory and written when
    that works again.

    Args:
        path: the folder; made if it is not there.
        config: written to config.yaml.
        step: how many steps are done; metrics of later steps are removed, and their checkpoints set aside (see
            `checkpoint.set_aside`): the run does without them.
        wandb: the project at Weights & Biases that metrics go to as well, if any.
        data: which is trained on; written to env.json.

    Raises:
        UserError: the folder cannot be made or written to, or W&B is not to be had.
    """

    def __init__(
        self, path: Path, config: RunConfig, step: int, wandb: str | None = None, data: Fingerprint | None = None
    ):
        self.path = path
        made_with = environment() | {"data": data and f"{data}, checksum {data.short}"}
        self._texts = {"config.yaml": config.to_yaml(), "env.json": json.dumps(made_with, indent=2)}
        self._missing = False
        try:
            self._make()
            self._log = LogFile(path / "log.txt")
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            checkpoint.recover(path / "checkpoints")
            checkpoint.set_aside(path / "checkpoints", step)
            lines = MetricsFile(path / "metrics.jsonl", step)
            scores = MetricsFile(path / "evaluation.jsonl", step, create=False)
            known, known_scores = lines.read(), scores.read()
            self._metrics, self._evaluation = Backlog(lines, known), Backlog(scores, known_scores)
            self._curves = [Backlog(TensorBoard(path / "tb", step), sorted(known + known_scores, key=lambda x: x[0]))]
            if wandb is not None:
                self._curves.append(Backlog(WandB(path, wandb, config.model_dump(mode="json"))))
        except OSError as error:
            self._log.close()
            raise _cannot_write(path, error) from error
        except UserError:
            self._log.close()
            raise

    def metrics(self, values: dict[str, float]) -> None:
        """Add a line to metrics.jsonl and points to the curves; `values` has "step" among its keys."""
        self._add(self._metrics, values)

    def evaluation(self, values: dict[str, float]) -> None:
        """Add a line to evaluation.jsonl and points to the curves; `values` has "step" among its keys.

        The curves are apart from those of metrics of the same name: "evaluation/diversity".
        """
        self._add(self._evaluation, values, "evaluation/")

    def samples(self, step: int, path: Path) -> None:
        """Show a picture of samples, .gif or .png, in TensorBoard; it is read when it is written there."""
        self._curves[0].add(step, {"samples": path})

    def ensure(self) -> bool:
        """Make the folder and what belongs into it anew if it has vanished; gives whether it is there.

        Metrics and log are written anew as far as they are remembered.
        """
        missing = [name for name in (*_PARTS, *self._texts) if not (self.path / name).exists()]
        if not missing and not self._missing:
            return True
        what = f"lacks {', '.join(missing)}" if self.path.exists() and missing else "has vanished"
        try:
            self._make()
        except OSError as error:
            first, self._missing = not self._missing, True
            for backlog in (self._log.backlog, *self._files()):
                backlog.quiet = True
            if first:
                logger.warning(
                    "the run folder %s %s and cannot be made anew: %s; training goes on, and that is tried again",
                    *(self.path, what, reason(error)),
                )
            return False
        self._missing = False
        for part in (self._log, *self._files()):  # the log as a whole, not its backlog, which needs the log's lock
            part.flush()
        for backlog in (self._log.backlog, *self._files()):
            backlog.quiet = False
        logger.warning("the run folder %s %s: made anew", self.path, what)
        return True

    def rewind(self, step: int) -> None:
        """Drop metrics and scores of later steps, which are trained anew."""
        for backlog in (self._metrics, self._evaluation, *self._curves):
            backlog.rewind(step)

    def close(self) -> None:
        """Write what could not be written before, if that works now; what does not is told."""
        for backlog in (self._metrics, self._evaluation, *self._curves):
            backlog.close()
        self._log.close()

    def _add(self, file: Backlog, values: dict[str, float], group: str = "") -> None:
        self.ensure()
        step = values["step"]
        values = {name: value for name, value in values.items() if name != "step"}
        file.add(step, values)
        for backlog in self._curves:
            backlog.add(step, {f"{group}{name}": value for name, value in values.items()})

    def _files(self) -> tuple[Backlog, ...]:
        return self._metrics, self._evaluation, self._curves[0]

    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for name in _PARTS:
            (self.path / name).mkdir(exist_ok=True)
        for name, text in self._texts.items():
            with replace_atomically(self.path / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the run folder {path}: {error.strerror or error}")


def environment() -> dict:
    """What a run was made with: versions, device, and the implementation of each operation."""
    return {
        "command": sys.argv,
        **find_versions(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "thread_settings": thread_settings(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "implementations": pick_implementations(),
    }
