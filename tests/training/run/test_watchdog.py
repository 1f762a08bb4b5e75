"""A run that stands still is ended, with its state saved where it is whole."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from commands import ROOT

from fastvgan.runs.checkpoint import list_complete
from fastvgan.training.run.watchdog import DATA, STATUS, STEP, Watchdog


class _Clock:
    """A clock that only the test moves, so that a slow machine makes no activity longer."""

    def __init__(self):
        self.now, self._looked = 0.0, threading.Event()

    def monotonic(self):
        """Returns the clock's time in seconds, as `time.monotonic` does."""
        self._looked.set()
        return self.now

    def seen(self):
        """Wait until the watchdog has looked at the clock, and has done what it does then."""
        for _ in range(2):
            self._looked.clear()
            assert self._looked.wait(60)

    def move(self, seconds):
        """Move the clock, and wait until the watchdog has seen it."""
        self.now += seconds
        self.seen()


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr("fastvgan.training.run.watchdog.time", clock)
    return clock


@pytest.mark.parametrize(("what", "saved"), [(DATA, 1), (STEP, 0)])
def test_what_takes_too_long_ends_the_process(tmp_path, what, saved, caplog, clock):
    rescued, left = [], threading.Event()
    statuses = []

    def leave(status):
        statuses.append(status)
        left.set()

    with Watchdog(0.2, tmp_path, lambda: rescued.append(1), leave) as watchdog:
        clock.seen()
        for _ in range(5):
            with watchdog.watch(what):
                clock.move(0.1)
        with watchdog.watch(what):
            clock.move(0.1)
            clock.move(0.1)
            assert not left.is_set()
            clock.now += 0.1
            assert left.wait(60)
    assert statuses == [STATUS] == [75] and len(rescued) == saved
    assert "test_watchdog" in (tmp_path / "stall.txt").read_text()
    assert f"no progress for 0.2 s, {what}; ending with status 75" in caplog.text


def test_what_is_not_watched_takes_any_time(tmp_path, clock):
    left = threading.Event()
    with Watchdog(0.2, tmp_path, lambda: None, lambda status: left.set(), (DATA,)) as watchdog:
        clock.seen()
        with watchdog.watch(STEP):
            for _ in range(10):
                clock.move(0.1)
        assert not left.is_set() and not (tmp_path / "stall.txt").exists()
        with watchdog.watch(DATA):
            for _ in range(2):
                clock.move(0.1)
            clock.now += 0.1
            assert left.wait(60)


def test_it_ends_the_process_even_if_nothing_can_be_saved(tmp_path, caplog):
    left = threading.Event()

    def rescue():
        raise OSError(28, "No space left on device")

    with Watchdog(0.2, tmp_path / "missing", rescue, lambda status: left.set()) as watchdog:
        with watchdog.watch(DATA):
            assert left.wait(60)
    assert "cannot save the state" in caplog.text


def test_an_activity_is_not_ended_before_its_limit(tmp_path):
    ended, left = [], threading.Event()

    def leave(status):
        ended.append(time.monotonic())
        left.set()

    with Watchdog(0.4, tmp_path, lambda: None, leave) as watchdog:
        time.sleep(0.08)  # most of the time between two looks at the clock
        begun = time.monotonic()
        with watchdog.watch(STEP):
            assert left.wait(60)
    assert ended[0] - begun >= 0.4


def test_without_seconds_there_is_none(tmp_path):
    with Watchdog(0, tmp_path, lambda: None, lambda status: pytest.fail("ended")) as watchdog:
        with watchdog.watch(DATA):
            time.sleep(0.3)


_WAITS = """
from pathlib import Path
from fastvgan.training.run.watchdog import STEP, Watchdog

with Watchdog(2, Path("."), lambda: None) as watchdog, watchdog.watch(STEP):
    print("watched", flush=True)
    input()
"""


@pytest.mark.parametrize(("stopped", "status"), [(6, 0), (0, STATUS)])
def test_time_while_the_process_is_stopped_does_not_count(tmp_path, stopped, status):
    line = [sys.executable, "-c", _WAITS]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, env=env, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdout.readline() == "watched\n"
        if stopped:
            process.send_signal(signal.SIGSTOP)
            time.sleep(stopped)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(60) == status


# A loader that stops giving batches after ten.
_STALLS = """
import itertools, sys, threading
from fastvgan.data.digits import DigitsSource
from fastvgan.command_line import run_command
from fastvgan.train import main

batches = DigitsSource.batches

def stalling(self, size, *rest):
    yield from itertools.islice(batches(self, size, *rest), 10)
    threading.Event().wait()

DigitsSource.batches, DigitsSource.draws = stalling, 0
run_command(main)
"""


def test_a_stalled_loader_ends_the_run_with_status_75_and_costs_no_step(tmp_path):
    flags = ["--base-width", "2", "--batch-size", "4", "--precision", "fp32", "--steps", "99", "--watchdog", "3"]
    done = subprocess.run(
        [sys.executable, "-c", _STALLS, *flags, "--run-dir", str(tmp_path / "r")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == STATUS, done.stderr
    assert "no progress for 3 s, waiting for a batch; ending with status 75" in done.stderr
    assert [path.name for path in list_complete(tmp_path / "r" / "checkpoints")] == ["step-10"]
    assert "stalling" in (tmp_path / "r" / "stall.txt").read_text()
