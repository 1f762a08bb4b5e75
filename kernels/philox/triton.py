"""Philox in Triton: one launch for all words, where PyTorch's operations need a hundred."""

import torch
import triton.language as tl

from ..triton.jit import constexpr, jit
from ..triton.support import on_its_device

_BLOCK = 256


@jit(do_not_specialize=["seed", "size"])
def philox_kernel(numbers, counters, words, seed, size, each, BLOCK: constexpr):
    """Write words (N, each, 4) for numbers (N,) and counters (each, 2); size is N * each. Programs: (block of size)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    number = tl.load(numbers + i // each, inside, 0)  # [BLOCK]
    first = tl.load(counters + i % each * 2, inside, 0).to(tl.uint32)
    last = tl.load(counters + i % each * 2 + 1, inside, 0).to(tl.uint32)
    low, high = (number & 0xFFFFFFFF).to(tl.uint32), (number >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, first, low, high, last)
    tl.store(words + i * 4, a.to(tl.int64), inside)
    tl.store(words + i * 4 + 1, b.to(tl.int64), inside)
    tl.store(words + i * 4 + 2, c.to(tl.int64), inside)
    tl.store(words + i * 4 + 3, d.to(tl.int64), inside)


@on_its_device
def philox(numbers: torch.Tensor, counters: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """See `fastvgan_kernels.philox.philox`: words (N, B, 4)."""
    numbers, counters = numbers.contiguous(), counters.contiguous()
    words = numbers.new_empty((len(numbers), len(counters), 4))
    size = len(numbers) * len(counters)
    seed = key[0] | key[1] << 32
    seed -= 2**64 if seed >= 2**63 else 0  # the same bits as an int64
    if size:
        blocks = -(-size // _BLOCK)
        philox_kernel[(blocks,)](numbers, counters, words, seed, size, len(counters), BLOCK=_BLOCK)
    return words
