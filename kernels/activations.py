"""The activations that operations compute: names, codes for kernels, and PyTorch's functions."""

import math

import torch
from torch.nn import functional

# "gelu" is exact, by the error function.
ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh", "silu", "gelu")
# Passed to kernels. csrc/norm_act.h (C++ and CUDA), csrc/cpu/activation.h and triton/math.py have the same numbers;
# tests/kernels/test_activations.py checks it.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
# A convolution's inner loops are compiled once for each of these. The others are not worth that: norm_act computes
# them in a separate pass.
CONV_ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")

_WITHOUT_SLOPE = {"relu": torch.relu, "tanh": torch.tanh, "silu": functional.silu, "gelu": functional.gelu}


def check_activation(activation: str) -> None:
    """Check the name of an activation.

    Raises:
        ValueError: it is not one of ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")


def activate(y: torch.Tensor, activation: str, slope: float) -> torch.Tensor:
    """Return the activation of y, a tensor of any shape; `slope` is that of "leaky_relu" below 0."""
    if activation == "leaky_relu":
        return functional.leaky_relu(y, slope)
    return y if activation == "none" else _WITHOUT_SLOPE[activation](y)


def activate_(y: torch.Tensor, activation: str, slope: float) -> torch.Tensor:
    """Compute the activation in place where y, of any shape, belongs to the operation, and return it."""
    if activation == "relu":
        return torch.relu_(y)
    if activation == "leaky_relu":
        return functional.leaky_relu_(y, slope)
    if activation == "silu":
        return functional.silu(y, inplace=True)
    if activation == "gelu":
        return torch.ops.aten.gelu_(y)
    return torch.tanh_(y) if activation == "tanh" else y


def activation_backward(dy: torch.Tensor, z: torch.Tensor, activation: str, slope: float) -> torch.Tensor:
    """Return the gradient of an activation's input.

    Args:
        dy: gradient of the activation's output, of any shape.
        z: the activation's input, of dy's shape; may be overwritten.
        activation: any of ACTIVATIONS but "none".
        slope: of "leaky_relu" below 0.
    """
    if activation == "relu":
        return torch.ops.aten.threshold_backward(dy, z, 0)
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(dy, z, slope, False)
    if activation == "silu":
        return torch.ops.aten.silu_backward(dy, z)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(dy, z)
    return torch.ops.aten.tanh_backward(dy, torch.tanh_(z))


def slope_at(z: torch.Tensor, activation: str, slope: float) -> torch.Tensor:
    """Return the activation's derivative at z, a tensor of any shape; differentiable where it is not constant."""
    if activation == "relu":
        return (z > 0).to(z.dtype)
    if activation == "leaky_relu":
        return torch.where(z > 0, 1.0, slope).to(z.dtype)
    if activation == "silu":
        share = torch.sigmoid(z)
        return share * (1 + z * torch.sigmoid(-z))
    if activation == "gelu":
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return 0.5 * torch.erfc(z * -math.sqrt(0.5)) + z * density
    return 1 - torch.tanh(z).square() if activation == "tanh" else torch.ones_like(z)
