"""The ConvLSTM in plain PyTorch and the convolution operations: the definition of right, everywhere.

Both functions are differentiable as they stand, so that they also serve where gradients of higher order are wanted.
Shapes: x (N, C_in, T, H, W), states (N, C, H, W), gates (N, 4C, T, H, W) after their activations in the order
i, f, g, o, cells (N, C, T, H, W).
"""

import torch
from torch.nn import functional

from ..conv import conv_down, conv_up
from .sequence import gradients, padding_of, stack


def forward(x, h, c, weight_ih, weight_hh, bias, memory_format):
    """(output, last cell, gates, cells) of the whole sequence."""
    hidden, accumulate = h.shape[1], torch.promote_types(x.dtype, torch.float32)
    pad_ih, pad_hh = padding_of(weight_ih), padding_of(weight_hh)
    inputs = conv_down(x, weight_ih.unsqueeze(2), bias, padding=[0, *pad_ih])  # (N, 4C, T, H, W), all steps at once
    outputs, gates, cells = [], [], []
    for step in inputs.unbind(2):
        pre = step.to(accumulate) + conv_down(h, weight_hh, padding=pad_hh).to(accumulate)
        i, f = torch.sigmoid(pre[:, : 2 * hidden]).chunk(2, 1)
        g, o = torch.tanh(pre[:, 2 * hidden : 3 * hidden]), torch.sigmoid(pre[:, 3 * hidden :])
        new = f * c.to(accumulate) + i * g
        h, c = (o * torch.tanh(new)).to(x.dtype), new.to(c.dtype)
        outputs.append(h)
        gates.append(torch.cat([i, f, g, o], 1).to(x.dtype))
        cells.append(c)
    return stack(outputs, memory_format), c.clone(), stack(gates, memory_format), stack(cells, memory_format)


def stock(x, h, c, weight_ih, weight_hh, bias):
    """(output, last cell) out of PyTorch's own operations, without a look at any size, which a tracer would freeze."""
    accumulate = torch.promote_types(x.dtype, torch.float32)
    inputs = functional.conv3d(x, weight_ih.unsqueeze(2), bias, padding="same")  # (N, 4C, T, H, W)
    outputs = []
    for step in inputs.unbind(2):
        pre = step.to(accumulate) + functional.conv2d(h, weight_hh, padding="same").to(accumulate)
        i, f, g, o = pre.chunk(4, 1)
        new = torch.sigmoid(f) * c.to(accumulate) + torch.sigmoid(i) * torch.tanh(g)
        h, c = (torch.sigmoid(o) * torch.tanh(new)).to(x.dtype), new.to(c.dtype)
        outputs.append(h)
    return torch.stack(outputs, 2), c


def backward(d_output, d_cell, x, h0, c0, weight_ih, weight_hh, output, gates, cells, wanted, memory_format):
    """The gradients of x, h0, c0, weight_ih, weight_hh and the bias, None where not wanted.

    Args:
        d_output, d_cell: the gradients of the output and of the last cell, None where not used.
        output, gates, cells: as forward returned them.
        wanted: six booleans.
        memory_format: of the sequences made here.
    """
    accumulate, steps = torch.promote_types(x.dtype, torch.float32), x.shape[2]
    pad_hh = padding_of(weight_hh)
    dh = None if d_output is None else torch.zeros_like(h0)
    dc = torch.zeros_like(c0, dtype=accumulate) if d_cell is None else d_cell.to(accumulate)
    before = [c0, *cells.unbind(2)]
    d_gates = [None] * steps
    for t in range(steps - 1, -1, -1):
        i, f, g, o = gates[:, :, t].to(accumulate).chunk(4, 1)
        bounded = torch.tanh(before[t + 1].to(accumulate))
        d_o = torch.zeros_like(o)
        if d_output is not None:
            dh = dh.to(accumulate) + d_output[:, :, t].to(accumulate)
        if dh is not None:
            dc = dc + dh * o * (1 - bounded.square())
            d_o = dh * bounded * o * (1 - o)
        d_i, d_f = dc * g * i * (1 - i), dc * before[t].to(accumulate) * f * (1 - f)
        d_gates[t] = torch.cat([d_i, d_f, dc * i * (1 - g.square()), d_o], 1).to(x.dtype)
        dc = dc * f
        if t > 0 or wanted[1]:
            dh = conv_up(d_gates[t], weight_hh, padding=pad_hh)
    d_pre = stack(d_gates, memory_format)
    dx, d_ih, d_hh, d_bias = gradients(x, h0, output, d_pre, weight_ih, weight_hh, wanted, memory_format)
    return dx, dh if wanted[1] else None, dc.to(c0.dtype) if wanted[2] else None, d_ih, d_hh, d_bias
