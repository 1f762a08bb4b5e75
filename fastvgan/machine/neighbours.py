"""How many processors other processes keep busy, and fewer threads of torch's while they do.

Torch's threads wait for each other some thousand times in a step, so that one which shares its processor with another
process holds up all. On two processors, beside one busy process, a step of the default run by two threads takes 9 times
as long as alone, 60 times if they spin while they wait, and by one thread 1.5 times (bench/beside.py). How many threads
compute decides the last bits of results, so that those of a run whose number was changed do not repeat.
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
    """What was used of the processors up to a moment, in seconds.

    moment: of a clock. busy: of processors that this process may run on, by all processes. own: by this one and its
    child processes.
    """

    moment: float
    busy: float
    own: float


class Neighbours:
    """Watches what other processes use of the processors that this one may run on."""

    def __init__(self):
        self._before = usage()

    def count_busy(self) -> float | None:
        """How many processors others kept busy since the last answer, or since this was made.

        Returns:
            Between 0 and the number of processors; None where that was less than 2 seconds ago or cannot be known.
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
    """What was used up to now; None where the system does not tell, as outside of Linux."""
    try:
        lines = (_PROC / "stat").read_text().splitlines()
        live = sum(_seconds_of(child.pid) for child in multiprocessing.active_children())
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
    """What a child process used, and those of its own that have ended; 0 where it has ended itself."""
    try:
        text = (_PROC / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class ThreadFitter:
    """Keeps the number of torch's threads to the processors that other processes leave."""

    def __init__(self):
        self._neighbours, self._most = Neighbours(), 0

    def fit(self) -> str | None:
        """Set the number, at least 1 and at most what torch had at first; gives a sentence where it changed."""
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
    """Begin to watch the processors, so that `fit_threads` fits; for commands, before they import torch.

    Nothing is watched where the user named how many threads there are to be, or where torch is loaded already.
    """
    global _fitter
    if not is_count_named() and "torch" not in sys.modules:
        _fitter = ThreadFitter()


def fit_threads() -> str | None:
    """Have torch compute by as many threads as other processes leave processors, if these are watched.

    Returns:
        A sentence where the number changed, else None.
    """
    return _fitter.fit() if _fitter else None
