"""Reduce the number of torch threads while other processes keep processors busy.

The threads wait for each other some thousand times per step, so one thread that shares its processor with another
process delays all. On two processors beside one busy process, a step of the default run takes 9 times as long as alone
with two threads, 60 times if they spin while waiting, and 1.5 times with one thread (bench/beside.py). The number of
threads affects the last bits of results, so a run in which it changes is not reproducible bit by bit.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from fastvgan.machine.threads import bound_to, is_count_named

_PROC = Path("/proc")
_SHORTEST = 2.0  # seconds over which the processors are watched before anything is decided


class Usage(NamedTuple):
    """Processor time used up to a moment, in seconds.

    Attributes:
        moment: time of a monotonic clock.
        busy: time used by all processes on the processors that this process may run on.
        own: time used by this process and its child processes.
    """

    moment: float
    busy: float
    own: float


class Neighbours:
    """Measures how busy other processes keep the processors that this process may run on."""

    def __init__(self):
        self._before = usage()

    def count_busy(self) -> float | None:
        """Return how many processors others kept busy, on average since the last measurement.

        Returns:
            Between 0 and the number of processors; None within 2 seconds of the last measurement, or if unknown.
        """
        if self._before is None or monotonic() - self._before.moment < _SHORTEST:
            return None
        now = usage()
        if now is None:
            return None
        passed, busy, own = (after - before for after, before in zip(now, self._before, strict=True))
        self._before = now
        return min(max(0.0, (busy - own) / passed), float(len(bound_to())))


def usage() -> Usage | None:
    """Return the processor time used up to now; None if the system does not report it (outside Linux)."""
    try:
        lines = (_PROC / "stat").read_text().splitlines()
        live = sum(_seconds_of(child.pid) for child in multiprocessing.active_children() if child.pid is not None)
    except OSError:
        return None
    names, busy = {f"cpu{number}" for number in bound_to()}, 0
    for line in lines:
        name, *ticks = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts = map(int, ticks[:7])
            busy += user + nice + system + interrupts + soft_interrupts
    return Usage(monotonic(), busy / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]) + live)


def _seconds_of(process: int) -> float:
    """Return the processor time of a child process and its ended children; 0 if the process has ended."""
    try:
        text = (_PROC / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()  # the name in parentheses may contain spaces
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class ThreadFitter:
    """Fits the number of torch threads to the processors that other processes leave free."""

    def __init__(self):
        self._neighbours, self._most = Neighbours(), 0

    def fit(self) -> str | None:
        """Set the number of threads, between 1 and the initial number. Return a message if it changed."""
        busy = self._neighbours.count_busy()
        if busy is None:
            return None
        import torch

        before, total = torch.get_num_threads(), len(bound_to())
        self._most = max(self._most, before)
        count = min(self._most, max(1, int(total - busy + 0.5)))
        if count == before:
            return None
        torch.set_num_threads(count)
        threads = f"{count} thread{'s' if count > 1 else ''}"
        if count == self._most:
            return f"cpu: {threads} again, since other processes have left the processors"
        return f"cpu: {threads} of {self._most}, since other processes keep {busy:.1f} of {total} processors busy"


_fitter: ThreadFitter | None = None


def watch_neighbours() -> None:
    """Start measuring other processes, for `fit_threads`; call it before torch is imported.

    Does nothing if the user set the number of threads, or if torch is loaded already.
    """
    global _fitter
    if not is_count_named() and "torch" not in sys.modules:
        _fitter = ThreadFitter()


def fit_threads() -> str | None:
    """Fit the number of torch threads to the free processors, if `watch_neighbours` started measuring.

    Returns:
        A message if the number changed, else None.
    """
    return _fitter.fit() if _fitter else None
