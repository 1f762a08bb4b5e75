"""Counter-based random numbers: a function of (seed, purpose, number), equal on every device and in any order.

The number is that of a clip (step * batch size + index in the batch) or of a step. Words come from Philox 4x32-10
(`fastvgan_kernels.philox`) with the seed as key and (block of four words, number, purpose) as counter.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

import torch

from fastvgan_kernels.philox import philox, philox_4x32

Word = TypeVar("Word", torch.Tensor, int)

_MASK = 2**32 - 1
# A zero-dimensional CPU tensor is passed to CUDA kernels as an argument, without a copy to the device.
_UNIT, _HALF_UNIT = torch.tensor([2.0**-32, 2.0**-33], dtype=torch.float64, device="cpu").unbind()


class Purpose(IntEnum):
    """Use of random words; different purposes have independent words."""

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
        seed: any integer, taken modulo 2**64.
        sizes: words per number, for each purpose.
        device: device of the words.
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
        """Return words, int64 (N, size) in [0, 2**32), for each purpose, for numbers int64 (N,) on the device.

        The words of a number do not depend on the other numbers, purposes and sizes.
        """
        words = philox(numbers, self._counters, self._key).flatten(1)
        return {purpose: words[:, place] for purpose, place in self._places.items()}


def draw_below(bound: int, seed: int, purpose: Purpose, number: int) -> int:
    """Return an integer in [0, bound), computed on the host from the first word of this purpose and number."""
    word = philox_4x32((0, number & _MASK, number >> 32 & _MASK, int(purpose)), _key(seed))[0]
    return below(word, bound)


def below(words: Word, bounds: "Word | int") -> Word:
    """Map words in [0, 2**32), of any shape, to integers in [0, bounds), for bounds below 2**31.

    The upper half of a 64-bit product, as in Lemire 2019 (Fast random integer generation in an interval), without
    rejection: the probabilities of two values differ by at most a factor of 1 + bounds / 2**32.
    """
    return words * bounds >> 32


def uniforms(words: torch.Tensor) -> torch.Tensor:
    """Map words of any shape to float64 in [0, 1), exactly; products with small integers are exact too."""
    return words * _UNIT


def normals(words: torch.Tensor) -> torch.Tensor:
    """Map words of any shape to standard normal numbers, float32 in [-6.4, 6.4].

    The inverse of the normal distribution function is computed in float64 and rounded. Devices differ in the last bits
    of float64, so about one in 10**8 numbers may differ in the last bit of float32.
    """
    return torch.special.ndtri(torch.add(_HALF_UNIT, words, alpha=2.0**-32)).float()


def _key(seed: int) -> tuple[int, int]:
    return seed & _MASK, seed >> 32 & _MASK
