"""The dtypes of the parameters' gradients."""

from torch import Tensor


def as_parameters(dweight: Tensor, dbias: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients (C,) in their parameters' dtypes, unchanged where a parameter is None."""
    return dweight.to((dweight if weight is None else weight).dtype), dbias.to((dbias if bias is None else bias).dtype)
