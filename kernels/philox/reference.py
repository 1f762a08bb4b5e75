"""Philox 4x32-10 in PyTorch's integer operations, and in Python's own integers: the definition of right."""

from typing import TypeVar

import torch

Word = TypeVar("Word", torch.Tensor, int)

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 2**32 - 1


def philox_4x32(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """The four random words of a counter under a key.

    Args:
        counter: four words in [0, 2**32): int64 tensors that broadcast against each other, or Python integers.
        key: two words in [0, 2**32).

    Returns:
        Four words in [0, 2**32), int64 tensors of the common shape, or integers.

    Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3 (section 3.3; constants in table 2).
    """
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(_ROUNDS):
        # An int64 product is right modulo 2**64, of which the mask takes the sign out.
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = ((q >> 32) & _MASK) ^ b ^ k, q & _MASK, ((p >> 32) & _MASK) ^ d ^ l, p & _MASK
        k, l = (k + _KEY_STEPS[0]) & _MASK, (l + _KEY_STEPS[1]) & _MASK  # noqa: E741
    return a, b, c, d


def philox(numbers: torch.Tensor, counters: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """See `fastvgan_kernels.philox.philox`."""
    number = numbers[:, None]  # (N, 1)
    first, last = counters.unbind(1)  # (B,) each
    words = philox_4x32((first, number & _MASK, (number >> 32) & _MASK, last), key)  # (N, B) each
    return torch.stack(words, 2)
