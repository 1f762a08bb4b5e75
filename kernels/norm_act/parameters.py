"""The parameters of a norm: their gradients, and the statistics that backward needs."""

from torch import Tensor

from ..dtypes import statistics_dtype


def as_parameters(dweight: Tensor, dbias: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients (C,) in their parameters' dtypes, unchanged where a parameter is None."""
    return dweight.to((dweight if weight is None else weight).dtype), dbias.to((dbias if bias is None else bias).dtype)


def empty_gradients(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return empty gradients (C,) of a norm's parameters, as kernels return them for x (N, C, *space)."""
    gradient = x.new_empty(x.shape[1], dtype=statistics_dtype(x))
    return as_parameters(gradient, gradient.clone(), weight, bias)


def keep_statistics(mean: Tensor | None, var: Tensor | None, training: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the statistics (C,) that a norm was given, as backward must find them.

    In evaluation they are the running ones: a call in training may change them before backward, so they are copied.

    Args:
        mean: (C,), or None.
        var: (C,), or None.
        training: whether they are the batch's own.
    """
    if training or mean is None or var is None:
        return mean, var
    return mean.clone(), var.clone()
