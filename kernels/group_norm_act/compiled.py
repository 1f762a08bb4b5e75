"""group_norm_act in C++ (csrc/cpu): the schemas, and the functions that call them.

x is (N, C, *space), 0 to 3 spatial dimensions, float32, bfloat16 or float16; parameters are (C,) and statistics
(N, groups) float32; statistics are computed in float32 and float64.
"""

import torch

from .. import extension
from ..activations import CODES
from ..compiled_support import as_float32, lay_out_like, make_dense
from ..norm_act.compiled import refusal as norm_refusal

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


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    if not x.is_cpu:
        return extension.reason() or f"it is for the CPU, not for {x.device.type}"
    return norm_refusal(x)


def group_norm_act(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """activation((x - mean) / √(var + eps) · weight + bias), mean and var of each sample's groups of channels.

    Args:
        x: (N, C, *space). Made dense where it is neither channels-last nor contiguous.
        groups: a divisor of C.
        weight, bias: (C,) or None for 1 and 0.
        activation: one of activations.ACTIVATIONS.
        slope: leaky_relu's below 0.

    Returns:
        y in x's dtype and layout; the groups' mean and 1 / √(var + eps), (N, groups) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _taken(x)
    parameters = map(as_float32, (weight, bias))
    return torch.ops.fastvgan_compiled.group_norm_act(x, groups, *parameters, eps, CODES[activation], slope)


def group_norm_act_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    inverse: torch.Tensor,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """group_norm_act's gradients; what the activation needs is computed again from x.

    Args:
        dy: of x's shape, any dtype and layout.
        x, groups, weight, bias, eps, activation, slope: as group_norm_act got them; eps is in inverse already.
        mean, inverse: as group_norm_act gave them.

    Returns:
        dx in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _taken(x)
    dy = lay_out_like(dy, x)
    parameters = map(as_float32, (weight, bias, mean, inverse))
    return torch.ops.fastvgan_compiled.group_norm_act_backward(dy, x, groups, *parameters, CODES[activation], slope)


def _taken(x: torch.Tensor) -> torch.Tensor:
    why = refusal(x)
    if why is not None:
        raise TypeError(f"the compiled group_norm_act does not take this: {why}")
    return make_dense(x)
