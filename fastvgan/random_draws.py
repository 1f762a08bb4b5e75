"""All random draws of a run, as functions of (seed, purpose, number): equal on every device and in any order.

A number identifies a clip (step * batch size + position in the batch) or a step. Random 32-bit words come from Philox
4x32-10 (`fastvgan_kernels.philox`) with the seed as key and (block of four words, number, purpose) as counter.
"""

import random
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

import torch

from fastvgan_kernels.philox import philox, philox_4x32

Word = TypeVar("Word", torch.Tensor, int)

_MASK = 2**32 - 1
# Zero-dimensional CPU tensors: a device passes them to its kernels as arguments, without a copy.
_UNIT, _HALF_UNIT = torch.tensor([2.0**-32, 2.0**-33], dtype=torch.float64, device="cpu").unbind()


class Purpose(IntEnum):
    """The purpose of a draw. Different purposes have independent words."""

    CLIP = 0
    NOISE = 1
    TRAINING_NOISE = 2
    WRONG_CONDITION = 3
    WRONG_PART = 4
    CANDIDATES = 5
    SHUFFLE = 6
    AUGMENT_REAL = 8
    AUGMENT_FAKE = 9
    REAL_PERTURBATION = 10
    FAKE_PERTURBATION = 11
    INTERPOLATION = 12
    AUGMENT_GENERATOR = 13
    PHRASING = 16


class Draws:
    """Draws words for several purposes at once.

    Args:
        seed: the run's seed, any integer; taken modulo 2**64.
        sizes: the number of words per number, for each purpose.
        device: the device of the words.
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
        """Draw words, int64 (N, size) in [0, 2**32), for numbers, int64 (N,) on the device; by purpose.

        A number's words do not depend on the other numbers, purposes and sizes.
        """
        words = philox(numbers, self._counters, self._key).flatten(1)
        return {purpose: words[:, place] for purpose, place in self._places.items()}


def draw_below(bound: int, seed: int, purpose: Purpose, number: int) -> int:
    """Draw an integer in [0, bound) on the host, from the first word that `Draws` has for the purpose and number."""
    word = philox_4x32((0, number & _MASK, number >> 32 & _MASK, int(purpose)), _key(seed))[0]
    return below(word, bound)


def below(words: Word, bounds: "Word | int") -> Word:
    """Map words in [0, 2**32) to integers in [0, bounds), elementwise; equal on every device.

    The result is the upper half of a 64-bit product, as in Lemire 2019 (Fast random integer generation in an interval),
    without the rejection: probabilities differ by a factor of at most 1 ± bounds / 2**32.

    Args:
        words: an int, or int64 of any shape.
        bounds: below 2**31; an int, or int64 of a shape that broadcasts.
    """
    return words * bounds >> 32


def uniforms(words: torch.Tensor) -> torch.Tensor:
    """Map words of any shape to float64 in [0, 1). They have 32 bits, so products with small integers are exact."""
    return words * _UNIT


def normals(words: torch.Tensor) -> torch.Tensor:
    """Map words of any shape to standard normal numbers, float32, in [-6.4, 6.4].

    The inverse normal distribution function is computed in float64 and then rounded. Devices differ in the last bits of
    float64, so about one number in 10**8 may differ in the last bit of float32.
    """
    return torch.special.ndtri(torch.add(_HALF_UNIT, words, alpha=2.0**-32)).float()


def _key(seed: int) -> tuple[int, int]:
    return seed & _MASK, seed >> 32 & _MASK


def global_seed(seed: int, number: int) -> int:
    """Return a 63-bit seed for the global generators in a step, or while a sample is read, of that number."""
    # The multiplier is that of Knuth's 64-bit linear congruential generator.
    return (seed * 6364136223846793005 + number) % 2**63


def seed_everything(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy and torch, from which user code and networks may draw.

    Args:
        seed: at least 0 and below 2**63.
        device: a GPU whose generator is seeded, too.
    """
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:  # what was not imported draws nothing
        numpy.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
