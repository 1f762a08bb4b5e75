"""Checkpoints: a folder each, complete or absent, made of safetensors and JSON; nothing is ever unpickled.

Beside the checkpoints step-N a folder may hold, after a kill, `.unfinished-N` (being written), `.replaced-N` (about to
be overwritten) and `.removed-N` (about to be removed), which `recover` sees to; and `damaged-step-N` and
`abandoned-step-N`, which are not gone on from, and which nothing removes.
"""

import hashlib
import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.atomic import flush_to_disk
from fastvgan.files.tensor_file import parse_tensors, tensor_bytes
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.tensors import copy_into, misfit, part_of, tensors_of

logger = logging.getLogger("fastvgan")

_FORMAT = 2
_MOST_STEPS = 10**12
_TENSORS, _STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")
_UNFINISHED, _REPLACED, _REMOVED = ".unfinished-", ".replaced-", ".removed-"
_REMEDY = "name another checkpoint, or a run folder, of which the newest that is good is taken"


class Record(NamedTuple):
    """What a checkpoint says beside its tensors.

    step: how many steps are done. score: of the samples, lower is better, or None. setbacks: how often the run was
    rolled back. rate: the share of the learning rates that rollbacks left. data: which the last step was trained on;
    None in checkpoints of versions that did not note it.
    """

    step: int
    score: float | None = None
    setbacks: int = 0
    rate: float = 1.0
    data: Fingerprint | None = None


class _Fault(Exception):
    """What is wrong with a checkpoint: a clause that names the file, to which a remedy is added."""


