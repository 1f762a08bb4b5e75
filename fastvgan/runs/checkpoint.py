"""Reading checkpoints: folders step-N of safetensors and JSON, each complete or absent; nothing is ever unpickled.

`fastvgan.training.run.checkpoint` writes them and says which other folders may lie beside them.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import parse_tensors

FORMAT = 2
TENSORS, STATE = "state.safetensors", "state.json"
_MOST_STEPS = 10**12
_NAME = re.compile(r"step-(\d+)")
_REMEDY = "pass another checkpoint, or a run folder to use its newest undamaged one"


class Record(NamedTuple):
    """Contents of a checkpoint besides its tensors.

    Attributes:
        step: number of steps trained.
        score: score of the averaged generator's samples, lower is better; None without one.
        setbacks: number of times the run was rolled back.
        rate: share of the learning rates that is left after rollbacks, in (0, 1].
        data: fingerprint of the data the last step was trained on; None in checkpoints of versions that did not store
            it.
        scored_clips: number of generated clips that the score was computed from; None if unknown, as in checkpoints of
            versions that did not store it.
        on_test_frames: whether the score compares with frames that were kept for tests.
    """

    step: int
    score: float | None = None
    setbacks: int = 0
    rate: float = 1.0
    data: Fingerprint | None = None
    scored_clips: int | None = None
    on_test_frames: bool = False

    def is_comparable(self, other: "Record") -> bool:
        """Whether both scores compare with the same clips, and as many of them, as far as that is known."""
        pairs = (self.data, other.data), (self.scored_clips, other.scored_clips)
        are_same = all(a is None or b is None or a == b for a, b in pairs)
        return are_same and self.on_test_frames == other.on_test_frames

    def with_data(self, data: Fingerprint) -> "Record":
        """Return the record of the next checkpoint, trained on this data, without a score on other data."""
        return self._replace(data=data, score=self.score if self.data in (None, data) else None)


class _Fault(Exception):
    """Why a checkpoint cannot be read: a clause that names the file, without a remedy."""


class _Written(NamedTuple):
    """Checksum and size in bytes of the tensor file when it was written."""

    sha256: str
    size: int


def list_complete(folder: Path) -> list[Path]:
    """List the checkpoints in a folder whose writing was finished, oldest first; they may have been damaged since."""
    return [path for path in list_all(folder) if (path / STATE).is_file()]


def list_all(folder: Path) -> list[Path]:
    """List all folders step-N in a folder, complete or not, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=parse_step)


def parse_step(path: Path) -> int:
    """Return the N of a folder step-N."""
    return int(path.name.removeprefix("step-"))


def verify(path: Path) -> None:
    """Check the files of a checkpoint against their checksum.

    Raises:
        UserError: a file is missing, truncated or damaged; the message names it.
    """
    try:
        _read(path)
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault


def is_good(path: Path) -> bool:
    """Whether all files of a checkpoint are as they were written."""
    try:
        _read(path)
    except _Fault:
        return False
    return True


def read_record(path: Path) -> Record:
    """Read the record of checkpoint folder `path` without looking at its tensors.

    Raises:
        UserError: state.json is missing, damaged or foreign.
    """
    try:
        return _read_state(path / STATE)[0]
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault


def read(path: Path) -> tuple[Record, dict[str, torch.Tensor]]:
    """Read the record and the tensors, on the CPU, of checkpoint folder `path`.

    Returns:
        The record, and the tensors by name, of any shape and dtype; see `fastvgan.training.step.tensors`.

    Raises:
        UserError: a file is missing, truncated, damaged or foreign; the message names it.
    """
    try:
        record, data = _read(path)
        return record, _parse(path, data)
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault


def read_averaged_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the state_dict of the averaged generator, tensors of any shape, from checkpoint folder `path`.

    Raises:
        UserError: a file is missing, truncated, damaged or foreign; the message names it.
    """
    try:
        return select_prefix(_parse(path, _read(path)[1]), "ema")
    except _Fault as fault:
        raise UserError(f"{fault}; pass another checkpoint") from fault


def select_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Select the tensors (of any shape) named "prefix/KEY", by KEY."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in tensors.items() if key.startswith(f"{prefix}/")}


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, or lies where only checkpoints do."""
    real = path.resolve()
    # A run folder, too, may lie in a folder named "checkpoints".
    return (path / STATE).is_file() or (real.parent.name == "checkpoints" and _NAME.search(real.name) is not None)


