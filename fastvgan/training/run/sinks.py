"""Where metrics go: a file of JSON lines, TensorBoard, Weights & Biases."""

import errno
import io
import itertools
import json
import logging
import os
import socket
import time
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.training.run.backlog import AppendedFile

logger = logging.getLogger("fastvgan")

_serial = itertools.count()


class MetricsFile:
    """A file of JSON lines, {"step": N, name: value}, by rising steps.

    Args:
        path: the file. step: how many steps are done; later lines, left by a run that was killed, are removed.
        create: make the file now, not with the first line.

    Raises:
        OSError: it cannot be written.
    """

    errors = (OSError,)

    def __init__(self, path: Path, step: int, create: bool = True):
        self.name = str(path)
        self._file = AppendedFile(path)
        self.rewind(step)
        self._begun = create or path.exists()
        if self._begun:
            self._file.append(b"")

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """What the file holds: (step, values) a line."""
        if not self._file.path.is_file():
            return []
        lines = self._file.path.read_text(encoding="utf-8").splitlines()
        return [(values.pop("step"), values) for values in map(json.loads, lines)]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a line."""
        self._file.append((json.dumps({"step": step, **values}) + "\n").encode())
        self._begun = True

    def gone(self) -> bool:
        return self._begun and not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps, and those that a kill cut off."""
        path = self._file.path
        if not path.exists():
            return
        if not path.is_file():  # a folder, or what has no end, such as /dev/full
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        data, lines = path.read_bytes(), []
        for line in data.splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line + b"\n")
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: dropped a line that was cut off: %.60s", path, line.decode(errors="replace"))
        kept = b"".join(lines)
        if data.startswith(kept):
            os.truncate(path, len(kept))  # also on a full disk, where there is no room for a second file
        else:
            with replace_atomically(path) as temporary:
                temporary.write_bytes(kept)

    def close(self) -> None:
        pass


class TensorBoard:
    """Scalars and pictures for TensorBoard, in an events file of their own.

    Written here and not by tensorboard's writer, which does so in a thread, where errors come late and end the writing.

    Args:
        folder: where the events file goes. step: how many steps are done; TensorBoard forgets later ones.

    Raises:
        OSError: it cannot be written.
    """

    errors = (OSError,)

    def __init__(self, folder: Path, step: int):
        self.name = str(folder)
        self._folder = folder
        self.rewind(step)
        self._file.append(self._head)
        self._begun = True

    def write(self, step: int, values: dict[str, float | Path | None]) -> None:
        """Add a point to the curve of each number, and the picture at each path that is there and can be read."""
        points = [_summary(name, value) for name, value in values.items() if value is not None]
        points = [point for point in points if point is not None]
        event = _record(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        self._file.append(event if self._begun and not self.gone() else self._head + event)
        self._begun = True

    def gone(self) -> bool:
        return self._begun and not self._file.path.exists()

    def rewind(self, step: int) -> None:
        """Begin another file, whose head tells TensorBoard to forget points of later steps."""
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_serial)}"
        self._file = AppendedFile(self._folder / name)
        self._head = _record(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # TensorBoard forgets the step that it is given, too.
        begin = Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._head += _record(begin)
        self._begun = False

    def close(self) -> None:
        pass


def _summary(name: str, value: float | Path) -> Summary.Value | None:
    if not isinstance(value, Path):
        return Summary.Value(tag=name, simple_value=value)
    try:
        content = value.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except OSError:  # it was removed before it was this entry's turn; nothing here would bring it back
        return None
    # TensorBoard shows a GIF moving.
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return Summary.Value(tag=name, image=image)


def _record(event: Event) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


class WandB:
    """A run at Weights & Biases, if the package is installed; WANDB_MODE and its other variables hold.

    Args:
        folder: of the run. What W&B writes itself goes there; wandb-id there holds the id, by which the same W&B run is
            gone on with. project: W&B's project. config: shown with the run.

    Raises:
        UserError: the package is missing, or W&B refuses. OSError: wandb-id cannot be read or written.
    """

    # Somebody else's service and network: nothing that they raise is worth a training run.
    errors = (Exception,)

    def __init__(self, folder: Path, project: str, config: dict):
        self.name = "Weights & Biases"
        try:
            import wandb
        except ImportError as error:
            raise UserError("--wandb needs the package wandb: pip install wandb, or leave the flag out") from error
        file = folder / "wandb-id"
        known = file.read_text(encoding="utf-8").strip() if file.exists() else None
        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=known, resume="allow", config=config, dir=str(folder)
            )
            # Its own step may only rise, and points that do not are dropped: after a rollback that would be all.
            self._run.define_metric("*", step_metric="step")
        except wandb.Error as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"--wandb: {said}; mend that, or set WANDB_MODE=offline") from error
        # WANDB_MODE=disabled gives ids that lead nowhere.
        if known is None and not getattr(self._run, "disabled", False):
            with replace_atomically(file) as temporary:
                temporary.write_text(self._run.id, encoding="utf-8")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values at a step."""
        self._run.log({"step": step, **values})

    def gone(self) -> bool:
        return False

    def rewind(self, step: int) -> None:
        """Nothing: W&B cannot drop points. Those of later steps stay, and those of the same steps anew join them."""

    def close(self) -> None:
        self._run.finish()
