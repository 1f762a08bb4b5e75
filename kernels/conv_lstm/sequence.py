"""What every implementation of the ConvLSTM does with states and whole sequences."""

from collections.abc import Sequence

import torch

from ..conv import conv_up, conv_weight_grad
from ..layout import with_channels_innermost


def gradients(
    x: torch.Tensor,
    h0: torch.Tensor,
    output: torch.Tensor,
    d_pre: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    wanted: Sequence[bool],
    memory_format: torch.memory_format,
    impl: str = "auto",
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of x, weight_ih, weight_hh and the bias, None where not wanted.

    Args:
        d_pre: (N, 4C, T, H, W), the gradients of all steps' gates before their activations.
        x, h0, output, weight_ih, weight_hh, wanted, memory_format: as the implementation's backward got them.
        impl: the implementation of the convolutions.
    """
    pad_ih, pad_hh = padding_of(weight_ih), padding_of(weight_hh)
    dx = d_ih = d_hh = d_bias = None
    if wanted[0]:
        dx = conv_up(d_pre, weight_ih.unsqueeze(2), padding=[0, *pad_ih], impl=impl)
    if wanted[3]:
        d_ih = conv_weight_grad(x, d_pre, [1, *weight_ih.shape[2:]], padding=[0, *pad_ih], impl=impl).squeeze(2)
    if wanted[4]:
        states = stack([h0, *output.unbind(2)[:-1]], memory_format)
        d_hh = conv_weight_grad(states, d_pre, [1, *weight_hh.shape[2:]], padding=[0, *pad_hh], impl=impl).squeeze(2)
    if wanted[5]:
        d_bias = d_pre.sum([0, 2, 3, 4])
    return dx, d_ih, d_hh, d_bias


def padding_of(weight: torch.Tensor) -> list[int]:
    """What keeps the size under an odd kernel."""
    return [size // 2 for size in weight.shape[2:]]


def stack(steps: Sequence[torch.Tensor], memory_format: torch.memory_format) -> torch.Tensor:
    """Steps (N, C, H, W) as one sequence (N, C, T, H, W), dense in the layout asked for."""
    if memory_format is torch.channels_last_3d:
        return torch.stack([step.permute(0, 2, 3, 1) for step in steps], 1).permute(0, 4, 1, 2, 3)
    return torch.stack(steps, 2)


def as_cell(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Cells as compiled and Triton kernels take them: channels innermost, of x's dtype or float32."""
    return with_channels_innermost(c if c.dtype == x.dtype else c.float())
