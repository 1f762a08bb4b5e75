"""norm_act in C++ (csrc/cpu) and CUDA C++ (csrc/cuda): the schemas, and the functions that call them.

x is (N, C, *space), 0 to 3 spatial dimensions, float32, bfloat16 or float16; parameters and statistics are (C,)
float32; statistics are computed in float32 and float64.
"""

import torch

from .. import dtypes, extension
from ..activations import CODES
from ..compiled_support import as_float32, lay_out_like, make_dense
from .protocol import Capabilities

CAPABILITIES = Capabilities()

# The operations exist without the extension, which adds kernels for devices and nothing else.
_library = torch.library.Library("fastvgan_compiled", "DEF")
_library.define(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps, int activation, "
    "float slope) -> (Tensor y, Tensor mean, Tensor var)"
)
_library.define(
    "norm_act_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, bool training, "
    "float eps, int activation, float slope) -> (Tensor dx, Tensor dweight, Tensor dbias)"
)
_library.define(
    "norm_act_residual(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps, "
    "int activation, float slope) -> (Tensor y, Tensor mean, Tensor var)"
)
_library.define(
    "norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor var, bool training, float eps, int activation, float slope) "
    "-> (Tensor dx, Tensor d_residual, Tensor dweight, Tensor dbias)"
)


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    module = extension.load()
    if module is None:
        return extension.reason()
    if x.dtype not in dtypes.COMPILED:
        return dtypes.refusal(x.dtype)
    if x.device.type == "cuda" and not module.with_cuda:
        return f"the extension has no CUDA part: {extension.facts()['no_cuda'] or 'it was built without'}"
    if x.device.type not in ("cpu", "cuda"):
        return f"there is no kernel for {x.device.type}"
    if not 2 <= x.dim() <= 5:
        return f"x must be (N, C) and up to 3 sizes, not {tuple(x.shape)}"
    return None


def norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """activation((x - mean) / √(var + eps) · weight + bias).

    Args:
        x: (N, C, *space). Made dense where it is neither channels-last nor contiguous.
        weight, bias: (C,) or None for 1 and 0.
        mean, var: (C,), or both None for the batch's own (biased variance).
        activation: one of activations.ACTIVATIONS.
        slope: leaky_relu's below 0.

    Returns:
        y in x's dtype and layout; the batch's mean and variance, (C,) float32, or two (0,) tensors where mean and
        var were given.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _taken(x)
    parameters = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act(x, *parameters, eps, CODES[activation], slope)


def norm_act_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """norm_act's gradients; what the activation needs is computed again from x.

    Args:
        dy: of x's shape, any dtype and layout.
        x, weight, bias, eps, activation, slope: as norm_act got them.
        mean, var: (C,), those that norm_act normalised with.
        training: whether they are x's own statistics, through which the gradient then goes too.

    Returns:
        dx in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _taken(x)
    dy = lay_out_like(dy, x)
    parameters = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_backward(dy, x, *parameters, training, eps, CODES[activation], slope)


def norm_act_residual(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """activation((x - mean) / √(var + eps) · weight + bias + residual), on the CPU.

    Args:
        residual: of x's shape, any dtype and layout.
        x, weight, bias, mean, var, eps, activation, slope: as norm_act's.

    Returns, raises: as norm_act.
    """
    x = _taken(x)
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_residual(
        x, lay_out_like(residual, x), *vectors, eps, CODES[activation], slope
    )


def norm_act_residual_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    training: bool,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """norm_act_residual's gradients, in a pass that gives the residual's, and one that makes x's of it.

    Args:
        residual: as norm_act_residual got it; the others as norm_act_backward's.

    Returns:
        dx, d_residual in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _taken(x)
    dy, residual = lay_out_like(dy, x), lay_out_like(residual, x)
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_residual_backward(
        dy, x, residual, *vectors, training, eps, CODES[activation], slope
    )


def _taken(x: torch.Tensor) -> torch.Tensor:
    why = refusal(x)
    if why is not None:
        raise TypeError(f"the compiled norm_act does not take this: {why}")
    return make_dense(x)
