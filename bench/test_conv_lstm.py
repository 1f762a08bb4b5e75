"""A convolutional LSTM over 16 steps, forward and backward: `ConvLSTM` against the plain loop over one convolution."""

import pytest
import torch
from support.networks import BATCH, conv_flops, share_inside
from support.variants import (
    DTYPES,
    FORMATS,
    STOCK,
    TINY,
    assert_as_accurate,
    describe,
    device,
    forward_backward,
    in_float64,
    in_layout,
    relative_error,
    stock,
    time_call,
)
from torch import nn

from fastvgan.layers import ConvLSTM

STEPS, SIZE, CHANNELS, KERNEL = 4 if TINY else 16, 16, 64, 3
# Allowed errors relative to the largest value, against stock float32, which a GPU multiplies in tf32.
LOOSE = {"fp32": 2e-5 if device().type == "cpu" else 5e-3, "bf16": 5e-2}


class PlainConvLSTM(nn.Module):
    """The tutorials' loop; its cell state has x's dtype, which under autocast is faster than our float32 state."""

    def __init__(self, channels=CHANNELS):
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(2 * channels, 4 * channels, KERNEL, padding=KERNEL // 2)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.channels, *x.shape[3:])
        outputs = []
        for frame in x.unbind(2):
            i, f, g, o = self.gates(torch.cat((frame, h), 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 2)


class OutputOnly(nn.Module):
    """Our layer with the plain loop's parameters, returning only the compared output."""

    def __init__(self, plain):
        super().__init__()
        self.lstm = ConvLSTM(plain.channels, plain.channels, KERNEL).to(device())
        weight_ih, weight_hh = plain.gates.weight.detach().split(plain.channels, 1)
        self.lstm.load_state_dict({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": plain.gates.bias.detach()})

    def forward(self, x):
        return self.lstm(x)[0]


def check(plain, x, dy, dtype):
    """Compare with float64 on a few clips, and with stock float32 on all clips, on which float64 would take minutes.

    The recurrence never mixes clips, so a few clips run the same code. The whole batch adds the clips' offsets and the
    weight gradients' sum, for which float32 is accurate enough.
    """
    # In our layout, since oneDNN's sums depend on it: float32 errors are six times larger in channels_last.
    plain = in_layout(plain, FORMATS["channels_last"])
    few = slice(0, None, max(1, x.shape[0] // 2))
    mine, theirs = (forward_backward(m, x[few], dy[few], dtype)() for m in (OutputOnly(plain), plain))
    exact = forward_backward(in_float64(plain), x[few].double(), dy[few].double())()
    assert_as_accurate(join_weight_grads(mine), theirs, exact, 3)
    mine, theirs = forward_backward(OutputOnly(plain), x, dy, dtype)(), forward_backward(plain, x.float(), dy.float())()
    for ours, right in zip(join_weight_grads(mine), theirs, strict=True):
        error = relative_error(ours, right)
        assert error < LOOSE[dtype], f"off by {error:.2g} over the whole batch"


def join_weight_grads(results):
    """Concatenate the gradients of our two weights, since the plain loop has one weight; keep the other results."""
    y, dx, weight_ih, weight_hh, bias = results
    return y, dx, torch.cat((weight_ih, weight_hh), 1), bias


@pytest.mark.parametrize("variant", [*STOCK, "ours-channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_lstm(benchmark, dtype, variant):
    torch.manual_seed(0)
    plain = PlainConvLSTM().to(device())
    x = torch.randn(BATCH, CHANNELS, STEPS, SIZE, SIZE, device=device(), dtype=DTYPES[dtype])
    dy = torch.randn_like(x)
    flops = 3 * STEPS * conv_flops(BATCH, (SIZE, SIZE), plain.gates.weight.shape)
    inside = share_inside(SIZE, SIZE, KERNEL, 1, KERNEL // 2) ** 2
    group = f"ConvLSTM {CHANNELS}→{CHANNELS}, {STEPS} steps of {SIZE}x{SIZE}, forward + backward, {dtype}"
    describe(benchmark, group, variant, dtype, flops=flops, needed_flops=round(flops * inside))
    if variant.startswith("ours"):
        x = x.contiguous(memory_format=FORMATS["channels_last"])
        check(plain, x, dy, dtype)
        module = OutputOnly(plain)
    else:
        module, x = stock(plain, variant, x)
    time_call(benchmark, forward_backward(module, x, dy, dtype))
