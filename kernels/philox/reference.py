"""Philox 4x32-10 in PyTorch's integer operations or Python's integers: the definition of correct results."""

from typing import TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", torch.Tensor, int)

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 2**32 - 1


def philox_4x32(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """Compute the four random words of a counter under a key.

    Args:
        counter: four words in [0, 2**32): int64 tensors that broadcast against each other, or Python integers.
        key: two words in [0, 2**32).

    Returns:
        Four words in [0, 2**32), int64 tensors of the common shape, or integers.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (section 3.3, table 2).
    """
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(_ROUNDS):
        # An int64 product is exact modulo 2**64; the mask removes the sign that the shift extends.
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = ((q >> 32) & _MASK) ^ b ^ k, q & _MASK, ((p >> 32) & _MASK) ^ d ^ l, p & _MASK
        k, l = (k + _KEY_STEPS[0]) & _MASK, (l + _KEY_STEPS[1]) & _MASK  # noqa: E741
    return a, b, c, d


def philox(numbers: Tensor, counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Return the words (N, B, 4) of numbers (N,) and counters (B, 2), as the public philox."""
    number = numbers[:, None]  # (N, 1)
    first, last = counters.unbind(1)  # (B,) each
    words = philox_4x32((first, number & _MASK, (number >> 32) & _MASK, last), key)  # (N, B) each
    return torch.stack(words, 2)
