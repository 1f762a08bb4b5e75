"""Half-precision copies of weights, cast all at once, which convolutions read instead of casting the weights.

Under autocast a convolution casts its weight at every use, three times per step forward and twice backward, each time
by a launch. Inside `in_use` the kernels read the copy instead. It holds the same numbers, and the weight stays the leaf
of gradients, so nothing else changes. Like torch.autocast's cache, this one looks up a weight by the tensor's identity;
other weights are cast as usual.
"""

import contextlib
from collections.abc import Generator, Iterable
from typing import Any

import torch

from . import _torch
from .lists import copy_into

_FEW = 16  # input channels of a convolution; below, its kernels read the output channels innermost


class _Entry:
    def __init__(self, weight: torch.Tensor, dtype: torch.dtype):
        self.weight = weight
        self.version: Any = None  # of the weight, when it was copied
        innermost, plain = 1 if weight.shape[1] >= _FEW else 0, weight.detach()
        if plain.stride(innermost) == 1:
            self.copy = torch.empty_like(plain, dtype=dtype)
        else:
            rows = torch.empty_like(plain.movedim(innermost, -1), dtype=dtype, memory_format=torch.contiguous_format)
            self.copy = rows.movedim(-1, innermost)


_in_use: dict[int, _Entry] = {}


class WeightCopies:
    """Copies of weights in `dtype`, with channels innermost as the kernels read them.

    Args:
        weights: of convolutions, (C, C', *kernel), float32. Later changes to them must be in place.
        dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, weights: Iterable[torch.Tensor], dtype: torch.dtype):
        self._entries = [_Entry(weight, dtype) for weight in weights]

    def refresh(self) -> None:
        """Update the copies from the weights; see `refresh`."""
        refresh(self)

    @contextlib.contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Have convolutions read the copies within this context."""
        before = dict(_in_use)
        _in_use.update((id(entry.weight), entry) for entry in self._entries)
        try:
            yield
        finally:
            _in_use.clear()
            _in_use.update(before)


@torch.no_grad()
def refresh(*sets: WeightCopies) -> None:
    """Update the copies of several sets from their weights, in one launch on a GPU.

    Call it after every optimiser step: a fused optimiser does not increment the weight's version.
    """
    entries = [entry for one in sets for entry in one._entries]
    copy_into([entry.copy for entry in entries], [entry.weight for entry in entries])
    for entry in entries:
        entry.version = _torch.version_of(entry.weight)


def are_in_use() -> bool:
    """Whether any copies are in use."""
    return bool(_in_use)


def to_dtype(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return weight (C, C', *kernel) in `dtype`: its copy if the strides are equal, on which cuDNN's results depend."""
    copy = cast(weight, dtype)
    return copy.to(dtype) if copy.stride() == weight.stride() else weight.to(dtype)


def cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the copy of weight (C, C', *kernel) in `dtype` if one is in use and up to date, else the weight itself."""
    entry = _in_use.get(id(weight))
    if (
        entry is None
        or entry.weight is not weight
        or entry.version != _torch.version_of(weight)
        or entry.copy.dtype != dtype
    ):
        return weight
    return entry.copy
