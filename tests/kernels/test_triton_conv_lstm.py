"""The ConvLSTM in Triton under Triton's interpreter against a naive loop in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conv_lstm import arguments, naive, odd

from fastvgan_kernels import conv_lstm, conv_lstm_cell
from fastvgan_kernels.triton.tuning import Config

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("interpreted")]
TOLERANCE = {torch.float32: (2e-6, 2e-5), torch.float16: (3e-3, 2e-2)}  # of outputs, of gradients
TILES = [None, Config(16, 16, 32)]


def near(ours, exact, tolerance):
    assert ours.shape == exact.shape
    if exact.numel():
        off = (ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1)
        assert off <= tolerance, f"off by {off:.2g}"


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2),
    st.sampled_from([1, 3, 17]),
    st.sampled_from([1, 2, 5, 18]),
    st.integers(1, 3),
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    odd,
    odd,
    st.booleans(),
    st.booleans(),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from(TILES),
)
def test_sequence_is_the_naive_loop(
    tile, n, inputs, hidden, steps, size, kernel_ih, kernel_hh, biased, last, dtype, config
):
    tile(config)
    made = [t / 2 for t in arguments(n, inputs, hidden, steps, size, kernel_ih, kernel_hh)]
    made[3:5] = (w / (w[0].numel() ** 0.5) for w in made[3:5])
    if last:
        made[0] = made[0].contiguous(memory_format=torch.channels_last_3d)
    tensors = [t.to(dtype).requires_grad_() for t in (made if biased else made[:5])]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    pad = [] if biased else [None]
    ours, wanted = conv_lstm(*tensors, *pad, impl="triton"), naive(*exact, *pad)
    tolerance, of_gradients = TOLERANCE[dtype]
    for mine, right in zip(ours, wanted, strict=True):
        near(mine, right, tolerance)
    dys = [torch.randn(t.shape).to(dtype) for t in ours]
    grads = torch.autograd.grad(ours, tensors, dys)
    for grad, right in zip(grads, torch.autograd.grad(wanted, exact, [d.double() for d in dys]), strict=True):
        near(grad, right, of_gradients)


@pytest.mark.parametrize("used", ["output", "cell"])
def test_one_output_alone_and_a_gradient_of_its_gradient(used):
    tensors = [t.requires_grad_() for t in arguments(1, 2, 2, 2, (2, 3), (3, 1), (1, 3))]
    exact = [t.detach().double().requires_grad_() for t in tensors]

    def penalty(outputs, inputs):
        value = outputs[0] if used == "output" else outputs[2]
        grads = torch.autograd.grad(value.square().sum(), inputs, create_graph=True)
        return *grads, *torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)

    ours = penalty(conv_lstm(*tensors, impl="triton"), tensors)
    for mine, right in zip(ours, penalty(naive(*exact), exact), strict=True):
        near(mine, right, 1e-4)


def test_half_precision_keeps_its_cell_in_float32():
    x, h, c, *weights = (t / 2 for t in arguments(dtype=torch.float16))
    output, last_h, last_c = conv_lstm(x, h, c.float(), *weights, impl="triton")
    assert output.dtype == last_h.dtype == torch.float16 and last_c.dtype == torch.float32
    for mine, right in zip((output, last_h, last_c), naive(*(t.double() for t in (x, h, c, *weights))), strict=True):
        near(mine, right, 3e-3)
    h, cell = conv_lstm_cell(x[:, :, 0], h, c.float(), *weights, impl="triton")
    assert torch.equal(h, output[:, :, 0]) and cell.dtype == torch.float32
