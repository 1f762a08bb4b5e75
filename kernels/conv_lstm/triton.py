"""The ConvLSTM with its steps in Triton, between the convolutions that are of all steps at once.

Both functions are as the reference's. A step's recurrent convolution and its pointwise update are one kernel, forward
and backward; states, gates and gradients are written straight to their places in the sequences, channels innermost;
tanh of the cell is computed again in backward. Nothing waits for the device, so that a CUDA graph can hold a sequence.
"""

import torch

from ..conv import conv_down, conv_up
from ..layout import empty_with_channels_innermost, with_channels_innermost
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.launch import elements, precision, reach, side_by_side_weight
from ..triton.support import on_its_device
from .protocol import Inputs, NeedsGrad, Saved
from .sequence import as_cell, compute_gradients, same_padding
from .triton_steps import step, step_backward

_LARGE = 2**31


@on_its_device
def forward(inputs: Inputs, memory_format):
    """Return output (N, C, T, H, W), the last cell state (N, C, H, W), gates (N, 4C, T, H, W) and cells as output."""
    x, h, c, weight_ih, weight_hh, bias = inputs
    n, hidden, height, width = h.shape
    steps, c_dtype = x.shape[2], c.dtype
    pad_ih = [0, *same_padding(weight_ih)]
    # The states' sizes: what the input's half must have, and has where kernels are odd.
    gates = conv_down(with_channels_innermost(x), weight_ih.unsqueeze(2), bias, padding=pad_ih, impl="triton")
    gates, c = with_channels_innermost(gates), as_cell(c, x)
    output, cells = (empty_with_channels_innermost(t, (n, hidden, steps, height, width)) for t in (x, c))
    if output.numel() == 0:
        return output, c.to(c_dtype, copy=True), gates, cells.to(c_dtype)
    h, w = with_channels_innermost(h), side_by_side_weight(weight_hh, x.dtype)
    config = None
    for t in range(steps):
        place = h, c, w, gates[:, :, t], output[:, :, t], cells[:, :, t]
        if config is None:
            config = _choose("forward", x, w, lambda config, place=place: _step(config, *_scratch(*place)))
        _step(config, *place)
        h, c = place[4:]
    return output, c.to(c_dtype, copy=True), gates, cells.to(c_dtype)


@on_its_device
def backward(d_output, d_cell, inputs: Inputs, saved: Saved, needed: NeedsGrad, memory_format):
    """Compute the gradients of `inputs`; shapes of arguments and results as in `ConvLSTM.backward`."""
    x, h0, c0, _, weight_hh, _ = inputs
    output, gates, cells = saved
    steps, c0_dtype = x.shape[2], c0.dtype
    x, gates = map(with_channels_innermost, (x, gates))
    cells, c0 = as_cell(cells, x), as_cell(c0, x)
    d_output = None if d_output is None else with_channels_innermost(d_output.to(x.dtype))
    w = side_by_side_weight(weight_hh, x.dtype)
    d_pre = empty_with_channels_innermost(x, gates.shape)
    # Two in turn: a program reads what came from the next step while another writes what goes to the one before.
    after, dc = (empty_with_channels_innermost(x, h0.shape, torch.float32) for _ in range(2))
    after.zero_() if d_cell is None else after.copy_(d_cell)
    config = None
    for t in range(steps - 1 if d_pre.numel() else -1, -1, -1):
        d_step = None if d_output is None else d_output[:, :, t]
        next_pre = d_pre[:, :, t + 1] if t + 1 < steps else None
        before = c0 if t == 0 else cells[:, :, t - 1]
        place = d_step, next_pre, w, gates[:, :, t], before, cells[:, :, t], after, dc, d_pre[:, :, t]
        if config is None:
            # A trial is of a step with its product, which the last one lacks; what it writes is written again.
            trial = d_step, d_pre[:, :, t], *place[2:]
            config = _choose("backward", x, w, lambda config, trial=trial: _step_backward(config, *trial))
        _step_backward(config, *place)
        after, dc = dc, after
    dh = conv_up(d_pre[:, :, 0], weight_hh, padding=same_padding(weight_hh), impl="triton") if needed.h0 else None
    others = compute_gradients(inputs._replace(x=x), output, d_pre, needed, memory_format, impl="triton")
    dx, d_ih, d_hh, d_bias = others
    return dx, dh, after.to(c0_dtype) if needed.c0 else None, d_ih, d_hh, d_bias


def _scratch(h, c, w, gates, output, cells):
    """The arguments of a step with copies of what it writes, for a trial must change nothing."""
    return h, c, w, gates.clone(), output.clone(), cells.clone()


def _problem(which, x, w):
    hidden = w.shape[1]
    rows, taps = x.shape[0] * x.shape[3:].numel(), w.shape[2:].numel()
    columns, depth = (4 * hidden, hidden) if which == "forward" else (hidden, 4 * hidden)
    return tuning.Problem(f"conv_lstm_{which}", x.device, x.dtype, rows, columns, depth * taps, precision(x))


def _choose(which, x, w, run):
    return tuning.choose(_problem(which, x, w), triton_configs.of(f"conv_lstm_{which}", precision(x), x), run)


def _space(state):
    """The strides of example, depth, row and column."""
    return state.stride(0), 0, state.stride(2), state.stride(3)


def _constants(config, w, depth, up, *tensors):
    kernel = (1, *w.shape[2:])
    padding = (0, *same_padding(w))
    return {
        "FIRST": (0, 0, 0), "KERNEL": kernel, "OFFSET": padding if up else tuple(-p for p in padding),
        "STEP": (1, 1, 1), "SHIFT": (-1, -1, -1) if up else (1, 1, 1), "EVEN": depth % elements(config, w) == 0,
        "WIDE": max(map(reach, tensors)) >= _LARGE, "PRECISION": precision(w), "BM": config.rows, "BN": config.columns,
        "BK": elements(config, w), **config.launch(),
    }  # fmt: skip


def _step(config, h, c, w, gates, output, cells):
    n, hidden, height, width = h.shape
    rows = n * height * width
    step[(-(-rows // config.rows) * -(-hidden // (config.columns // 4)),)](
        h, c, w, gates, output, cells, rows, (1, height, width), _space(h), _space(c), _space(gates), _space(output),
        _space(cells), w.stride(0), w.stride(1), (0, *w.stride()[2:]), hidden,
        **_constants(config, w, hidden, False, h, c, gates, output, cells),
    )  # fmt: skip


def _step_backward(config, d_output, d_pre_after, w, gates, c_before, cells, dc_after, dc, d_pre):
    n, hidden, height, width = cells.shape
    rows = n * height * width
    strides = (None if d_output is None else _space(d_output)), _space(d_pre), _space(gates)
    tensors = d_output, gates, c_before, cells, d_pre
    step_backward[(-(-rows // config.rows) * -(-hidden // config.columns),)](
        d_output, d_pre_after, w, gates, c_before, cells, dc_after, dc, d_pre, rows, (1, height, width), *strides,
        _space(c_before), _space(cells), _space(dc), w.stride(1), w.stride(0), (0, *w.stride()[2:]), hidden,
        **_constants(config, w, 4 * hidden, True, *(t for t in tensors if t is not None)),
    )  # fmt: skip
