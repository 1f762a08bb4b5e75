"""The gradients of a norm's parameters."""

from torch import Tensor

from ..dtypes import statistics_dtype


def as_parameters(dweight: Tensor, dbias: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients (C,) in their parameters' dtypes, unchanged where a parameter is None."""
    return dweight.to((dweight if weight is None else weight).dtype), dbias.to((dbias if bias is None else bias).dtype)


def empty_gradients(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return empty gradients (C,) of a norm's parameters, as kernels return them for x (N, C, *space)."""
    gradient = x.new_empty(x.shape[1], dtype=statistics_dtype(x))
    return as_parameters(gradient, gradient.clone(), weight, bias)
