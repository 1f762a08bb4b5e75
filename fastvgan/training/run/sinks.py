"""Destinations of metrics: a file of JSON lines, TensorBoard, Weights & Biases."""

import errno
import functools
import io
import itertools
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.machine.optional import require
from fastvgan.training.run.backlog import AppendedFile

logger = logging.getLogger("fastvgan")

_serial = itertools.count()


class MetricsFile:
    """A file of JSON lines {"step": N, name: value} by increasing step.

    Args:
        path: the file.
        step: number of steps done; lines of later steps, left by a killed run, are removed.
        create: whether to create the file at once instead of with the first line.

    Raises:
        OSError: the file cannot be written.
    """

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path, step: int, create: bool = True):
        self.name = str(path)
        self._file = AppendedFile(path)
        self.rewind(step)
        self._begun = create or path.exists()
        if self._begun:
            self._file.append(b"")

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Read (step, values) of each line."""
        if not self._file.path.is_file():
            return []
        lines = self._file.path.read_text(encoding="utf-8").splitlines()
        return [(values.pop("step"), values) for values in map(json.loads, lines)]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a line."""
        self._file.append((json.dumps({"step": step, **values}) + "\n").encode())
        self._begun = True

    def is_gone(self) -> bool:
        """Whether the file has been removed."""
        return self._begun and not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Remove the lines of later steps, and truncated ones."""
        path = self._file.path
        if not path.exists():
            return
        if not path.is_file():  # a folder, or an endless file such as /dev/full
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data, lines = path.read_bytes(), []
        for line in data.splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line + b"\n")
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: removed a truncated line: %.60s", path, line.decode(errors="replace"))
        kept = b"".join(lines)
        if data.startswith(kept):
            os.truncate(path, len(kept))  # works on a full disk, which has no room for a second file
        else:
            with replace_atomically(path) as temporary:
                temporary.write_bytes(kept)

    def close(self) -> None:
        """Do nothing: the file is closed after each entry."""


class TensorBoard:
    """Scalars and pictures for TensorBoard, in an events file.

    Unlike tensorboard's writer, whose thread reports errors late and then stops, this one raises them at once.

    Args:
        folder: folder of the events file.
        step: number of steps done; TensorBoard drops points of later steps.

    Raises:
        UserError: the package tensorboard is not installed.
        OSError: the file cannot be written.
    """

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path, step: int):
        self._types = _event_types()
        self.name = str(folder)
        self._folder = folder
        self.rewind(step)
        self._file.append(self._head)
        self._begun = True

    def write(self, step: int, values: dict[str, float | Path | None]) -> None:
        """Add a point to the curve of each number, and the picture of each path that can be read."""
        types = self._types
        made = [_summary(types.summary, name, value) for name, value in values.items() if value is not None]
        points = [point for point in made if point is not None]
        event = types.record(wall_time=time.time(), step=step, summary=types.summary(value=points))
        self._file.append(event if self._begun and not self.is_gone() else self._head + event)
        self._begun = True

    def is_gone(self) -> bool:
        """Whether the file has been removed."""
        return self._begun and not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Start another file, whose header makes TensorBoard drop points of later steps."""
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_serial)}"
        self._file = AppendedFile(self._folder / name)
        types = self._types
        self._head = types.record(wall_time=time.time(), file_version="brain.Event:2")
        # TensorBoard drops the given step, too.
        log = types.session_log(status=types.session_log.START)
        self._head += types.record(wall_time=time.time(), step=step + 1, session_log=log)
        self._begun = False

    def close(self) -> None:
        """Do nothing: the file is closed after each entry."""


class _EventTypes(NamedTuple):
    """Classes that protobuf creates when tensorboard is imported."""

    event: Any
    session_log: Any
    summary: Any
    writer: Any

    def record(self, **fields: Any) -> bytes:
        """Return an event with these fields as a record of an events file."""
        buffer = io.BytesIO()
        self.writer(buffer).write(self.event(**fields).SerializeToString())
        return buffer.getvalue()


@functools.cache
def _event_types() -> _EventTypes:
    modules = ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.record_writer")
    event, summary, writer = (require(f"tensorboard.{name}", "train", "the folder tb/") for name in modules)
    return _EventTypes(event.Event, event.SessionLog, summary.Summary, writer.RecordWriter)


def _summary(types: Any, name: str, value: float | Path) -> Any:
    """Return the summary of a value, or None for a picture that cannot be read; `types` is protobuf's Summary."""
    if not isinstance(value, Path):
        return types.Value(tag=name, simple_value=value)
    try:
        content = value.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except OSError:  # it was removed before this entry was written
        return None
    # TensorBoard animates GIFs.
    image = types.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return types.Value(tag=name, image=image)


class WandB:
    """A run at Weights & Biases; WANDB_MODE and its other environment variables apply.

    Args:
        folder: the run folder, which W&B writes to; its file wandb-id holds the id by which a resumed run continues the
            same W&B run.
        project: W&B's project.
        config: settings shown with the run.

    Raises:
        UserError: the package is missing, or W&B raises an error.
        OSError: wandb-id cannot be read or written.
    """

    needs = ("wandb", "wandb", "--wandb", "omit the flag")
    """What `fastvgan.machine.optional.require` is called with."""
    # No failure of this service or of the network may end training.
    errors: tuple[type[Exception], ...] = (Exception,)

    def __init__(self, folder: Path, project: str, config: dict[str, Any]):
        self.name = "Weights & Biases"
        wandb: Any = require(*self.needs)
        file = folder / "wandb-id"
        known = file.read_text(encoding="utf-8").strip() if file.exists() else None
        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=known, resume="allow", config=config, dir=str(folder)
            )
            # W&B drops points whose built-in step does not increase: after a rollback, all of them.
            self._run.define_metric("*", step_metric="step")
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"--wandb: {reason}; fix that, or set WANDB_MODE=offline") from error
        # The ids of WANDB_MODE=disabled belong to no run.
        if known is None and not getattr(self._run, "disabled", False):
            with replace_atomically(file) as temporary:
                temporary.write_text(self._run.id, encoding="utf-8")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values at a step."""
        self._run.log({"step": step, **values})

    def is_gone(self) -> bool:
        """Return False: the service keeps what was logged."""
        return False

    def rewind(self, step: int) -> None:
        """Do nothing: W&B cannot drop points, so a step trained again has two."""

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()
