"""The functions that every implementation of the ConvLSTM has, which run below autograd."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """The tensors that a ConvLSTM computes from.

    Args:
        x: (N, C_in, T, H, W).
        h0: (N, C, H, W), the first hidden state, of x's dtype.
        c0: (N, C, H, W), the first cell state, of x's dtype or float32.
        weight_ih: (4C, C_in, k, k), gates in the order i, f, g, o.
        weight_hh: (4C, C, k, k).
        bias: (4C,), or None for 0.
    """

    x: Tensor
    h0: Tensor
    c0: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None


class NeedsGrad(NamedTuple):
    """Whether each of `Inputs` needs a gradient."""

    x: bool
    h0: bool
    c0: bool
    weight_ih: bool
    weight_hh: bool
    bias: bool


class Saved(NamedTuple):
    """The results of forward that backward reads.

    Args:
        output: (N, C, T, H, W), the hidden state of every step.
        gates: (N, 4C, T, H, W), i, f, g and o after their activations.
        cells: (N, C, T, H, W), the cell state of every step.
    """

    output: Tensor
    gates: Tensor
    cells: Tensor


class ConvLSTM(Protocol):
    """The functions that every implementation has."""

    def forward(self, inputs: Inputs, memory_format: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the whole sequence.

        Args:
            inputs: shapes as above.
            memory_format: of the sequences.

        Returns:
            output (N, C, T, H, W), the last cell state (N, C, H, W), gates and cells as in `Saved`.
        """

    def backward(
        self,
        d_output: Tensor | None,
        d_cell: Tensor | None,
        inputs: Inputs,
        saved: Saved,
        needed: NeedsGrad,
        memory_format: torch.memory_format,
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of `Inputs`.

        Args:
            d_output: (N, C, T, H, W), or None where the output was not used.
            d_cell: (N, C, H, W), of the last cell state, or None where it was not used.
            inputs: as forward got them.
            saved: as forward returned them.
            needed: the gradients to compute.
            memory_format: of the sequences.

        Returns:
            Six gradients in the order of `Inputs`, None where not needed.
        """
