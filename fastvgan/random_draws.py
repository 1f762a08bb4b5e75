"""Everything random in a run, as a function of (seed, purpose, number): the same on every device, in any order.

A number is that of a clip (step * clips of a batch + place in the batch), or that of a step. Words come from Philox
4x32-10 (`fastvgan_kernels.philox`), whose key is the seed and whose counter is (block of four words, number, purpose).
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

import torch

from fastvgan_kernels.philox import philox, philox_4x32

Word = TypeVar("Word", torch.Tensor, int)

_MASK = 2**32 - 1
# Tensors of no dimension, which a device takes as arguments of a kernel: so nothing is copied there.
_UNIT, _HALF_UNIT = torch.tensor([2.0**-32, 2.0**-33], dtype=torch.float64, device="cpu").unbind()


class Purpose(IntEnum):
    """What words are drawn for; no two purposes share one."""

    CLIP = 0
    NOISE = 1
    TRAINING_NOISE = 2
    WRONG_CONDITION = 3
    WRONG_PART = 4
    CANDIDATES = 5
    SHUFFLE = 6


class Draws:
    """Draws words for several purposes at once.

    Args:
        seed: of the run, any integer; it counts modulo 2**64. sizes: how many words a number takes for each purpose.
        device: where they are wanted.
    """

    def __init__(self, seed: int, sizes: Mapping[Purpose, int], device: "torch.device | str" = "cpu"):
        self._key = _key(seed)
        self._places: dict[Purpose, slice] = {}
        counters = [torch.empty(0, 2, dtype=torch.int64, device=device)]
        start = 0
        for purpose, size in sizes.items():
            self._places[purpose] = slice(start, start + size)
            blocks = torch.arange(-(-size // 4), device=device)
            counters.append(torch.stack([blocks, torch.full_like(blocks, int(purpose))], 1))
            start += 4 * len(blocks)
        self._counters = torch.cat(counters)

    def __call__(self, numbers: torch.Tensor) -> dict[Purpose, torch.Tensor]:
        """Words int64 (N, size) in [0, 2**32) for numbers int64 (N,) on the device, by purpose.

        A number has the same words whatever other numbers, purposes and sizes are drawn with it.
        """
        words = philox(numbers, self._counters, self._key).flatten(1)
        return {purpose: words[:, place] for purpose, place in self._places.items()}


def draw_below(bound: int, seed: int, purpose: Purpose, number: int) -> int:
    """An integer in [0, bound) on the host, from the first word that `Draws` gives for this purpose and number."""
    word = philox_4x32((0, number & _MASK, number >> 32 & _MASK, int(purpose)), _key(seed))[0]
    return below(word, bound)


def below(words: Word, bounds: "Word | int") -> Word:
    """Words in [0, 2**32) as integers in [0, bounds), for bounds below 2**31: the same on every device.

    The upper half of a 64-bit product, as in Lemire 2019 (Fast random integer generation in an interval), without the
    rejection: a value is more or less likely than another by at most bounds / 2**32.
    """
    return words * bounds >> 32


def uniforms(words: torch.Tensor) -> torch.Tensor:
    """Words as numbers in [0, 1), float64: exact, with 32 bits, so that their product with a small integer is too."""
    return words * _UNIT


def normals(words: torch.Tensor) -> torch.Tensor:
    """Words as standard normal numbers, float32, in [-6.4, 6.4].

    The inverse of the normal distribution function is computed in float64 and then rounded. Devices differ in the last
    bits of float64, so that about one in 10**8 numbers may differ in the last bit of float32.
    """
    return torch.special.ndtri(torch.add(_HALF_UNIT, words, alpha=2.0**-32)).float()


def _key(seed: int) -> tuple[int, int]:
    return seed & _MASK, seed >> 32 & _MASK
