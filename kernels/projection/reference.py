"""The projection of weights in plain PyTorch: the definition of correct results, on every device."""

from collections.abc import Sequence

from torch import Tensor

from .protocol import UpsamplingKernel


def project(kernels: Sequence[UpsamplingKernel], unless: Tensor | None) -> None:
    """Replace each weight, in place, by the nearest whose alternating sums are 0, unless `unless` () is above 0."""
    corrections: dict[tuple, Tensor] = {}  # signs, or zeros if the weights must stay, one for all of a shape
    for weight, signs in kernels:
        for dim, each in signs.items():
            each, key = each.to(weight.dtype), (each.shape, weight.dtype)
            if key not in corrections:
                corrections[key] = each if unless is None else each * (unless == 0)
            excess = (weight * each).mean(dim, keepdim=True)
            weight.addcmul_(excess, corrections[key], value=-1)
