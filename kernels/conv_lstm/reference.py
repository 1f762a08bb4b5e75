"""The ConvLSTM in plain PyTorch and the convolution operations: the definition of correct results, on every device.

Both functions are differentiable as they are, so they also compute gradients of higher order.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ..conv import conv_down, conv_up
from .protocol import Inputs, NeedsGrad, Saved
from .sequence import compute_gradients, same_padding, stack


def forward(inputs: Inputs, memory_format: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output (N, C, T, H, W), the last cell state (N, C, H, W), gates (N, 4C, T, H, W) and cells as output."""
    x, h, c, weight_ih, weight_hh, bias = inputs
    hidden, accumulate = h.shape[1], torch.promote_types(x.dtype, torch.float32)
    pad_ih, pad_hh = same_padding(weight_ih), same_padding(weight_hh)
    steps = conv_down(x, weight_ih.unsqueeze(2), bias, padding=[0, *pad_ih])  # (N, 4C, T, H, W), all at once
    outputs, gates, cells = [], [], []
    for step in steps.unbind(2):
        pre = step.to(accumulate) + conv_down(h, weight_hh, padding=pad_hh).to(accumulate)
        i, f = torch.sigmoid(pre[:, : 2 * hidden]).chunk(2, 1)
        g, o = torch.tanh(pre[:, 2 * hidden : 3 * hidden]), torch.sigmoid(pre[:, 3 * hidden :])
        new = f * c.to(accumulate) + i * g
        h, c = (o * torch.tanh(new)).to(x.dtype), new.to(c.dtype)
        outputs.append(h)
        gates.append(torch.cat([i, f, g, o], 1).to(x.dtype))
        cells.append(c)
    return stack(outputs, memory_format), c.clone(), stack(gates, memory_format), stack(cells, memory_format)


def stock(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Compute output (N, C, T, H, W) and the last cell state (N, C, H, W) with PyTorch's own operations.

    Reads no sizes, because a tracer would make constants of them.
    """
    x, h, c, weight_ih, weight_hh, bias = inputs
    accumulate = torch.promote_types(x.dtype, torch.float32)
    steps = functional.conv3d(x, weight_ih.unsqueeze(2), bias, padding="same")  # (N, 4C, T, H, W)
    outputs = []
    for step in steps.unbind(2):
        pre = step.to(accumulate) + functional.conv2d(h, weight_hh, padding="same").to(accumulate)
        i, f, g, o = pre.chunk(4, 1)
        new = torch.sigmoid(f) * c.to(accumulate) + torch.sigmoid(i) * torch.tanh(g)
        h, c = (torch.sigmoid(o) * torch.tanh(new)).to(x.dtype), new.to(c.dtype)
        outputs.append(h)
    return torch.stack(outputs, 2), c


def backward(
    d_output: Tensor | None,
    d_cell: Tensor | None,
    inputs: Inputs,
    saved: Saved,
    needed: NeedsGrad,
    memory_format: torch.memory_format,
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of `inputs`; shapes of arguments and results as in `ConvLSTM.backward`."""
    x, h0, c0, _, weight_hh, _ = inputs
    output, gates, cells = saved
    accumulate, steps = torch.promote_types(x.dtype, torch.float32), x.shape[2]
    dh = None if d_output is None else torch.zeros_like(h0)
    dc = torch.zeros_like(c0, dtype=accumulate) if d_cell is None else d_cell.to(accumulate)
    before = [c0, *cells.unbind(2)]
    d_gates = []  # last step first
    for t in range(steps - 1, -1, -1):
        i, f, g, o = gates[:, :, t].to(accumulate).chunk(4, 1)
        bounded = torch.tanh(before[t + 1].to(accumulate))
        d_o = torch.zeros_like(o)
        if d_output is not None and dh is not None:
            dh = dh.to(accumulate) + d_output[:, :, t].to(accumulate)
        if dh is not None:
            dc = dc + dh * o * (1 - bounded.square())
            d_o = dh * bounded * o * (1 - o)
        d_i, d_f = dc * g * i * (1 - i), dc * before[t].to(accumulate) * f * (1 - f)
        d_gates.append(torch.cat([d_i, d_f, dc * i * (1 - g.square()), d_o], 1).to(x.dtype))
        dc = dc * f
        if t > 0 or needed.h0:
            dh = conv_up(d_gates[-1], weight_hh, padding=same_padding(weight_hh))
    d_pre = stack(d_gates[::-1], memory_format)
    dx, d_ih, d_hh, d_bias = compute_gradients(inputs, output, d_pre, needed, memory_format)
    return dx, dh if needed.h0 else None, dc.to(c0.dtype) if needed.c0 else None, d_ih, d_hh, d_bias