def find_best(folder: Path, record: Record | None = None) -> tuple[Path, float] | None:
    """Find the checkpoint with the lowest finite score, among those whose scores can be compared.

    Args:
        folder: the run's folder of checkpoints.
        record: what the scores must be comparable with; by default the newest checkpoint that has a finite score.

    Returns:
        The checkpoint, the newest of those with equal scores, and its score; None if no such checkpoint has a finite
        score.
    """
    scored = [(path, found) for path in reversed(list_complete(folder)) if (found := _read_scored(path)) is not None]
    if not scored:
        return None
    now = record or scored[0][1]
    scores = {path: found.score for path, found in scored if found.score is not None and now.is_comparable(found)}
    path = min(scores, key=scores.__getitem__, default=None)
    return None if path is None else (path, scores[path])


def find_newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that is undamaged.

    Returns:
        The checkpoint, or None, and a sentence for each newer one that is damaged.
    """
    faults: list[str] = []
    for path in reversed(list_all(folder)):
        try:
            _read(path)
        except _Fault as fault:
            faults.append(str(fault))
            continue
        return path, [f"{fault}; using {path.name} instead" for fault in faults]
    return None, faults


def _read_scored(path: Path) -> Record | None:
    """Read a checkpoint's record; None if it is damaged or has no finite score."""
    try:
        record = _read_state(path / STATE)[0]
    except _Fault:
        return None
    return record if record.score is not None and math.isfinite(record.score) else None


def _read(path: Path) -> tuple[Record, bytes]:
    """Read the record and the verified bytes of the tensor file."""
    record, expected = _read_state(path / STATE)
    file = path / TENSORS
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise _Fault(f"{file} does not exist") from error
    except OSError as error:
        raise _Fault(f"{file} cannot be read ({error.strerror})") from error
    if expected is None:
        _parse(path, data)
    elif len(data) < expected.size:
        raise _Fault(f"{file} is truncated ({len(data):,} of {expected.size:,} bytes)")
    elif len(data) > expected.size:
        raise _Fault(f"{file} is damaged ({len(data):,} bytes instead of {expected.size:,})")
    elif hashlib.sha256(data).hexdigest() != expected.sha256:
        raise _Fault(f"{file} is damaged (its checksum differs from the one in {STATE})")
    return record, data


def _parse(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        return parse_tensors(data)
    except ValueError as error:
        raise _Fault(f"{path / TENSORS} is truncated or no safetensors file ({error})") from error


def _read_state(path: Path) -> tuple[Record, _Written | None]:
    """Read state.json: the record, and size and checksum of the tensor file, which format 1 lacks."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] == 1:
            return Record(int(state["step"])), None
        if state["format"] != FORMAT:
            raise _Fault(f"{path} has format {state['format']}; this version of fastvgan reads formats 1 to {FORMAT}")
        file = state["files"][TENSORS]
        score, scored_clips = state["score"], state.get("scored_clips")
        record = Record(
            int(state["step"]),
            None if score is None else float(score),
            int(state["setbacks"]),
            float(state["rate"]),
            _parse_fingerprint(state.get("data")),
            None if scored_clips is None else int(scored_clips),
            bool(state.get("on_test_frames", False)),
        )
        if not (0 <= record.step <= _MOST_STEPS and record.setbacks >= 0 and 0 < record.rate <= 1):
            raise ValueError(f"{record} is outside the valid range")
        return record, _Written(str(file["sha256"]), int(file["bytes"]))
    except OSError as error:
        raise _Fault(f"{path.parent} is no checkpoint: cannot read {path.name} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _Fault(f"{path} is damaged or foreign ({error!r:.200})") from error


def _parse_fingerprint(values: dict[str, Any] | None) -> Fingerprint | None:
    if values is None:
        return None
    return Fingerprint(str(values["checksum"]), *(int(values[name]) for name in ("clips", "captions", "classes")))
