"""Norms that auto leaves to stock PyTorch: its batch_norm and activation, which autograd records.

In a loop of nothing else an operation of ours costs the host 40 µs forward and 150 µs with backward; in a network, with
its code out of the caches, two to four times as much. A small norm takes less. What was decided is remembered for these
parameters and an input like the one that was given.
"""

import torch

from .. import _torch, choice, guards, layout
from ..activations import CODES, activate, activate_
from ..measured.capture import are_launches_captured

_records, _cudnn = torch.is_grad_enabled, _torch.is_cudnn_enabled  # looked up once
# Values up to which stock PyTorch with a ReLU in place is as fast or faster: one thread with AVX-512, ten shapes. With
# a gradient an operation of ours costs the host more, 0.2 to 0.4 ms where its code is no longer in the caches.
_SMALL, _SMALL_WITH_GRADIENT = 1 << 17, 1 << 19


def slower(x: torch.Tensor) -> str | None:
    """Why auto leaves this norm on the CPU to stock PyTorch, or None."""
    limit = _SMALL_WITH_GRADIENT if _records() else _SMALL
    return "of a problem as small stock PyTorch is faster" if x.numel() <= limit else None


def serves(x, weight, bias, running_mean, running_var, training: bool) -> bool | None:
    """Whether `norm_act` below is to be called, or None where `decide` has to be asked; arguments as norm_act's."""
    chosen = recall(x, weight, bias, running_mean, running_var, training)
    return None if chosen is None else chosen == "reference"


def recall(x, weight, bias, running_mean, running_var, training: bool) -> str | None:
    """Which implementation was chosen for these parameters and an input like this, "" where none may be called here.

    "reference" and "cpp" may: by `norm_act` and, in evaluation without gradients, by `compiled_norm_act`, which gains
    nothing where a contiguous input is only normalised. None where `decide` has to be asked.
    """
    if not guards.may_recall():
        return ""
    tensors = x, weight, bias, running_mean, running_var
    if weight is None or bias is None or running_mean is None or running_var is None:
        tensors = _given(*tensors)
    chosen = guards.recall(_key(weight, bias, running_mean, training), *tensors)
    return "" if chosen and x.is_cuda and are_launches_captured() else chosen


def _key(weight, bias, running_mean, training: bool) -> tuple:
    return id(weight), id(bias), id(running_mean), training, _records()


def decide(x, weight, bias, running_mean, running_var, training: bool) -> bool:
    """What `serves` shall say of arguments that are checked; remembered where nothing traces or transforms."""
    if running_mean is None and not training:
        return False
    tensors = _given(x, weight, bias, running_mean, running_var)
    if (
        any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
        or _torch.count_dispatch_modes()
        or _torch.are_transforms_active()
        or _torch.tracing_state() is not None
        or (x.is_cuda and are_launches_captured())
    ):
        return False
    chosen = ""
    if _is_taken(*tensors, training=training):
        chosen = choice.name_of("norm_act", choice.pick("norm_act", "auto", x))
        if chosen == "cpp" and (training or not _is_compiled_for(*tensors)):
            chosen = ""
    guards.remember(_key(weight, bias, running_mean, training), chosen, *tensors)
    return chosen == "reference"


def norm_act(
    x, weight, bias, running_mean, running_var, training, momentum, eps, activation, slope, residual=None
) -> torch.Tensor:
    """The operation by stock PyTorch; arguments as its public function's, where `serves` or `decide` is true."""
    y = torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, _cudnn())
    if residual is not None:
        y = y + residual
    if activation != "none":
        y = activate_result(y, activation, slope)
    return y if y.stride(1) == x.stride(1) else layout.in_format(y, layout.format_of(x))


def compiled_norm_act(x, weight, bias, mean, var, eps, activation, slope) -> torch.Tensor:
    """norm_act in evaluation by the C++ kernel itself, without a gradient, where `recall` says "cpp"."""
    code = CODES[activation]
    return torch.ops.fastvgan_compiled.norm_act(x, weight, bias, mean, var, eps, code, slope)[0]


def activate_result(y: torch.Tensor, activation: str, slope: float) -> torch.Tensor:
    """The activation of what stock PyTorch's norm gave and nothing else keeps."""
    if not (y.requires_grad and torch.is_grad_enabled()):
        return activate_(y, activation, slope)
    # By functions that keep their input for backward and not their result, which the caller may change in place.
    if activation == "relu":
        return torch.threshold(y, 0.0, 0.0)
    return torch.tanh_(y) if activation == "tanh" else activate(y, activation, slope)


def _is_compiled_for(x: torch.Tensor, *vectors: torch.Tensor) -> bool:
    """Whether the C++ kernel takes these as they are."""
    return all(vector.dtype is torch.float32 and vector.is_contiguous() for vector in vectors)


def _given(*tensors: torch.Tensor | None) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _is_taken(x: torch.Tensor, *vectors: torch.Tensor, training: bool) -> bool:
    """Whether stock PyTorch computes this as the operation does: x dense, vectors all of its dtype or all float32."""
    if x.numel() // max(x.shape[1], 1) <= training or not (x.is_cpu or x.is_cuda):
        return False  # nothing, or what norm_act refuses
    if x.stride() != layout.in_format(x, layout.format_of(x)).stride():
        return False
    return {vector.dtype for vector in vectors} in (set(), {x.dtype}, {torch.float32})
