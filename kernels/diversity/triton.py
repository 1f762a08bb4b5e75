"""The diversity of clips in Triton: one launch for the differences in parts, and one of one program for their mean."""

import torch
import triton.language as tl
from torch import Tensor

from ..triton.jit import constexpr, jit
from ..triton.support import on_its_device

_BLOCK = 1024
_MOST_PARTS = 64  # of a pair, which the last program loads at once


@jit
def pair_sums_kernel(clips, sums, size, each, BLOCK: constexpr):
    """sums[pair, part] = the sum of |clip 2 pair - clip 2 pair + 1| over a part. Programs: (part, pair)."""
    part, pair = tl.program_id(0), tl.program_id(1)
    first = clips + pair.to(tl.int64) * 2 * size
    end = tl.minimum((part + 1) * each, size)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(part * each, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        one = tl.load(first + i, i < end, 0.0).to(tl.float32)  # [BLOCK]
        other = tl.load(first + size + i, i < end, 0.0).to(tl.float32)  # [BLOCK]
        total += tl.abs(one - other)
    tl.store(sums + pair * tl.num_programs(0) + part, tl.sum(total, 0))


@jit
def diversity_kernel(sums, noise, out, sizes, target, PAIRS: constexpr, PARTS: constexpr, BLOCK: constexpr):
    """The mean over pairs of the clips' differences per difference of noise, up to a target. One program.

    Args:
        sums: (pairs, parts) float32, the differences of the clips in parts.
        noise: (2 pairs, size).
        out: () float32.
        sizes: the number of pairs, of parts and of noise values per clip, and pixels per noise value.
        target: the ratio above which more difference has no value.
        PAIRS: pairs of a tile.
        PARTS: parts of a tile.
        BLOCK: noise values of a tile.
    """
    pairs, parts, size, values = sizes
    part, k = tl.arange(0, PARTS)[None, :], tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((PAIRS,), tl.float32)
    for first in range(0, pairs, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        row = pair[:, None]
        each = tl.load(sums + row * parts + part, (row < pairs) & (part < parts), 0.0)  # [PAIRS, PARTS]
        apart = tl.zeros((PAIRS, BLOCK), tl.float32)
        for start in range(0, size, BLOCK):
            at = noise + row.to(tl.int64) * 2 * size + start + k
            ok = (row < pairs) & (start + k < size)
            one = tl.load(at, ok, 0.0).to(tl.float32)  # [PAIRS, BLOCK]
            other = tl.load(at + size, ok, 0.0).to(tl.float32)  # [PAIRS, BLOCK]
            apart += tl.abs(one - other)
        ratio = tl.sum(each, 1) / tl.sum(apart, 1)
        # Unlike `minimum`, the comparison keeps a NaN.
        ratio = tl.where(ratio > target * values, target * values, ratio)
        total += tl.where(pair < pairs, ratio, 0.0)
    tl.store(out, tl.sum(total, 0) / (values * pairs))


@on_its_device
def diversity(clips: Tensor, noise: Tensor, target: float) -> Tensor:
    """Return the mean difference of pairs of clips (N, ...) per difference of noise (N, ...), () float32."""
    pairs, size, noise_size = len(clips) // 2, clips[0].numel(), noise[0].numel()
    each = _BLOCK * -(-size // (_BLOCK * _MOST_PARTS))
    parts = -(-size // each)
    sums, out = (torch.empty(shape, device=clips.device) for shape in ((pairs, parts), ()))
    pair_sums_kernel[parts, pairs](_rows(clips), sums, size, each, BLOCK=_BLOCK)
    sizes = pairs, parts, noise_size, size / noise_size
    block = min(1024, 1 << (noise_size - 1).bit_length())
    tile = 1 << (parts - 1).bit_length()
    diversity_kernel[(1,)](sums, noise.contiguous(), out, sizes, target, PAIRS=8, PARTS=tile, BLOCK=block)
    return out


def _rows(x: Tensor) -> Tensor:
    """Return x (N, ...) with each row's values side by side, in any order that all rows share."""
    order = [0, *sorted(range(1, x.dim()), key=x.stride, reverse=True)]
    return x.permute(order).contiguous()
