"""The ConvLSTM with its steps in Triton, between convolutions that cover all steps at once.

Both functions have the reference's contract. A step's recurrent convolution and its pointwise update are one kernel,
forward and backward. States, gates and gradients are written directly into the sequences, channels innermost; tanh of
the cell is recomputed in backward. Nothing waits for the device, so a CUDA graph can capture a sequence.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..conv import conv_down, conv_up
from ..layout import empty_with_channels_innermost, with_channels_innermost
from ..triton import configs as triton_configs
from ..triton import tuning
from ..triton.arguments import Plan, Weight, tap_geometry
from ..triton.launch import elements, extent, precision, with_innermost_channels
from ..triton.support import on_its_device
from .protocol import Inputs, NeedsGrad, Saved
from .sequence import as_cell, compute_gradients, same_padding
from .triton_steps import Backward, Forward, Sizes, State, step_backward_kernel, step_kernel

_LARGE = 2**31


@on_its_device
def forward(inputs: Inputs, memory_format):
    """Return output (N, C, T, H, W), the last cell state (N, C, H, W), gates (N, 4C, T, H, W) and cells as output."""
    x, h, c, weight_ih, weight_hh, bias = inputs
    n, hidden, height, width = h.shape
    steps, c_dtype = x.shape[2], c.dtype
    pad_ih = [0, *same_padding(weight_ih)]
    # With odd kernels and this padding, the input's half of the gates has the states' height and width.
    gates = conv_down(with_channels_innermost(x), weight_ih.unsqueeze(2), bias, padding=pad_ih, impl="triton")
    gates, c = with_channels_innermost(gates), as_cell(c, x)
    output, cells = (empty_with_channels_innermost(t, (n, hidden, steps, height, width)) for t in (x, c))
    if output.numel() == 0:
        return output, c.to(c_dtype, copy=True), gates, cells.to(c_dtype)
    h, w = with_channels_innermost(h), with_innermost_channels(weight_hh, x.dtype)
    config = None
    for t in range(steps):
        states = h, c, gates[:, :, t], output[:, :, t], cells[:, :, t]
        if config is None:
            config = _choose("forward", x, w, lambda config, states=states: _step(config, w, *_copy_written(*states)))
        _step(config, w, *states)
        h, c = states[3:]
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
    w = with_innermost_channels(weight_hh, x.dtype)
    d_pre = empty_with_channels_innermost(x, gates.shape)
    # Two buffers take turns: a program reads the next step's gradient while another writes the one for the step before.
    after, dc = (empty_with_channels_innermost(x, h0.shape, torch.float32) for _ in range(2))
    after.zero_() if d_cell is None else after.copy_(d_cell)
    config = None
    for t in range(steps - 1 if d_pre.numel() else -1, -1, -1):
        d_step = None if d_output is None else d_output[:, :, t]
        next_pre = d_pre[:, :, t + 1] if t + 1 < steps else None
        before = c0 if t == 0 else cells[:, :, t - 1]
        states = d_step, next_pre, gates[:, :, t], before, cells[:, :, t], after, dc, d_pre[:, :, t]
        if config is None:
            # Tuning runs a step with a product, which the last step lacks; its results are overwritten.
            trial = d_step, d_pre[:, :, t], *states[2:]
            config = _choose("backward", x, w, lambda config, trial=trial: _step_backward(config, w, *trial))
        _step_backward(config, w, *states)
        after, dc = dc, after
    dh = conv_up(d_pre[:, :, 0], weight_hh, padding=same_padding(weight_hh), impl="triton") if needed.h0 else None
    others = compute_gradients(inputs._replace(x=x), output, d_pre, needed, memory_format, impl="triton")
    dx, d_ih, d_hh, d_bias = others
    return dx, dh, after.to(c0_dtype) if needed.c0 else None, d_ih, d_hh, d_bias


def _copy_written(h: Tensor, c: Tensor, gates: Tensor, output: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
    """The states of a step with copies of those it writes, because tuning must change nothing."""
    return h, c, gates.clone(), output.clone(), cells.clone()


def _problem(which: str, x: Tensor, w: Tensor) -> tuning.Problem:
    hidden = w.shape[1]
    rows, taps = x.shape[0] * x.shape[3:].numel(), w.shape[2:].numel()
    columns, depth = (4 * hidden, hidden) if which == "forward" else (hidden, 4 * hidden)
    return tuning.Problem(f"conv_lstm_{which}", x.device, x.dtype, rows, columns, depth * taps, precision(x))


def _choose(which: str, x: Tensor, w: Tensor, run: Callable[[tuning.Config], None]) -> tuning.Config:
    return tuning.choose(_problem(which, x, w), triton_configs.of(f"conv_lstm_{which}", precision(x), x), run)


def _state(x: Tensor) -> State:
    strides = x.stride()
    return State(x, strides[0], (0, strides[2], strides[3]))


def _plan(config: tuning.Config, w: Tensor, inputs: int, up: bool, tensors: Sequence[Tensor | None]) -> Plan:
    depth, ones = elements(config, w), (1, 1, 1)
    geometry = tap_geometry(up, (1, *w.shape[2:]), ones, (0, *same_padding(w)), ones)
    is_wide = max(extent(t) for t in tensors if t is not None) >= _LARGE
    return Plan(geometry, config.rows, config.columns, depth, precision(w), inputs % depth == 0, is_wide)


def _step(config: tuning.Config, w: Tensor, h: Tensor, c: Tensor, gates: Tensor, output: Tensor, cells: Tensor) -> None:
    n, hidden, height, width = h.shape
    rows, (w_out, w_in, *taps) = n * height * width, w.stride()
    step_kernel[(-(-rows // config.rows) * -(-hidden // (config.columns // 4)),)](
        Forward(_state(h), _state(c), _state(gates), _state(output), _state(cells)),
        Weight(w, 0, w_out, w_in, (0, *taps)),
        Sizes(rows, (1, height, width), hidden),
        _plan(config, w, hidden, False, (h, c, gates, output)),
        **config.launch(),
    )


def _step_backward(
    config: tuning.Config,
    w: Tensor,
    d_output: Tensor | None,
    d_pre_after: Tensor | None,
    gates: Tensor,
    *states: Tensor,
) -> None:
    """Launch `step_backward_kernel`; states: the remaining fields of its Backward."""
    c_before, cells, dc_after, dc, d_pre = states
    n, hidden, height, width = cells.shape
    rows, (w_in, w_out, *taps) = n * height * width, w.stride()
    step_backward_kernel[(-(-rows // config.rows) * -(-hidden // config.columns),)](
        Backward(
            None if d_output is None else _state(d_output),
            d_pre_after,
            _state(gates),
            _state(c_before),
            _state(cells),
            dc_after,
            _state(dc),
            _state(d_pre),
        ),
        Weight(w, 0, w_out, w_in, (0, *taps)),
        Sizes(rows, (1, height, width), hidden),
        _plan(config, w, 4 * hidden, True, (d_output, gates, c_before, cells, d_pre)),
        **config.launch(),
    )
