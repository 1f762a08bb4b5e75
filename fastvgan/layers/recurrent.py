"""Layers over the convolutional LSTM: one step, and a sequence."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastvgan.layers.tracing import TraceableLayer
from fastvgan_kernels import choice, conv_lstm, conv_lstm_cell


class _ConvLSTMBase(TraceableLayer):
    """The parameters of a convolutional LSTM: weight_ih (4C, C_in, k, k), weight_hh (4C, C, k, k), bias (4C,).

    The operations return h as a view of the output, which backward needs. Layers return a copy, as torch.nn.LSTM does:
    h may be detached or changed in place, and keeps no other step in memory.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        *,
        impl: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        choice.check_name(impl)
        for name, channels in (("in_channels", in_channels), ("hidden_channels", hidden_channels)):
            if not isinstance(channels, int):
                raise TypeError(f"{name} must be an int, not {type(channels).__name__}")
            if channels < 1:
                raise ValueError(f"{name} must be greater than zero, not {channels}")
        size = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        if len(size) != 2 or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in size):
            raise ValueError(f"kernel_size must be one odd integer or a pair of them, not {kernel_size!r}")
        self.in_channels, self.hidden_channels, self.kernel_size, self.impl = in_channels, hidden_channels, size, impl
        gates, place = 4 * hidden_channels, {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(gates, in_channels, *size, **place))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_channels, *size, **place))
        self.register_parameter("bias", nn.Parameter(torch.empty(gates, **place)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-b, b), b = 1/√(a gate's recurrent fan-in), as torch.nn.LSTM for kernel size 1."""
        bound = 1 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @property
    def weight(self) -> nn.Parameter:
        """weight_ih (4C, C_in, k, k), for initialisers that expect one in every class named after a convolution."""
        return self.weight_ih

    def extra_repr(self) -> str:
        """Return the sizes, as torch.nn's layers show them."""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}{bias}"


def _pair(state: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    if state is None:
        return None, None
    if isinstance(state, Tensor) or len(state) != 2:
        what = f"a Tensor of size {list(state.shape)}" if isinstance(state, Tensor) else f"a sequence of {len(state)}"
        raise ValueError(f"state must be the two tensors (h, c), not {what}")
    return state


class ConvLSTMCell(_ConvLSTMBase):
    """One step of a convolutional LSTM (Shi et al. 2015, without peepholes), on `conv_lstm_cell`.

    Args:
        in_channels: C_in.
        hidden_channels: C.
        kernel_size: one odd integer, or one for height and one for width.
        bias: whether the gates have a bias.
        impl: the implementation of the operation.
        device: as in torch.nn's layers.
        dtype: as in torch.nn's layers.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Compute the next state.

        Args:
            x: (N, C_in, H, W).
            state: h and c, each (N, C, H, W); None for zeros.

        Returns:
            The next h and c, each (N, C, H, W).
        """
        h, c = conv_lstm_cell(x, *_pair(state), self.weight_ih, self.weight_hh, self.bias, self.impl)
        return h.clone(), c


class ConvLSTM(_ConvLSTMBase):
    """A convolutional LSTM over a sequence (Shi et al. 2015, without peepholes), on `conv_lstm`.

    Takes the arguments of `ConvLSTMCell`.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Process a sequence.

        Args:
            x: (N, C_in, T, H, W).
            state: h and c before the first step, each (N, C, H, W); None for zeros.

        Returns:
            The output h of every step, (N, C, T, H, W), and the last state (h, c).
        """
        output, h, c = conv_lstm(x, *_pair(state), self.weight_ih, self.weight_hh, self.bias, self.impl)
        return output, (h.clone(), c)
