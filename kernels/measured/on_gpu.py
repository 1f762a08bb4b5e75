"""Why auto leaves a problem on a GPU to stock PyTorch instead of Triton, by the rules or by a trial.

With FASTVGAN_TUNE=1 a convolution that was not measured on this model of GPU is timed once both ways, outside any
capture. The faster one is stored beside Triton's tiles (triton/tuning.py), so later processes need no trial.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from .. import layout
from ..triton import tuning
from .capture import are_launches_captured
from .rules import Problem, choose, is_measured, operations

# Multiplications and additions of a convolution that keeps an H100 busy for as long as the host takes to launch it by
# Triton, about 0.1 ms. There, a step of `reference` by this package's eager operations took 27 ms, by stock PyTorch 6.
_WORTH_A_LAUNCH = 2e10
_NORM_WORTH_A_LAUNCH = 2**24  # elements; forward and backward move 16 bytes per element, in about 0.1 ms
_LAYOUT = "only channels_last_3d, one group and no dilation have been measured on a GPU"


def conv_up_slower(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> str | None:
    """Return why auto leaves this transposed convolution of x (N, C_in, *S) to stock PyTorch, or None."""
    if not _is_measured_kind(x, weight, dilation, groups):
        return _LAYOUT
    inputs, outputs, *kernel = weight.shape
    problem = _problem("conv_up", x, kernel, stride, inputs, outputs, x.shape[0] * math.prod(x.shape[2:]))
    return _slower(x, problem, (x, weight, None, stride, padding, output_padding, dilation, groups))


def conv_down_slower(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> str | None:
    """Return why auto leaves this convolution of x (N, C_in, *L) to stock PyTorch, or None."""
    if not _is_measured_kind(x, weight, dilation, groups):
        return _LAYOUT
    outputs, inputs, *kernel = weight.shape
    positions = x.shape[0]
    for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True):
        positions *= (n + 2 * p - k) // s + 1
    problem = _problem("conv_down", x, kernel, stride, inputs, outputs, positions)
    return _slower(x, problem, (x, weight, None, stride, padding, dilation, groups))


def conv_weight_grad_slower(
    large: torch.Tensor,
    small: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> str | None:
    """Return why auto leaves this weight gradient of large (N, C_large, *L) to stock PyTorch, or None."""
    if not _is_measured_kind(large, small, dilation, groups):
        return _LAYOUT
    positions = small.shape[0] * math.prod(small.shape[2:])
    problem = _problem("conv_weight_grad", large, kernel_size, stride, large.shape[1], small.shape[1], positions)
    return _slower(large, problem, (large, small, kernel_size, stride, padding, dilation, groups))


def is_worth_a_launch(taps: int, inputs: int, outputs: int, positions: int) -> bool:
    """Whether a convolution of that size keeps a GPU busy for as long as the host takes to launch it by Triton."""
    return operations(taps, inputs, outputs, positions) >= _WORTH_A_LAUNCH


def norm_act_slower(x: torch.Tensor) -> str | None:
    """Return why auto leaves a norm and activation of x (N, C, *space) to stock PyTorch, or None."""
    if layout.format_of(x) is not torch.channels_last_3d:
        return _LAYOUT
    if x.numel() < _NORM_WORTH_A_LAUNCH and not are_launches_captured():
        return "a norm this small takes less time than a Triton launch outside a CUDA graph"
    channels = x.shape[1]
    return _by_rule(x, _problem("norm_act", x, [1], [1], channels, channels, x.numel() // max(channels, 1)))


def conv_lstm_slower(x: torch.Tensor, weight_hh: torch.Tensor) -> str | None:
    """Return why auto leaves a ConvLSTM over x (N, C, T, H, W), forward and backward, to stock PyTorch, or None."""
    hidden, kernel = weight_hh.shape[1], weight_hh.shape[2:]
    positions = x.shape[0] * math.prod(x.shape[3:])  # of one step
    return _by_rule(x, _problem("conv_lstm", x, kernel, [1], x.shape[1], hidden, positions))


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Return the device's compute capability; that of an H100 for the CPU, which the interpreter runs on."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _is_measured_kind(x: torch.Tensor, other: torch.Tensor, dilation: Sequence[int], groups: int) -> bool:
    return groups == 1 and max(dilation) == 1 and layout.format_of(x, other) is torch.channels_last_3d


def _problem(
    operation: str,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    inputs: int,
    outputs: int,
    positions: int,
) -> Problem:
    dtype = str(x.dtype).removeprefix("torch.")
    return Problem(operation, dtype, math.prod(kernel), math.prod(stride), inputs, outputs, positions)


def _by_rule(x: torch.Tensor, problem: Problem) -> str | None:
    impl, why = choose(capability(x.device), problem)
    return None if impl == "triton" else why


def _convolution_by_rule(x: torch.Tensor, problem: Problem) -> str | None:
    why = _by_rule(x, problem)
    worth = is_worth_a_launch(problem.taps, problem.inputs, problem.outputs, problem.positions)
    if why is None and not worth and not are_launches_captured():
        return "a convolution this small takes less time than a Triton launch outside a CUDA graph"
    return why


def _slower(x: torch.Tensor, problem: Problem, arguments: tuple) -> str | None:
    if is_measured(tuning.device_name(x.device), capability(x.device), problem):
        return _convolution_by_rule(x, problem)
    faster = tuning.faster(x.device, problem, _both_ways(problem.operation, arguments))
    if faster is None:
        return _convolution_by_rule(x, problem)
    return None if faster == "triton" else "stock PyTorch was faster in a trial on this GPU"


def _both_ways(name: str, arguments: tuple) -> dict[str, Callable[[], object]]:
    def call(module: str) -> object:
        return getattr(importlib.import_module(f"..conv.{module}", __package__), name)(*arguments)

    return {impl: partial(call, impl) for impl in ("triton", "reference")}
