"""Whether what the host launches is for a CUDA graph, which replays it at no cost of the host's."""

from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0  # of the process, not of a thread: autograd runs backward passes in threads of its own


@contextmanager
def launches_are_captured() -> Iterator[None]:
    """Within it, what is launched is captured in a CUDA graph, or warms up for that and must choose as the capture."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def are_launches_captured() -> bool:
    """Whether `launches_are_captured` is entered."""
    return _depth > 0
