"""A watchdog that ends a run that hangs, so that its launcher can restart it."""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger("fastvgan")

STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
DATA, STEP = "waiting for a batch", "in a step"


class Watchdog:
    """A thread that ends the process with status 75 when training makes no progress for too long.

    It logs the activity that hangs and writes the stack of every thread to stall.txt. While training waits for a batch,
    which is between two steps, the state is consistent and is saved first. Time during which the whole process is
    stopped (Ctrl-Z, SIGSTOP, a suspended machine) does not count.

    Args:
        seconds: time limit of an activity; 0 for none.
        folder: folder of stall.txt.
        rescue: saves the state.
        leave: ends the process.
        watched: the activities that are limited; others take any time.
    """

    def __init__(
        self,
        seconds: float,
        folder: Path,
        rescue: Callable[[], None],
        leave: Callable[[int], None] = os._exit,
        watched: tuple[str, ...] = (DATA, STEP),
    ):
        self._seconds, self._folder, self._rescue, self._leave = seconds, folder, rescue, leave
        self._watched = watched
        self._pause = min(1.0, seconds / 4)
        self._clock = 0.0  # seconds that this thread has seen pass
        self._ended = threading.Event()
        self._at: tuple[str, float] | None = None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    @contextlib.contextmanager
    def watch(self, activity: str) -> Iterator[None]:
        """Limit the time within this context to `seconds`, if the activity is watched."""
        self._at = (activity, self._clock) if activity in self._watched else None
        try:
            yield
        finally:
            self._at = None

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._pause):
            now = time.monotonic()
            # A wait that took far longer means that the process was stopped.
            self._clock, last = self._clock + min(now - last, 2 * self._pause), now
            at = self._at
            # The activity began up to one pause after the time that it noted.
            if at is not None and self._clock - at[1] > self._seconds + self._pause:
                self._end(at[0])
                return

    def _end(self, activity: str) -> None:
        logger.error("no progress for %g s, %s; ending with status %d", self._seconds, activity, STATUS)
        faulthandler.dump_traceback(sys.stderr)
        try:
            with (self._folder / "stall.txt").open("w") as file:
                faulthandler.dump_traceback(file)
            if activity == DATA:
                self._rescue()
        except Exception:  # the process must end anyway
            logger.exception("cannot save the state")
        logging.shutdown()
        sys.stderr.flush()
        self._leave(STATUS)
