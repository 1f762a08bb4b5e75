"""group_norm_act in C++ (csrc/cpu): the schemas, and the functions that call them.

x is (N, C, *space), 0 to 3 spatial dimensions, float32, bfloat16 or float16; parameters are (C,) and statistics
(N, groups) float32; statistics are computed in float32 and float64.
"""

import torch
from torch import Tensor

from .. import extension
from ..activations import CODES
from ..compiled_support import as_float32, lay_out_like, make_dense
from ..norm_act.compiled import refusal as norm_refusal
from .protocol import GroupNorm

# The operations exist without the extension, which adds kernels for devices and nothing else.
_library = torch.library.Library("fastvgan_compiled", "FRAGMENT")
_library.define(
    "group_norm_act(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps, int activation, float slope) "
    "-> (Tensor y, Tensor mean, Tensor inverse)"
)
_library.define(
    "group_norm_act_backward(Tensor dy, Tensor x, int groups, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor inverse, int activation, float slope) -> (Tensor dx, Tensor dweight, Tensor dbias)"
)


def refusal(x: Tensor) -> str | None:
    """Return why x cannot be computed here, in one sentence, or None for an x (N, C, *space) that can."""
    if not x.is_cpu:
        return extension.reason() or f"it is for the CPU, not for {x.device.type}"
    return norm_refusal(x)


def group_norm_act(x: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute activation((x - mean) / √(var + eps) · weight + bias), with the statistics of each sample's groups.

    Args:
        x: (N, C, *space). Copied where it is neither channels-last nor contiguous.
        norm: its vectors (C,) of any dtype.

    Returns:
        y in x's dtype and layout; the groups' mean and 1 / √(var + eps), (N, groups) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    groups, weight, bias, eps, activation, slope = norm
    parameters = map(as_float32, (weight, bias))
    return torch.ops.fastvgan_compiled.group_norm_act(x, groups, *parameters, eps, CODES[activation], slope)


def group_norm_act_backward(
    dy: Tensor, x: Tensor, norm: GroupNorm, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute group_norm_act's gradients, recomputing from x what the activation needs.

    Args:
        dy: of x's shape, any dtype and layout.
        x: (N, C, *space), as group_norm_act got it.
        norm: as group_norm_act got it.
        mean: (N, groups), as group_norm_act returned it.
        inverse: (N, groups), as group_norm_act returned it; contains eps.

    Returns:
        dx in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    dy = lay_out_like(dy, x)
    groups, weight, bias, _, activation, slope = norm
    vectors = map(as_float32, (weight, bias, mean, inverse))
    return torch.ops.fastvgan_compiled.group_norm_act_backward(dy, x, groups, *vectors, CODES[activation], slope)


def _require_supported(x: Tensor) -> Tensor:
    """Return x, dense."""
    why = refusal(x)
    if why is not None:
        raise TypeError(f"the compiled group_norm_act does not support this input: {why}")
    return make_dense(x)
