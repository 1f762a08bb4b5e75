"""norm_act in C++ (csrc/cpu) and CUDA C++ (csrc/cuda): the schemas, and the functions that call them.

x is (N, C, *space), 0 to 3 spatial dimensions, float32, bfloat16 or float16; parameters and statistics are (C,)
float32; statistics are computed in float32 and float64.
"""

import torch
from torch import Tensor

from .. import dtypes, extension
from ..activations import CODES
from ..compiled_support import as_float32, lay_out_like, make_dense
from .protocol import Capabilities, Norm

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


def refusal(x: Tensor) -> str | None:
    """Return why x cannot be computed here, in one sentence, or None for an x (N, C, *space) that can."""
    module = extension.load()
    if module is None:
        return extension.reason()
    if x.dtype not in dtypes.COMPILED:
        return dtypes.refusal(x.dtype)
    if x.device.type == "cuda" and not module.with_cuda:
        return no_cuda_reason()
    if x.device.type not in ("cpu", "cuda"):
        return f"there is no kernel for {x.device.type}"
    if not 2 <= x.dim() <= 5:
        return f"x must be (N, C) and up to 3 sizes, not {tuple(x.shape)}"
    return None


def no_cuda_reason() -> str | None:
    """Return why the CUDA kernels cannot be called, in one sentence, or None when they can."""
    module = extension.load()
    if module is None or module.with_cuda:
        return extension.reason()
    return f"the extension has no CUDA part: {extension.facts()['no_cuda'] or 'it was built without'}"


def norm_act(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute activation((x - mean) / √(var + eps) · weight + bias).

    Args:
        x: (N, C, *space). Copied where it is neither channels-last nor contiguous.
        norm: its vectors (C,) of any dtype.

    Returns:
        y in x's dtype and layout; the batch's mean and variance, (C,) float32, or two (0,) tensors where norm has
        statistics.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    mean, var, weight, bias, _, eps, activation, slope, *_ = norm
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act(x, *vectors, eps, CODES[activation], slope)


def norm_act_backward(dy: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute norm_act's gradients, recomputing from x what the activation needs.

    Args:
        dy: of x's shape, any dtype and layout.
        x: (N, C, *space), as norm_act got it.
        norm: with the statistics that norm_act normalised by.

    Returns:
        dx in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    dy = lay_out_like(dy, x)
    mean, var, weight, bias, training, eps, activation, slope, *_ = norm
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_backward(dy, x, *vectors, training, eps, CODES[activation], slope)


def norm_act_residual(x: Tensor, residual: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Compute activation((x - mean) / √(var + eps) · weight + bias + residual), on the CPU.

    Args:
        x: (N, C, *space), as norm_act's.
        residual: of x's shape, any dtype and layout.
        norm: as norm_act's.

    Returns:
        As norm_act.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    mean, var, weight, bias, _, eps, activation, slope, *_ = norm
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_residual(
        x, lay_out_like(residual, x), *vectors, eps, CODES[activation], slope
    )


def norm_act_residual_backward(
    dy: Tensor, x: Tensor, residual: Tensor, norm: Norm
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute norm_act_residual's gradients: one pass writes the residual's, a second computes x's from it.

    Args:
        dy: of x's shape, any dtype and layout.
        x: (N, C, *space), as norm_act_residual got it.
        residual: as norm_act_residual got it.
        norm: with the statistics that norm_act_residual normalised by.

    Returns:
        dx and d_residual in x's dtype and layout, dweight and dbias (C,) float32.

    Raises:
        TypeError: `refusal(x)` has a reason.
    """
    x = _require_supported(x)
    dy, residual = lay_out_like(dy, x), lay_out_like(residual, x)
    mean, var, weight, bias, training, eps, activation, slope, *_ = norm
    vectors = map(as_float32, (weight, bias, mean, var))
    return torch.ops.fastvgan_compiled.norm_act_residual_backward(
        dy, x, residual, *vectors, training, eps, CODES[activation], slope
    )


def _require_supported(x: Tensor) -> Tensor:
    """Return x, dense."""
    why = refusal(x)
    if why is not None:
        raise TypeError(f"the compiled norm_act does not support this input: {why}")
    return make_dense(x)
