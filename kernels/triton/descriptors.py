"""Tensor descriptors for the copy engine, whose checks are cached by sizes.

Triton checks a descriptor whenever one is made, which takes 4 µs on the host, as long as views of the tensor do. A
descriptor holds its tensor, so it is not kept between calls; the checked fields are.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def descriptor(base: Tensor, shape: tuple[int, ...], box: tuple[int, ...]) -> TensorDescriptor:
    """A descriptor of one or several dense matrices that begin where `base` does.

    Args:
        base: supplies address and dtype; dense, aligned to 16 bytes, with as many elements as `shape`.
        shape: the shape that the kernel sees, its last dimension innermost.
        box: the shape that is loaded at once.
    """
    made = TensorDescriptor.__new__(TensorDescriptor)
    made.__dict__.update(_check(shape, box, base.dtype))
    made.base = base
    return made


@lru_cache(maxsize=1024)
def _check(shape: tuple[int, ...], box: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a descriptor that Triton has checked, for a tensor without memory."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return vars(TensorDescriptor(torch.empty(0, dtype=dtype), list(shape), strides, list(box)))