def save(folder: Path, step: AdversarialStep, record: Record | int, keep: int) -> Path:
    """Write the state to folder/step-N, and remove all but the newest `keep` checkpoints and the one of the best score.

    The files are written to a folder of another name, flushed to the disk and renamed, so that a process killed at any
    moment leaves the checkpoints that were there, and this one whole or not at all (see `recover`).

    Args:
        record: or only its number of steps.

    Raises:
        OSError: the disk is full or cannot be written; the older checkpoints are as they were.
    """
    record = Record(record) if isinstance(record, int) else record
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    target, unfinished = folder / f"step-{record.step}", folder / f"{_UNFINISHED}{record.step}"
    try:
        unfinished.mkdir()
        _write_files(unfinished, step, record)
        _move_in(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _prune(folder, keep)
    return target


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder that were written to their end, oldest first; they may have been damaged since."""
    return [path for path in _all(folder) if (path / _STATE).is_file()]


def verify(path: Path) -> None:
    """See whether a checkpoint's files are what was written.

    Raises:
        UserError: one is missing, truncated or damaged; it names the file.
    """
    try:
        _read(path)
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault


def read_record(path: Path) -> Record:
    """What checkpoint folder `path` says beside its tensors, which are not looked at.

    Raises:
        UserError: state.json is missing, damaged or foreign.
    """
    try:
        return _read_state(path / _STATE)[0]
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault


def restore(path: Path, step: AdversarialStep) -> Record:
    """Bring networks, optimisers and counters, in place, to the state in checkpoint folder `path`.

    No tensor that is there moves; slots of optimisers that the checkpoint lacks become zero.

    Raises:
        UserError: a file is missing, truncated, damaged, foreign, or of another configuration or version; nothing has
            been changed then.
    """
    try:
        record, data = _read(path)
        tensors = _parse(path, data)
    except _Fault as fault:
        raise UserError(f"{fault}; {_REMEDY}") from fault
    if (name := misfit(step, tensors)) is not None:
        raise UserError(
            f"{path} is a checkpoint of another configuration, or of another version of fastvgan: it does not fit "
            f"{name}; train into another --run-dir"
        )
    copy_into(step, tensors)
    return record


def averaged_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state_dict of the averaged generator in checkpoint folder `path`.

    Raises:
        UserError: a file is missing, truncated, damaged or foreign; it names the file.
    """
    try:
        return part_of(_parse(path, _read(path)[1]), "ema")
    except _Fault as fault:
        raise UserError(f"{fault}; name another checkpoint") from fault


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is, or by its place is meant to be, a checkpoint."""
    real = path.resolve()
    # A run folder may lie in a folder of that name, too.
    return (path / _STATE).is_file() or (real.parent.name == "checkpoints" and _NAME.search(real.name) is not None)


def best(folder: Path) -> tuple[Path, float] | None:
    """The checkpoint of the best score and that score, of equal ones the newest; None where none has a finite score."""
    scores = {path: score for path in complete(folder) if (score := _score(path)) is not None}
    if not scores:
        return None
    path = min(reversed(scores), key=scores.__getitem__)
    return path, scores[path]


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is what was written, or None, and a sentence for each newer one that is not."""
    faults = []
    for path in reversed(_all(folder)):
        try:
            _read(path)
        except _Fault as fault:
            faults.append(str(fault))
            continue
        return path, [f"{fault}; going on from {path.name}" for fault in faults]
    return None, faults


def put_back(folder: Path) -> None:
    """Give a checkpoint its name again that was to be replaced by one that was never finished.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in folder.glob(f"{_REPLACED}*"):
        target = folder / f"step-{path.name.removeprefix(_REPLACED)}"
        if not target.exists():
            path.rename(target)


def recover(folder: Path) -> None:
    """Bring a folder in order that a process was killed over; not while another process writes there.

    Raises:
        OSError: the folder cannot be written; what merely cannot be removed is a warning.
    """
    put_back(folder)
    for prefix in (_UNFINISHED, _REPLACED, _REMOVED):
        for path in folder.glob(f"{prefix}*"):
            _delete(path)


def set_aside(folder: Path, after_step: int) -> None:
    """Rename checkpoints of later steps than `after_step`, so that nothing goes on from them: the run does without.

    Those that are damaged become damaged-step-N, others abandoned-step-N. Each is told.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in _all(folder):
        if _number(path) <= after_step:
            continue
        try:
            _read(path)
            kind = "abandoned"
        except _Fault:
            kind = "damaged"
        target = _unused(folder / f"{kind}-{path.name}")
        path.rename(target)
        flush_to_disk(folder)
        logger.warning("%s is kept as %s: the run goes on from step %d", path, target.name, after_step)


def _write_files(folder: Path, step: AdversarialStep, record: Record) -> None:
    data = tensor_bytes(tensors_of(step))
    files = {_TENSORS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    (folder / _TENSORS).write_bytes(data)
    del data
    said = record._asdict() | {"data": record.data and record.data._asdict()}
    (folder / _STATE).write_text(json.dumps({"format": _FORMAT, **said, "files": files}), encoding="utf-8")
    for path in (folder / _TENSORS, folder / _STATE, folder):
        flush_to_disk(path)


def _move_in(unfinished: Path, target: Path) -> None:
    # No folder can be replaced by another in one system call, so that the old one waits under a name `recover` knows.
    replaced = target.with_name(f"{_REPLACED}{_number(target)}")
    if target.exists():
        target.rename(replaced)
    try:
        unfinished.rename(target)
    except BaseException:
        put_back(target.parent)
        raise
    flush_to_disk(target.parent)
    if replaced.exists():
        _delete(replaced)


def _prune(folder: Path, keep: int) -> None:
    found = complete(folder)
    kept = set(found[-keep:])
    if (scored := best(folder)) is not None:
        kept.add(scored[0])
    for path in found:
        if path in kept:
            continue
        removed = folder / f"{_REMOVED}{_number(path)}"
        try:
            path.rename(removed)  # so that no kill leaves half a checkpoint under a good name
        except OSError as error:
            logger.warning("the old checkpoint %s cannot be removed: %s", path, error.strerror or error)
            continue
        _delete(removed)


def _score(path: Path) -> float | None:
    try:
        score = _read_state(path / _STATE)[0].score
    except _Fault:
        return None
    return score if score is not None and math.isfinite(score) else None


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path, error.strerror or error)


def _read(path: Path) -> tuple[Record, bytes]:
    """What a checkpoint says, and the bytes of its tensor file, which are what was written."""
    record, expected = _read_state(path / _STATE)
    file = path / _TENSORS
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise _Fault(f"{file} does not exist") from error
    except OSError as error:
        raise _Fault(f"{file} cannot be read ({error.strerror})") from error
    if expected is None:
        _parse(path, data)
    elif len(data) < expected["bytes"]:
        raise _Fault(f"{file} is truncated ({len(data):,} of {expected['bytes']:,} bytes)")
    elif len(data) > expected["bytes"]:
        raise _Fault(f"{file} is damaged ({len(data):,} bytes instead of {expected['bytes']:,})")
    elif hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise _Fault(f"{file} is damaged (its checksum is not the one in {_STATE})")
    return record, data


def _parse(path: Path, data: bytes) -> dict:
    try:
        return parse_tensors(data)
    except ValueError as error:
        raise _Fault(f"{path / _TENSORS} is truncated or no safetensors file ({error})") from error


def _read_state(path: Path) -> tuple[Record, dict | None]:
    """What state.json says, and size and checksum of the tensor file, which format 1 does not have."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] == 1:
            return Record(int(state["step"])), None
        if state["format"] != _FORMAT:
            raise _Fault(f"{path} has format {state['format']}, this version of fastvgan reads 1 to {_FORMAT}")
        file = state["files"][_TENSORS]
        score = state["score"]
        record = Record(
            int(state["step"]),
            None if score is None else float(score),
            int(state["setbacks"]),
            float(state["rate"]),
            _fingerprint(state.get("data")),
        )
        if not (0 <= record.step <= _MOST_STEPS and record.setbacks >= 0 and 0 < record.rate <= 1):
            raise ValueError(f"{record} is no state of a run")
        return record, {"sha256": str(file["sha256"]), "bytes": int(file["bytes"])}
    except OSError as error:
        raise _Fault(f"{path.parent} is no checkpoint: cannot read {path.name} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _Fault(f"{path} is damaged or foreign ({error!r:.200})") from error


def _fingerprint(said: dict | None) -> Fingerprint | None:
    if said is None:
        return None
    return Fingerprint(str(said["checksum"]), *(int(said[name]) for name in ("clips", "captions", "classes")))


def _all(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _unused(path: Path) -> Path:
    taken, count = path, 1
    while taken.exists():
        count += 1
        taken = path.with_name(f"{path.name}-{count}")
    return taken
