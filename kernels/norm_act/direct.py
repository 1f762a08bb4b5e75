"""Batch norms that auto runs by stock PyTorch, as batch_norm and an activation that autograd records.

In a tight loop an operation of this package costs the host 40 µs forward and 150 µs with backward; in a network, whose
other code evicts it from the caches, two to four times as much. A small norm takes less time than that. The choice is
remembered for the same parameters and inputs of the same kind.
"""

import torch
from torch import Tensor

from .. import _torch, choice, guards, layout
from ..activations import CODES, activate, activate_
from ..measured.capture import are_launches_captured

_records, _cudnn = torch.is_grad_enabled, _torch.is_cudnn_enabled  # looked up once
_count_modes = _torch.count_dispatch_modes
# Number of values up to which stock PyTorch with a ReLU in place is as fast or faster, by ten shapes on one thread with
# AVX-512. With a gradient our operation costs the host 0.2 to 0.4 ms once its code has left the caches.
_SMALL, _SMALL_WITH_GRADIENT = 1 << 17, 1 << 19


def slower(x: Tensor) -> str | None:
    """Return why auto leaves the norm of x (N, C, *space) on the CPU to stock PyTorch, or None."""
    limit = _SMALL_WITH_GRADIENT if _records() else _SMALL
    return "stock PyTorch is faster on problems this small" if x.numel() <= limit else None


def serves(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
) -> bool | None:
    """Return whether to call `norm_act` below for x (N, C, *space), or None when `decide` must be asked.

    The arguments are those of the public norm_act; vectors are (C,).
    """
    chosen = recall(x, weight, bias, running_mean, running_var, training)
    return None if chosen is None else chosen == "reference"


def recall(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
) -> str | None:
    """Return the implementation remembered for these parameters (C,) and inputs like x (N, C, *space).

    Returns:
        "reference": call `norm_act` below.
        "cpp": in evaluation without gradients call `norm_act_in_cpp`, or `norm_act` for a contiguous x without an
            activation, where the two are equally fast.
        "": call neither.
        None: ask `decide`.
    """
    if not guards.may_recall():
        return ""
    key = _key(weight, bias, running_mean, running_var, training)
    if weight is None or bias is None or running_mean is None or running_var is None:
        chosen = guards.recall(key, *guards.without_none(x, weight, bias, running_mean, running_var))
    else:
        chosen = guards.recall(key, x, weight, bias, running_mean, running_var)
    return "" if chosen and x.is_cuda and are_launches_captured() else chosen


def _key(
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
) -> tuple:
    # Both statistics: guards compare as many tensors as they remember, and one may be missing by mistake.
    return id(weight), id(bias), id(running_mean), id(running_var), training, _records()


def decide(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
) -> bool:
    """Choose what `serves` returns for these checked arguments, and remember it unless torch traces or transforms.

    The arguments are those of the public norm_act: x is (N, C, *space), vectors are (C,).
    """
    if running_mean is None and not training:
        return False
    tensors = guards.without_none(x, weight, bias, running_mean, running_var)
    if not guards.may_decide(*tensors):
        return False
    chosen = ""
    if _is_supported(*tensors, training=training):
        chosen = choice.name_of("norm_act", choice.pick("norm_act", "auto", x))
        if chosen == "cpp" and (training or _count_modes() or not _are_dense_float32(*tensors[1:])):
            chosen = ""
    guards.remember(_key(weight, bias, running_mean, running_var, training), chosen, *tensors)
    return chosen == "reference"


def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    slope: float,
    residual: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """Run the public norm_act by stock PyTorch, with its arguments, where `serves` or `decide` returns True.

    `in_place` is activate_result's.

    Returns:
        y of the shape (N, C, *space), dtype and memory format of x.
    """
    if training and running_mean is not None and running_var is not None:
        # Autograd keeps them, although backward does not read them, and would refuse it if another call, by a kernel
        # that is declared to change them, came in between.
        running_mean, running_var = running_mean.data, running_var.data
    y = torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, _cudnn())
    if residual is not None:
        y = y + residual
    if activation != "none":
        y = activate_result(y, activation, slope, in_place)
    return y if y.stride(1) == x.stride(1) else layout.in_format(y, layout.format_of(x))


def norm_act_in_cpp(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, activation: str, slope: float
) -> Tensor:
    """Run norm_act in evaluation by the C++ kernel, without a gradient, where `recall` returns "cpp".

    Returns:
        y of the shape (N, C, *space), dtype and layout of x.
    """
    code = CODES[activation]
    return torch.ops.fastvgan_compiled.norm_act(x, weight, bias, mean, var, eps, code, slope)[0]


def activate_result(y: Tensor, activation: str, slope: float, in_place: bool = False) -> Tensor:
    """Activate a stock norm's output y of any shape, which nothing else refers to.

    Args:
        y: overwritten where possible.
        activation: an activation's name.
        slope: of leaky_relu.
        in_place: whether backward may keep the result, which nobody then may change. The next layer keeps it anyway, so
            that takes one tensor less.
    """
    if not (y.requires_grad and torch.is_grad_enabled()) or (in_place and activation in ("relu", "leaky_relu")):
        return activate_(y, activation, slope)
    # These functions save their input for backward, not their result, so the caller may change that in place.
    if activation == "relu":
        return torch.threshold(y, 0.0, 0.0)
    return torch.tanh_(y) if activation == "tanh" else activate(y, activation, slope)


def _are_dense_float32(*vectors: Tensor) -> bool:
    """Whether the C++ kernel can read these parameters without a conversion."""
    return all(vector.dtype is torch.float32 and vector.is_contiguous() for vector in vectors)


def _is_supported(x: Tensor, *vectors: Tensor, training: bool) -> bool:
    """Whether stock PyTorch computes the same: x dense, vectors all of its dtype or all float32."""
    if x.numel() // max(x.shape[1], 1) <= training or not (x.is_cpu or x.is_cuda):
        return False  # empty, or refused by norm_act
    if x.stride() != layout.in_format(x, layout.format_of(x)).stride():
        return False
    return {vector.dtype for vector in vectors} in (set(), {x.dtype}, {torch.float32})
