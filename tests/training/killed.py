"""What runs in the processes that test_kill.py kills."""

import logging
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch._dynamo  # noqa: F401  which the first step of an optimiser takes a second to import
from tiny import Unscored, tiny
from toy import Toy

import fastvgan.data.digits  # noqa: F401  which takes a second
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import checkpoint, output, samples
from fastvgan.training.run.checkpoint import Record
from fastvgan.training.run.resume import find_start

_CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}  # names of Python's audit events
FINISHED, SAVED = 0, 1


def train(folder: Path, steps: int, progress, die_at: int | None = None) -> None:
    """Resume the folder's run with a checkpoint after each step, and little else that takes time.

    Args:
        progress: two shared integers, the last step that was finished, and the last one whose save was.
        die_at: at which call to the system within the first save to die, or else right after it.
    """
    _quiet()
    save = checkpoint.save

    def save_and_count(where, step, record, keep):
        progress[FINISHED] = record.step
        with kill_at(die_at):
            path = save(where, step, record, keep)
        progress[SAVED] = record.step
        if die_at is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    checkpoint.save = save_and_count
    output.Scoring, output.write_report = Unscored, lambda folder: None
    samples._POOL, samples._ROUNDS = 16, 1
    config = tiny(steps=steps, checkpoint_every=1, keep=2, sample_every=10**6)
    sys.exit(TrainingLoop(config, find_start("t", folder, "auto")).run())


def save_toy(folder: Path, number: int, trained: int, die_at: int | None) -> None:
    """Save a `Toy` that was trained for so many steps, and die on the way."""
    _quiet()
    toy = Toy().train(trained)
    with kill_at(die_at):
        checkpoint.save(folder, toy, Record(number), keep=2)


@contextmanager
def kill_at(count: int | None):
    """Kill this process before the count-th call inside that changes a file or folder, or flushes one; None: never."""
    if count is None:
        yield
        return
    left, fsync = count, os.fsync

    def note(event, _):
        nonlocal left
        if event in _CALLS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def note_fsync(handle):
        note("open", handle)
        fsync(handle)

    os.fsync = note_fsync
    sys.addaudithook(note)  # for good; but past the end it only counts on below zero
    yield
    left, os.fsync = 0, fsync


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
