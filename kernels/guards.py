"""Whether tensors are like earlier ones in everything that a choice may depend on, asked of torch in one call.

Asked from Python, attribute by attribute, that takes 3 µs of a call's time; torch.compile's guards take 0.5.
"""

from collections.abc import Callable

import torch

try:
    from torch._C._dynamo.guards import TensorGuards as _TensorGuards
except ImportError:  # a private name: without it nothing is recalled, and every call is looked up by `decisions`
    _TensorGuards = None


def same_kind_as(*tensors: torch.Tensor) -> Callable[..., bool] | None:
    """A function of as many values: whether they are tensors like these, in a context like this one.

    Equal are: class, dtype, device, sizes, strides, requires_grad and the dispatch keys, so that a tensor in a
    transform, under a dispatch mode, under autocast or in inference mode is not like one that is not. Grad mode,
    forward-mode differentiation and autocast's dtype are not asked about.

    Returns:
        The function, or None where this torch has none.
    """
    if _TensorGuards is None:
        return None
    return _TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
