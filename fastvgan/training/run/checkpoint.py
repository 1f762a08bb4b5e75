"""Writing and restoring checkpoints; `fastvgan.runs.checkpoint` reads them.

Besides the checkpoints step-N a folder may hold, after a kill, `.unfinished-N` (was being written), `.replaced-N` (was
about to be overwritten) and `.removed-N` (was about to be removed), which `recover` cleans up; and `damaged-step-N` and
`abandoned-step-N`, which no run resumes from and nothing removes.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from fastvgan.errors import UserError
from fastvgan.files.atomic import flush_to_disk
from fastvgan.files.tensor_file import tensor_bytes
from fastvgan.runs.checkpoint import (
    FORMAT,
    STATE,
    TENSORS,
    Record,
    find_best,
    is_good,
    list_all,
    list_complete,
    parse_step,
    read,
)
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.tensors import copy_into, find_misfit, tensors_of

logger = logging.getLogger("fastvgan")

_UNFINISHED, _REPLACED, _REMOVED = ".unfinished-", ".replaced-", ".removed-"


def save(folder: Path, step: AdversarialStep, record: Record | int, keep: int) -> Path:
    """Write the state to folder/step-N, and remove all but the newest `keep` checkpoints and the one of `find_best`.

    The files are written to a folder of another name, flushed to the disk and renamed. A process killed at any moment
    thus leaves the older checkpoints untouched, and the new one complete or absent (see `recover`).

    Args:
        folder: the run's folder of checkpoints, created if missing.
        step: networks and optimisers to save.
        record: the rest of the state, or only its number of steps.
        keep: number of newest checkpoints to keep.

    Returns:
        The new checkpoint's folder.

    Raises:
        OSError: the disk is full or cannot be written; the older checkpoints are unchanged.
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


def restore(path: Path, step: AdversarialStep) -> Record:
    """Restore networks, optimisers and counters, in place, from checkpoint folder `path`.

    No existing tensor moves; slots of optimisers that the checkpoint lacks become zero.

    Returns:
        The checkpoint's record.

    Raises:
        UserError: a file is missing, truncated, damaged, foreign, or of another configuration or version; the step is
            unchanged then.
    """
    record, tensors = read(path)
    if (name := find_misfit(step, tensors)) is not None:
        raise UserError(
            f"{path} was written with another configuration, or by another version of fastvgan: {name} does not fit; "
            "train into another --run-dir"
        )
    copy_into(step, tensors)
    return record


def put_back(folder: Path) -> None:
    """Rename a checkpoint back that was moved away for a new one whose writing was never finished.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in folder.glob(f"{_REPLACED}*"):
        target = folder / f"step-{path.name.removeprefix(_REPLACED)}"
        if not target.exists():
            path.rename(target)


def recover(folder: Path) -> None:
    """Clean up a folder of checkpoints after a kill; no other process may be writing there.

    Raises:
        OSError: the folder cannot be written; leftovers that cannot be removed are a warning only.
    """
    put_back(folder)
    for prefix in (_UNFINISHED, _REPLACED, _REMOVED):
        for path in folder.glob(f"{prefix}*"):
            _delete(path)


def set_aside(folder: Path, after_step: int) -> None:
    """Rename the checkpoints of later steps than `after_step`, so that no run resumes from them, and log each.

    Damaged ones become damaged-step-N, others abandoned-step-N.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in list_all(folder):
        if parse_step(path) <= after_step:
            continue
        kind = "abandoned" if is_good(path) else "damaged"
        target = _find_unused(folder / f"{kind}-{path.name}")
        path.rename(target)
        flush_to_disk(folder)
        logger.warning("%s is kept as %s: the run continues from step %d", path, target.name, after_step)


def _write_files(folder: Path, step: AdversarialStep, record: Record) -> None:
    data = tensor_bytes(tensors_of(step))
    files = {TENSORS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    (folder / TENSORS).write_bytes(data)
    del data
    values = record._asdict() | {"data": record.data and record.data._asdict()}
    (folder / STATE).write_text(json.dumps({"format": FORMAT, **values, "files": files}), encoding="utf-8")
    for path in (folder / TENSORS, folder / STATE, folder):
        flush_to_disk(path)


def _move_in(unfinished: Path, target: Path) -> None:
    # No system call replaces a folder by another, so the old one waits under a name that `recover` knows.
    replaced = target.with_name(f"{_REPLACED}{parse_step(target)}")
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
    found = list_complete(folder)
    kept = set(found[-keep:])
    if (best := find_best(folder)) is not None:
        kept.add(best[0])
    for path in found:
        if path in kept:
            continue
        removed = folder / f"{_REMOVED}{parse_step(path)}"
        try:
            path.rename(removed)  # so that no kill leaves half a checkpoint under a good name
        except OSError as error:
            logger.warning("cannot remove the old checkpoint %s: %s", path, error.strerror or error)
            continue
        _delete(removed)


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("cannot remove %s: %s", path, error.strerror or error)


def _find_unused(path: Path) -> Path:
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate
