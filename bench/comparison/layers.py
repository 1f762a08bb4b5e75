"""Rows: a ConvLSTM over a sequence, forward and backward."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from architectures.recurrent import ConvLSTMCell
from comparison.rows import Check, Opened, Row, largest_relative_error, name_stock, without_result
from support.variants import DTYPES, TINY, device, forward_backward, stock
from torch import nn

from fastvgan.layers import ConvLSTM

BATCH, CHANNELS, STEPS, SIZE, KERNEL = (2, 4, 3, 8, 3) if TINY else (16, 64, 16, 16, 3)
TOLERANCE = {"fp32": 1e-4 if device().type == "cpu" else 5e-3, "bf16": 5e-2}  # a GPU multiplies float32 in tf32


class LoopedConvLSTM(nn.Module):
    """The usual ConvLSTM: a cell with one convolution for all gates, called once per frame.

    Source: Shi et al. 2015, equation 3, without the peephole weights, as in public PyTorch code.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cell = ConvLSTMCell(channels, channels, KERNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Process a sequence (N, C, T, H, W); return the output of every step, of the same shape."""
        outputs, state = [], self.cell.zeros(x[:, :, 0])
        for frame in x.unbind(2):
            state = self.cell(frame, state)
            outputs.append(state[0])
        return torch.stack(outputs, 2)


class OurConvLSTM(nn.Module):
    """Our layer with the loop's parameters; its gates are i, f, g, o, the cell's are i, f, o, g."""

    def __init__(self, loop: LoopedConvLSTM):
        super().__init__()
        conv, channels = loop.cell.conv, loop.cell.hidden
        i, f, o, g = torch.arange(4 * channels).chunk(4)
        self.order = torch.cat([i, f, g, o])
        self.lstm = ConvLSTM(channels, channels, KERNEL).to(device())
        weight = conv.weight.detach()[self.order]
        parts = {"weight_ih": weight[:, :channels], "weight_hh": weight[:, channels:]}
        self.lstm.load_state_dict({**parts, "bias": conv.bias.detach()[self.order]})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]

    def in_loops_order(self, results: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Arrange output and gradients as those of the loop: one weight, gates in its order."""
        y, dx, weight_ih, weight_hh, bias = results
        back = self.order.argsort()
        return [y, dx, torch.cat([weight_ih, weight_hh], 1)[back], bias[back]]


@contextmanager
def open_conv_lstm(dtype: str) -> Iterator[Opened]:
    """Open the ConvLSTM; with bf16 under autocast over float32 parameters."""
    torch.manual_seed(0)
    loop = LoopedConvLSTM(CHANNELS).to(device())
    ours = OurConvLSTM(loop)
    x = torch.randn(BATCH, CHANNELS, STEPS, SIZE, SIZE, device=device(), dtype=DTYPES[dtype])
    dy = torch.randn_like(x)
    mine = forward_backward(ours, x.contiguous(memory_format=torch.channels_last_3d), dy, dtype)
    found = ours.in_loops_order(mine())
    sides: dict[str, Callable[[], tuple[torch.Tensor, ...]]] = {}
    for name, variant in name_stock("the usual loop over a cell", "torch.compile of the loop").items():
        sides[name] = forward_backward(*stock(copy.deepcopy(loop), variant, x), dy, dtype)
    off = max(largest_relative_error(found, run()) for run in sides.values())
    check = Check("output and all gradients, relative to the largest value", off, TOLERANCE[dtype])
    sides["fastvgan.layers.ConvLSTM"] = mine
    yield Opened({name: without_result(run) for name, run in sides.items()}, check)


def rows() -> list[Row]:
    """Return the rows."""
    work = f"ConvLSTM {CHANNELS}→{CHANNELS} over {STEPS} frames of {SIZE}x{SIZE}, {BATCH} clips, forward + backward"
    return [
        Row("conv-lstm-fp32", f"{work}, float32", lambda: open_conv_lstm("fp32"), 25),
        Row("conv-lstm-bf16", f"{work}, bfloat16", lambda: open_conv_lstm("bf16"), 20),
    ]
