"""The run folder and its files besides checkpoints: configuration, environment, log and metrics."""

import json
import logging
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.lock import FolderLock
from fastvgan.machine.device import pick_implementations
from fastvgan.machine.optional import check_installed, install_command, is_installed
from fastvgan.machine.threads import thread_settings
from fastvgan.machine.versions import find_versions
from fastvgan.runs.config import RunConfig
from fastvgan.training.run import checkpoint
from fastvgan.training.run.backlog import Backlog, describe_error
from fastvgan.training.run.log_file import LogFile
from fastvgan.training.run.samples import set_samples_aside
from fastvgan.training.run.sinks import MetricsFile, TensorBoard, WandB

logger = logging.getLogger("fastvgan")
_PARTS = ("samples", "checkpoints", "export")
_SCORES = "evaluation/"  # starts the names of the scores' curves


class RunFolder:
    """A run's folder, open for writing.

    Once it is open no method raises an OSError: failed writes are logged once, kept in memory and retried.

    Args:
        path: the folder, created if missing.
        config: settings, written to config.yaml.
        step: number of steps done; metrics of later steps are removed, and their checkpoints and samples renamed (see
            `checkpoint.set_aside`).
        wandb: project at Weights & Biases to log metrics to, or None.
        data: fingerprint of the data, written to env.json.
        next_folder: returns another folder, or raises UserError, if `path` holds a run; None if that run continues.

    Attributes:
        path: the folder that is written.

    Raises:
        UserError: the folder cannot be created or written, another process writes it, or W&B is not available.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        step: int,
        wandb: str | None = None,
        data: Fingerprint | None = None,
        next_folder: Callable[[], Path] | None = None,
    ):
        if wandb is not None:
            check_installed(*WandB.needs)
        facts = read_environment() | {"data": data and f"{data}, checksum {data.short}"}
        self._texts = {"config.yaml": config.to_yaml(), "env.json": json.dumps(facts, indent=2)}
        self._is_missing = False
        try:
            self.path = path = path if next_folder is None else self._claim(path, next_folder)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(path)
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            self._create()
            self._log = LogFile(path / "log.txt")
        except OSError as error:
            self._lock.release()
            raise _cannot_write(path, error) from error
        try:
            checkpoint.recover(path / "checkpoints")
            checkpoint.set_aside(path / "checkpoints", step)
            set_samples_aside(path / "samples", step)
            lines = MetricsFile(path / "metrics.jsonl", step)
            scores = MetricsFile(path / "evaluation.jsonl", step, create=False)
            known, known_scores = lines.read(), scores.read()
            self._metrics, self._evaluation = Backlog(lines, known), Backlog(scores, known_scores)
            curves = known + [(number, _curves_of(_SCORES, values)) for number, values in known_scores]
            self._tensorboard = _open_tensorboard(path / "tb", step, curves)
            self._curves = [] if self._tensorboard is None else [self._tensorboard]
            if wandb is not None:
                self._curves.append(Backlog(WandB(path, wandb, config.model_dump(mode="json"))))
        except OSError as error:
            self._leave()
            raise _cannot_write(path, error) from error
        except UserError:
            self._leave()
            raise

    def add_metrics(self, values: dict[str, float]) -> None:
        """Add a line to metrics.jsonl and points to the curves; `values` includes "step"."""
        self._add(self._metrics, values)

    def add_evaluation(self, values: dict[str, float]) -> None:
        """Add a line to evaluation.jsonl and points to the curves; `values` includes "step".

        The names of the curves start with "evaluation/", which separates them from metrics of the same name.
        """
        self._add(self._evaluation, values, _SCORES)

    def add_samples(self, step: int, path: Path) -> None:
        """Add a picture of samples, .gif or .png, to TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.add(step, {"samples": path})

    def ensure(self) -> bool:
        """Rebuild the folder and its files if they have vanished, metrics and log from memory.

        Returns:
            Whether the folder exists.
        """
        missing = [name for name in (*_PARTS, *self._texts) if not (self.path / name).exists()]
        if not missing and not self._is_missing:
            return True
        state = f"lacks {', '.join(missing)}" if self.path.exists() and missing else "has vanished"
        try:
            self._create()
        except OSError as error:
            is_new, self._is_missing = not self._is_missing, True
            for backlog in (self._log.backlog, *self._files()):
                backlog.is_quiet = True
            if is_new:
                logger.warning(
                    "the run folder %s %s and cannot be rebuilt: %s; training continues and retries that",
                    *(self.path, state, describe_error(error)),
                )
            return False
        self._is_missing = False
        for part in (self._log, *self._files()):  # not the log's backlog, which needs the log's lock
            part.flush()
        for backlog in (self._log.backlog, *self._files()):
            backlog.is_quiet = False
        logger.warning("the run folder %s %s: rebuilt it", self.path, state)
        return True

    def rewind(self, step: int) -> None:
        """Drop metrics and scores of later steps, which are trained again."""
        for backlog in (self._metrics, self._evaluation, *self._curves):
            backlog.rewind(step)

    def close(self) -> None:
        """Retry failed writes a last time, and log what is lost."""
        for backlog in (self._metrics, self._evaluation, *self._curves):
            backlog.close()
        self._leave()

    def _leave(self) -> None:
        self._log.close()
        self._lock.release()

    def _add(self, file: Backlog, values: dict[str, float], group: str = "") -> None:
        self.ensure()
        step = values["step"]
        values = {name: value for name, value in values.items() if name != "step"}
        file.add(step, values)
        for backlog in self._curves:
            backlog.add(step, _curves_of(group, values))

    def _files(self) -> tuple[Backlog, ...]:
        tensorboard = () if self._tensorboard is None else (self._tensorboard,)
        return self._metrics, self._evaluation, *tensorboard

    def _claim(self, path: Path, next_folder: Callable[[], Path]) -> Path:
        """Create config.yaml in the first folder that has none; no other run can begin there since."""
        while True:
            path.mkdir(parents=True, exist_ok=True)
            try:
                with (path / "config.yaml").open("x", encoding="utf-8") as file:
                    file.write(self._texts["config.yaml"])
            except FileExistsError:
                path = next_folder()
            else:
                return path

    def _create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for name in _PARTS:
            (self.path / name).mkdir(exist_ok=True)
        for name, text in self._texts.items():
            with replace_atomically(self.path / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _curves_of(group: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{group}{name}": value for name, value in values.items()}


def _open_tensorboard(folder: Path, step: int, known: list[tuple[int, dict[str, float]]]) -> Backlog | None:
    """Open the events file, or log that the package tensorboard is not installed and return None."""
    if not is_installed("tensorboard"):
        logger.warning("no %s: the package tensorboard is not installed (%s)", folder, install_command("train"))
        return None
    return Backlog(TensorBoard(folder, step), sorted(known, key=lambda x: x[0]))


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the run folder {path}: {error.strerror or error}")


def read_environment() -> dict[str, Any]:
    """Collect versions, device, and the implementation of each operation."""
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
