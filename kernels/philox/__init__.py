"""Random words that depend only on their counters and key, the same on every device."""

import importlib

from torch import Tensor

from ..triton import support as triton_support
from . import reference
from .reference import philox_4x32

__all__ = ["philox", "philox_4x32"]


def philox(numbers: Tensor, counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Compute four random 32-bit words for each number and each counter.

    The words of number n and counter (first, last) are those of Philox 4x32-10 for the counter (first, n's lower 32
    bits, n's upper 32 bits, last). They are integers, so every device computes the same.

    Args:
        numbers: (N,) int64.
        counters: (B, 2) int64, (first, last) in [0, 2**32), on the device of `numbers`.
        key: two integers in [0, 2**32).

    Returns:
        (N, B, 4) int64, in [0, 2**32).
    """
    if numbers.is_cuda and triton_support.reason() is None and triton_support.device_refusal(numbers.device) is None:
        return importlib.import_module(f"{__name__}.triton").philox(numbers, counters, key)
    return reference.philox(numbers, counters, key)
