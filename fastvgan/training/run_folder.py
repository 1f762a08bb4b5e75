"""The folder a run writes to, and what it writes beside checkpoints: configuration, environment, logs and metrics."""

import json
import logging
import platform
import shutil
import sys
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

import fastvgan
from fastvgan.errors import UserError
from fastvgan.training.config import RunConfig
from fastvgan.training.device import pick_implementations

logger = logging.getLogger("fastvgan")
RUNS = Path("runs")


def newest_run() -> Path | None:
    """The run folder under ./runs that was begun or taken up last, or None."""
    runs = [path.parent for path in RUNS.glob("*-*/config.yaml")]
    return max(runs, key=lambda path: (path / "config.yaml").stat().st_mtime, default=None)


def new_run(name: str) -> Path:
    """A run folder that is not there yet: runs/name-1, runs/name-2 and so on."""
    taken = [
        int(path.name.rpartition("-")[2]) for path in RUNS.glob(f"{name}-*") if path.name.rpartition("-")[2].isdigit()
    ]
    return RUNS / f"{name}-{max(taken, default=0) + 1}"


class RunFolder:
    """A run's folder, open for writing.

    Args:
        path: the folder; made if it is not there.
        config: written to config.yaml.
        step: how many steps are done; metrics of later steps, left by a run that was killed, are removed.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path, config: RunConfig, step: int):
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in ("samples", "checkpoints", "export"):
                (path / name).mkdir(exist_ok=True)
            for left_over in (path / "checkpoints").glob(".unfinished-*"):
                shutil.rmtree(left_over)
            _write(path / "config.yaml", config.to_yaml())
            _write(path / "env.json", json.dumps(environment(), indent=2))
            _keep_until(path / "metrics.jsonl", step)
            self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8")
            self._handler = logging.FileHandler(path / "log.txt", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(path / "tb"), purge_step=step)
        except OSError as error:
            raise UserError(f"cannot write the run folder {path}: {error.strerror or error}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for name in ("fastvgan", "fastvgan_kernels"):
            logging.getLogger(name).addHandler(self._handler)

    def metrics(self, values: dict[str, float]) -> None:
        """Add a line to metrics.jsonl and points to TensorBoard; `values` has "step" among its keys."""
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            if name != "step":
                self._tensorboard.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self._metrics.close()
        self._tensorboard.close()
        for name in ("fastvgan", "fastvgan_kernels"):
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()


def environment() -> dict:
    """What a run was made with: versions, device, and the implementation of each operation."""
    return {
        "command": sys.argv,
        "fastvgan": fastvgan.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "implementations": pick_implementations(),
    }


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):  # a last line cut off by the kill that ended the run
            logger.warning("%s: dropped a line that was cut off: %.60s", path, line)
    _write(path, "".join(kept))
