"""Tensor descriptors for the copy engine, at the cost of a look-up where one of the same sizes was made before.

Triton checks a descriptor whenever one is made, 4 µs of the host's, and views of the tensor take as long. A descriptor
holds its tensor, so it is not kept from call to call; what was checked of it is.
"""

from functools import lru_cache

import torch
from triton.tools.tensor_descriptor import TensorDescriptor


def descriptor(base: torch.Tensor, shape: tuple[int, ...], box: tuple[int, ...]) -> TensorDescriptor:
    """A descriptor of a dense matrix, or of several, that begins where `base` does.

    Args:
        base: gives address and dtype; aligned to 16 bytes, dense in memory, of as many elements as `shape`.
        shape: of what the kernel sees, its last dimension innermost. box: what is loaded at once.
    """
    made = TensorDescriptor.__new__(TensorDescriptor)
    made.__dict__.update(_checked(shape, box, base.dtype))
    made.base = base
    return made


@lru_cache(maxsize=1024)
def _checked(shape: tuple[int, ...], box: tuple[int, ...], dtype: torch.dtype) -> dict:
    """The fields of a descriptor that Triton has checked, of a tensor without memory."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return vars(TensorDescriptor(torch.empty(0, dtype=dtype), list(shape), strides, list(box)))
