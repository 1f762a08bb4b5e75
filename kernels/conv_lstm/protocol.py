"""What implements the ConvLSTM: modules with these functions, which run below autograd."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class ConvLSTM(Protocol):
    """Shapes as in reference.py; memory_format is that of the sequences."""

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor | None,
        memory_format: torch.memory_format,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(output, last cell, gates, cells) of the whole sequence."""

    def backward(
        self,
        d_output: Tensor | None,
        d_cell: Tensor | None,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        output: Tensor,
        gates: Tensor,
        cells: Tensor,
        wanted: Sequence[bool],
        memory_format: torch.memory_format,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of x, h0, c0, weight_ih, weight_hh and the bias, None where not wanted."""
