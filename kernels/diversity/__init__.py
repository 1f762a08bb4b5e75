"""How much clips differ, relative to their noise: two launches on a GPU where no gradient is wanted.

It is no registered operation: where a gradient is wanted, plain PyTorch computes it.
"""

import torch
from torch import Tensor

from .. import choice
from ..dispatch import is_transformed
from . import reference
from .protocol import Diversity

choice.register(
    "diversity",
    # Two launches, where PyTorch needs eight.
    triton=choice.in_triton(__name__, measured=False),
    reference=choice.Implementation(reference),
)


def diversity(clips: Tensor, noise: Tensor, target: float) -> Tensor:
    """Compute the difference of clips relative to that of their noise, up to `target`; see `fastvgan.losses.diversity`.

    Args:
        clips: (N, ...), floating-point. Clips 0 and 1 are a pair, clips 2 and 3 another, and so on.
        noise: of the clips, (N, ...), floating-point.
        target: the ratio above which more difference has no value.

    Returns:
        The mean over the pairs, or 0 without a pair, () float32.
    """
    wants_gradient = torch.is_grad_enabled() and (clips.requires_grad or noise.requires_grad)
    if wants_gradient or is_transformed() or not (_is_served(clips) and _is_served(noise)):
        return reference.diversity(clips, noise, target)
    functions: Diversity = choice.pick("diversity", "auto", clips)
    return functions.diversity(clips, noise, target)


def _is_served(x: Tensor) -> bool:
    """Whether x (N, ...) is a plain tensor with a pair and its values, in a dtype that Triton computes in."""
    return type(x) is Tensor and len(x) >= 2 and x.numel() > 0 and x.is_floating_point() and x.dtype != torch.float64
