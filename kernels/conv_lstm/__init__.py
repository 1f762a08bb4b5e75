"""The convolutional LSTM, as one step and as a sequence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import choice, extension, layout
from ..arguments import check_same_kind
from ..dispatch import autocasts, define, differentiable, differentiable_by, wants_stock
from ..measured import on_gpu, rules
from . import compiled, reference
from .protocol import ConvLSTM, Inputs, NeedsGrad, Saved

for _operation in ("conv_lstm_cell", "conv_lstm"):
    choice.register(
        _operation,
        cpp=choice.Implementation(compiled, refusal=compiled.refusal, missing=extension.reason),
        triton=choice.in_triton(__name__, on_gpu.conv_lstm_slower, rules.has("conv_lstm")),
        reference=choice.Implementation(reference),
    )


def conv_lstm(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """A convolutional LSTM over a sequence.

        i, f, o = σ(W_ih ∗ x_t + W_hh ∗ h_{t-1} + b)   g = tanh(the same)
        c_t = f · c_{t-1} + i · g                      h_t = o · tanh(c_t)

    Args:
        x: (N, C_in, T, H, W), T ≥ 1, any floating-point dtype.
        h0: (N, C, H, W) of x's dtype, or None for zeros.
        c0: (N, C, H, W) of x's dtype or float32, or None for zeros, in float32 at least.
        weight_ih: (4C, C_in, k, k), gates in the order i, f, g, o, odd kernel sizes, which may differ.
        weight_hh: (4C, C, k, k), gates in the same order, odd kernel sizes, which may differ from weight_ih's.
        bias: (4C,) or None.
        impl: "auto" or an implementation's name.

    Returns:
        output: (N, C, T, H, W) of x's dtype, every h_t.
        h: (N, C, H, W), the last h_t, a view of output.
        c: (N, C, H, W), the last c_t, of c0's dtype.
        All are channels-last where x or weight_ih is.

    Raises:
        ValueError: shapes that do not fit, or a named implementation that cannot run.
        TypeError: dtypes that are not floating-point or differ.

    Source: Shi et al., "Convolutional LSTM Network", 2015, without the peephole connections.
    """
    if not wants_stock():  # a tracer's sizes are tensors, and it warns about each condition on one
        _check(x, h0, c0, weight_ih, weight_hh, bias, impl)
    shape = (x.shape[0], weight_hh.shape[1], *x.shape[3:])
    h0 = x.new_zeros(shape) if h0 is None else h0
    c0 = x.new_zeros(shape, dtype=torch.promote_types(x.dtype, torch.float32)) if c0 is None else c0
    output, c = _conv_lstm(x, h0, c0, weight_ih, weight_hh, bias, impl)
    return output, output[:, :, -1], c


def conv_lstm_cell(
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of a convolutional LSTM: `conv_lstm` of a sequence of one.

    Args:
        x: (N, C_in, H, W), any floating-point dtype.
        h: (N, C, H, W) of x's dtype, or None for zeros.
        c: (N, C, H, W) of x's dtype or float32, or None for zeros, in float32 at least.
        weight_ih: (4C, C_in, k, k), as conv_lstm's.
        weight_hh: (4C, C, k, k), as conv_lstm's.
        bias: (4C,) or None.
        impl: "auto" or an implementation's name.

    Returns:
        The new h and c, (N, C, H, W), of x's and c's dtypes. Channels-last where x or weight_ih is.

    Raises:
        ValueError: shapes that do not fit, or a named implementation that cannot run.
        TypeError: dtypes that are not floating-point or differ.

    Source: Shi et al., "Convolutional LSTM Network", 2015, without the peephole connections.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a Tensor, not {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), not {tuple(x.shape)}")
    _, h, c = conv_lstm(x.unsqueeze(2), h, c, weight_ih, weight_hh, bias, impl)
    return h, c


def _check(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    impl: str,
) -> None:
    choice.check_name(impl)
    check_same_kind("x", x, h=h0, weight_ih=weight_ih, weight_hh=weight_hh, bias=bias)
    if x.dim() != 5 or x.shape[2] < 1:
        raise ValueError(f"x must be (N, C, T, H, W) with at least one step, not {tuple(x.shape)}")
    if weight_hh.dim() != 4 or weight_hh.shape[0] != 4 * weight_hh.shape[1]:
        raise ValueError(f"weight_hh must be (4C, C, k, k), not {tuple(weight_hh.shape)}")
    hidden = weight_hh.shape[1]
    if weight_ih.dim() != 4 or weight_ih.shape[0] != 4 * hidden:
        raise ValueError(f"weight_ih must be ({4 * hidden}, C_in, k, k), not {tuple(weight_ih.shape)}")
    if x.shape[1] != weight_ih.shape[1]:
        raise ValueError(
            f"given weight_ih of size {list(weight_ih.shape)}, expected input {list(x.shape)} to have "
            f"{weight_ih.shape[1]} channels, but got {x.shape[1]} channels instead"
        )
    if any(size % 2 == 0 for size in (*weight_ih.shape[2:], *weight_hh.shape[2:])):
        raise ValueError("the kernel sizes of a convolutional LSTM must be odd")
    if bias is not None and bias.shape != (4 * hidden,):
        raise ValueError(f"bias must be of shape ({4 * hidden},), not {tuple(bias.shape)}")
    shape = (x.shape[0], hidden, *x.shape[3:])
    for name, state in (("h", h0), ("c", c0)):
        if state is not None and state.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, not {tuple(state.shape)}")
    if c0 is not None and (c0.device != x.device or not c0.is_floating_point()):
        raise ValueError(f"c must be floating-point on {x.device}, not {c0.dtype} on {c0.device}")


def _formats(x: Tensor, weight_ih: Tensor) -> tuple[torch.memory_format, torch.memory_format]:
    """Return the memory formats of the sequences and of the states."""
    if layout.format_of(x, weight_ih) is torch.contiguous_format:
        return torch.contiguous_format, torch.contiguous_format
    return torch.channels_last_3d, torch.channels_last


def _forward_kernel(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, impl: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    functions: ConvLSTM = choice.pick("conv_lstm", impl, x, weight_hh)
    sequence, state = _formats(x, weight_ih)
    output, c, gates, cells = functions.forward(Inputs(x, h0, c0, weight_ih, weight_hh, bias), sequence)
    output, gates, cells = (layout.in_format(t, sequence) for t in (output, gates, cells))
    return output, layout.in_format(c, state), gates, cells


def _kernel(*args: Any) -> tuple[Tensor, Tensor]:
    output, c, _, _ = _forward_kernel(*args)
    return output, c


def _forward_fake(
    x: Tensor, _h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, t, height, width = x.shape[0], *x.shape[2:]
    hidden, (sequence, state) = weight_hh.shape[1], _formats(x, weight_ih)
    states = (n, hidden, t, height, width)
    return (
        layout.empty(states, x, sequence),
        layout.empty((n, hidden, height, width), c0, state),
        layout.empty((n, 4 * hidden, t, height, width), x, sequence),
        layout.empty(states, c0, sequence),
    )


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    output, c, _, _ = _forward_fake(*args)
    return output, c


def _composite(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, impl: str
) -> tuple[Tensor, Tensor]:
    return reference.stock(Inputs(x, h0, c0, weight_ih, weight_hh, bias))


def _backward_kernel(
    d_output: Tensor | None,
    d_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
    wanted: Sequence[bool],
    impl: str,
) -> tuple[Tensor, ...]:
    functions: ConvLSTM = choice.pick("conv_lstm", impl, x, weight_hh)
    inputs, saved = Inputs(x, h0, c0, weight_ih, weight_hh, bias), Saved(output, gates, cells)
    sequence, _ = _formats(x, weight_ih)
    grads = functions.backward(d_output, d_c, inputs, saved, NeedsGrad(*wanted), sequence)
    formats = _gradient_formats(x, weight_ih, weight_hh)
    return tuple(
        x.new_empty(0) if grad is None else grad if grad.dim() < 4 else layout.in_format(grad, memory_format)
        for grad, memory_format in zip(grads, formats, strict=True)
    )


def _backward_fake(
    _d_output: Tensor | None,
    _d_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    _bias: Tensor | None,
    _output: Tensor,
    _gates: Tensor,
    _cells: Tensor,
    wanted: Sequence[bool],
    impl: str,
) -> tuple[Tensor, ...]:
    likes = (x, h0, c0, weight_ih, weight_hh, weight_hh.new_empty(weight_hh.shape[0]))
    formats = _gradient_formats(x, weight_ih, weight_hh)
    return tuple(
        layout.empty(like.shape, like, memory_format) if is_needed else x.new_empty(0)
        for like, memory_format, is_needed in zip(likes, formats, wanted, strict=True)
    )


def _gradient_formats(x: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> tuple[torch.memory_format, ...]:
    sequence, state = _formats(x, weight_ih)
    return sequence, state, state, layout.format_of(weight_ih), layout.format_of(weight_hh), torch.contiguous_format


def _backward_composite(
    d_output: Tensor | None,
    d_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    _output: Tensor,
    _gates: Tensor,
    _cells: Tensor,
    wanted: Sequence[bool],
    impl: str,
) -> tuple[Tensor, ...]:
    # Computes the gates and cells again, as functions of the inputs.
    inputs = Inputs(x, h0, c0, weight_ih, weight_hh, bias)
    sequence, _ = _formats(x, weight_ih)
    output, _, gates, cells = reference.forward(inputs, sequence)
    saved = Saved(output, gates, cells)
    grads = reference.backward(d_output, d_c, inputs, saved, NeedsGrad(*wanted), sequence)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


_ARGUMENTS = "Tensor x, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, Tensor? bias"
_conv_lstm = define(f"conv_lstm({_ARGUMENTS}, str impl) -> (Tensor output, Tensor c)", _kernel, _fake)
_conv_lstm_forward = define(
    f"conv_lstm_forward({_ARGUMENTS}, str impl) -> (Tensor output, Tensor c, Tensor gates, Tensor cells)",
    _forward_kernel,
    _forward_fake,
)
_conv_lstm_backward = define(
    f"conv_lstm_backward(Tensor? d_output, Tensor? d_c, {_ARGUMENTS}, Tensor output, Tensor gates, Tensor cells, "
    "bool[] wanted, str impl) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)


def _save(ctx: Any, args: tuple, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    *tensors, ctx.impl = args
    output, c, gates, cells = outputs
    ctx.save_for_backward(*tensors, output, gates, cells)
    return output, c


def _backward(ctx: Any, d_output: Tensor | None, d_c: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:6])
    grads = _conv_lstm_backward(d_output, d_c, *ctx.saved_tensors, needed, ctx.impl)
    return *(grad if is_needed else None for grad, is_needed in zip(grads, needed, strict=True)), None


differentiable(_conv_lstm, _save, _backward, forward=_conv_lstm_forward, stock=_composite)
differentiable_by(_conv_lstm_backward, _backward_composite)
autocasts(_conv_lstm, positions=(0, 1, 3, 4, 5))
