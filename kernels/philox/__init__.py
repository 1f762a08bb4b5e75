"""philox: random words that are a function of their counters alone, the same on every device."""

import importlib

import torch

from ..triton import support as triton_support
from . import reference
from .reference import philox_4x32

__all__ = ["philox", "philox_4x32"]


def philox(numbers: torch.Tensor, counters: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """Random 32-bit words for each number and each counter.

    The words of number n and counter (first, last) are those of Philox 4x32-10 for the counter (first, n's lower 32
    bits, n's upper 32 bits, last). They are integers, so that every device gives the same.

    Args:
        numbers: int64 (N,). counters: int64 (B, 2), (first, last) in [0, 2**32), on the device of `numbers`.
        key: two integers in [0, 2**32).

    Returns:
        int64 (N, B, 4), in [0, 2**32).
    """
    if numbers.is_cuda and triton_support.reason() is None and triton_support.device_refusal(numbers.device) is None:
        return importlib.import_module(f"{__name__}.triton").philox(numbers, counters, key)
    return reference.philox(numbers, counters, key)
