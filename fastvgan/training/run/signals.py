"""Signals that end a run early, between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handle_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Pass the number of SIGINT or SIGTERM to a function within this context; a second one acts as by default.

    Python handles signals in the main thread only, so in other threads this does nothing.

    Args:
        note: called with the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        note(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
