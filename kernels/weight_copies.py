"""Copies of weights in a half precision, made all at once, that convolutions read where they would cast the weights.

Under autocast a convolution casts its weight at every use: three times in a step forward and twice backward, a launch
each. Inside `in_use` the kernels take the copy instead. It holds the same numbers, since the cast is the same; the
weight stays the leaf that gradients are of, so that nothing else changes. Like torch.autocast's own cache this one goes
by the tensor's identity, and a weight that is not in it is cast as ever.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch

from . import _torch

_FEW = 16  # channels on the input side of a convolution, below which its kernels want the other side's innermost


class _Entry:
    def __init__(self, weight: torch.Tensor, dtype: torch.dtype):
        self.weight, self.version = weight, None
        innermost, plain = 1 if weight.shape[1] >= _FEW else 0, weight.detach()
        if plain.stride(innermost) == 1:
            self.copy = torch.empty_like(plain, dtype=dtype)
        else:
            rows = torch.empty_like(plain.movedim(innermost, -1), dtype=dtype, memory_format=torch.contiguous_format)
            self.copy = rows.movedim(-1, innermost)


_in_use: dict[int, _Entry] = {}


class WeightCopies:
    """Copies of some weights in `dtype`, with channels innermost as the kernels read them.

    Args:
        weights: of convolutions, (C, C', *kernel), float32. They keep their place: they are only changed in place.
        dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, weights: Iterable[torch.Tensor], dtype: torch.dtype):
        self._entries = [_Entry(weight, dtype) for weight in weights]

    def refresh(self) -> None:
        """Bring the copies to what the weights are now; see `refresh`."""
        refresh(self)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it convolutions take the copies."""
        before = dict(_in_use)
        _in_use.update((id(entry.weight), entry) for entry in self._entries)
        try:
            yield
        finally:
            _in_use.clear()
            _in_use.update(before)


@torch.no_grad()
def refresh(*sets: WeightCopies) -> None:
    """Bring the copies of several sets to what their weights are now, in one launch for those that lie as these do.

    To be called after every optimiser step: a fused one does not count its change as a version of the weight.
    """
    entries = [entry for one in sets for entry in one._entries]
    pairs = [(entry.copy, entry.weight) for entry in entries]
    alike = [(copy, weight) for copy, weight in pairs if copy.stride() == weight.stride()]
    if alike:
        _torch.foreach_copy_(*map(list, zip(*alike, strict=True)))
    for copy, weight in pairs:
        if copy.stride() != weight.stride():
            copy.copy_(weight)
    for entry in entries:
        entry.version = _torch.version_of(entry.weight)


def are_in_use() -> bool:
    """Whether any copies are."""
    return bool(_in_use)


def to_dtype(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """weight.to(dtype), or the copy if that lies in memory as the weight does: cuDNN's results hang on the layout."""
    copy = cast(weight, dtype)
    return copy.to(dtype) if copy.stride() == weight.stride() else weight.to(dtype)


def cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight's copy in that dtype, if one is in use and up to date, or the weight itself as it is."""
    entry = _in_use.get(id(weight))
    if (
        entry is None
        or entry.weight is not weight
        or entry.version != _torch.version_of(weight)
        or entry.copy.dtype != dtype
    ):
        return weight
    return entry.copy
