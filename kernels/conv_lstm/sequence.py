"""Operations on states and whole sequences that every implementation of the ConvLSTM shares."""

import torch
from torch import Tensor

from ..conv import conv_up, conv_weight_grad
from ..layout import with_channels_innermost
from .protocol import Inputs, NeedsGrad


def compute_gradients(
    inputs: Inputs,
    output: Tensor,
    d_pre: Tensor,
    needed: NeedsGrad,
    memory_format: torch.memory_format,
    impl: str = "auto",
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of x, weight_ih, weight_hh and the bias from those of all steps' gates.

    Args:
        inputs: as the implementation's backward got them.
        output: (N, C, T, H, W), the hidden state of every step.
        d_pre: (N, 4C, T, H, W), the gradients of the gates before their activations.
        needed: the gradients to compute.
        memory_format: of the sequences.
        impl: the implementation of the convolutions.

    Returns:
        Gradients (N, C_in, T, H, W), (4C, C_in, k, k), (4C, C, k, k) and (4C,), None where not needed.
    """
    x, h0, _, weight_ih, weight_hh, _ = inputs
    pad_ih, pad_hh = same_padding(weight_ih), same_padding(weight_hh)
    dx = d_ih = d_hh = d_bias = None
    if needed.x:
        dx = conv_up(d_pre, weight_ih.unsqueeze(2), padding=[0, *pad_ih], impl=impl)
    if needed.weight_ih:
        d_ih = conv_weight_grad(x, d_pre, [1, *weight_ih.shape[2:]], padding=[0, *pad_ih], impl=impl).squeeze(2)
    if needed.weight_hh:
        states = stack([h0, *output.unbind(2)[:-1]], memory_format)
        d_hh = conv_weight_grad(states, d_pre, [1, *weight_hh.shape[2:]], padding=[0, *pad_hh], impl=impl).squeeze(2)
    if needed.bias:
        d_bias = d_pre.sum([0, 2, 3, 4])
    return dx, d_ih, d_hh, d_bias


def same_padding(weight: Tensor) -> list[int]:
    """Return the padding for which a weight (C_out, C_in, *kernel) of odd kernel sizes keeps its input's size."""
    return [size // 2 for size in weight.shape[2:]]


def stack(steps: list[Tensor], memory_format: torch.memory_format) -> Tensor:
    """Stack steps (N, C, H, W) to a sequence (N, C, T, H, W), dense in the given memory format."""
    if memory_format is torch.channels_last_3d:
        return torch.stack([step.permute(0, 2, 3, 1) for step in steps], 1).permute(0, 4, 1, 2, 3)
    return torch.stack(steps, 2)


def as_cell(c: Tensor, x: Tensor) -> Tensor:
    """Return cell states c (N, C, *space) as kernels take them: channels innermost, of x's dtype or float32."""
    return with_channels_innermost(c if c.dtype == x.dtype else c.float())
