"""Whether the host's launches are captured in a CUDA graph, whose replay costs the host nothing."""

from collections.abc import Generator
from contextlib import contextmanager

_depth = 0  # of the process, not of a thread: autograd runs backward passes in other threads


@contextmanager
def launches_are_captured() -> Generator[None, None, None]:
    """Declare launches in this context as captured in a CUDA graph, or as its warm-up, which must choose alike."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def are_launches_captured() -> bool:
    """Whether a `launches_are_captured` context is active."""
    return _depth > 0
