"""Ends a run that hangs, so that whoever started it can start it again."""

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
    """A thread that ends the process with status 75 when training has stood still for too long.

    It says what training stood still at and leaves the place of every thread in stall.txt. Between two steps, as where
    no batch comes, the state is whole, and is saved first.

    Args:
        seconds: how long is too long; 0 for never. folder: where stall.txt goes. rescue: saves the state.
        leave: ends the process.
    """

    def __init__(
        self, seconds: float, folder: Path, rescue: Callable[[], None], leave: Callable[[int], None] = os._exit
    ):
        self._seconds, self._folder, self._rescue, self._leave = seconds, folder, rescue, leave
        self._ended = threading.Event()
        self._at: tuple[str, float] | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """What happens inside has `seconds` to end."""
        self._at = what, time.monotonic()
        try:
            yield
        finally:
            self._at = None

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            at = self._at
            if at is not None and time.monotonic() - at[1] > self._seconds:
                self._end(at[0])
                return

    def _end(self, what: str) -> None:
        logger.error("stood still for %g s, %s; ending with status %d", self._seconds, what, STATUS)
        faulthandler.dump_traceback(sys.stderr)
        try:
            with (self._folder / "stall.txt").open("w") as file:
                faulthandler.dump_traceback(file)
            if what == DATA:
                self._rescue()
        except Exception:  # whatever it is, the process must end
            logger.exception("the state could not be saved")
        logging.shutdown()
        sys.stderr.flush()
        self._leave(STATUS)
