"""conv_lstm and conv_lstm_cell against a naive loop and torch.nn.LSTM."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan_kernels import conv_lstm, conv_lstm_cell


def naive(x, h, c, weight_ih, weight_hh, bias):
    """Shi et al. 2015, equation 3, without the peepholes, gate by gate."""
    hidden, outputs = h.shape[1], []
    for t in range(x.shape[2]):
        gate = []
        for k in range(4):
            rows = slice(k * hidden, (k + 1) * hidden)
            pre = functional.conv2d(x[:, :, t], weight_ih[rows], padding="same")
            pre = pre + functional.conv2d(h, weight_hh[rows], padding="same")
            gate.append(pre if bias is None else pre + bias[rows].view(-1, 1, 1))
        i, f, g, o = gate
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 2), h, c


def arguments(n=2, inputs=3, hidden=2, steps=3, size=(4, 3), kernel_ih=(3, 3), kernel_hh=(3, 3), **options):
    x = torch.randn(n, inputs, steps, *size, **options)
    h, c = (torch.randn(n, hidden, *size, **options) for _ in range(2))
    weight_ih = torch.randn(4 * hidden, inputs, *kernel_ih, **options) * 0.5
    weight_hh = torch.randn(4 * hidden, hidden, *kernel_hh, **options) * 0.5
    return x, h, c, weight_ih, weight_hh, torch.randn(4 * hidden, **options)


odd = st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3]))


@settings(max_examples=40)
@given(
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    odd,
    odd,
    st.booleans(),
    st.booleans(),
)
def test_sequence_is_the_naive_loop(n, inputs, hidden, steps, size, kernel_ih, kernel_hh, biased, channels_last):
    made = arguments(n, inputs, hidden, steps, size, kernel_ih, kernel_hh, dtype=torch.float64)
    if channels_last:
        made = (made[0].contiguous(memory_format=torch.channels_last_3d), *made[1:])
    tensors = [t.requires_grad_() for t in (made if biased else made[:5])]
    pad = [] if biased else [None]
    ours, exact = conv_lstm(*tensors, *pad), naive(*tensors, *pad)
    torch.testing.assert_close(ours, exact)
    if channels_last and inputs > 1 and steps * size[0] * size[1] > 1:
        assert ours[0].is_contiguous(memory_format=torch.channels_last_3d)
    weights = [torch.randn_like(t) for t in exact]
    scalar = lambda outputs: sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))  # noqa: E731
    grads = torch.autograd.grad(scalar(ours), tensors)
    torch.testing.assert_close(grads, torch.autograd.grad(scalar(exact), tensors))


@pytest.mark.parametrize("used", ["output", "cell", "both"])
def test_derivatives(used):
    double = arguments(1, 2, 1, 3, (2, 2), (3, 1), (1, 3), dtype=torch.float64)
    tensors = [t.requires_grad_() for t in double]

    def function(*tensors):
        output, _, c = conv_lstm(*tensors)
        return {"output": output, "cell": c, "both": (output, c)}[used]

    assert gradcheck(function, tensors, fast_mode=True)
    assert gradgradcheck(function, tensors, fast_mode=True)


def test_only_the_wanted_gradients():
    tensors = list(arguments(dtype=torch.float64))
    tensors[3].requires_grad_()
    assert gradcheck(lambda w: conv_lstm(*tensors[:3], w, *tensors[4:]), (tensors[3],), fast_mode=True)


def test_cell_steps_to_the_sequence():
    x, h, c, *weights = arguments(steps=4)
    output, last_h, last_c = conv_lstm(x, h, c, *weights)
    for t in range(4):
        h, c = conv_lstm_cell(x[:, :, t], h, c, *weights)
        torch.testing.assert_close(h, output[:, :, t])
    torch.testing.assert_close((h, c), (last_h, last_c))


def test_cell_derivatives():
    x, *rest = arguments(1, 2, 1, 1, (2, 2), dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (x[:, :, 0].contiguous(), *rest)]
    assert gradcheck(conv_lstm_cell, tensors, fast_mode=True)
    assert gradgradcheck(conv_lstm_cell, tensors, fast_mode=True)


def test_kernel_one_on_one_pixel_is_torchs_lstm():
    lstm = torch.nn.LSTM(3, 5)
    x = torch.randn(2, 3, 7, 1, 1)
    kernel = lambda w: w.detach()[:, :, None, None]  # noqa: E731
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
    output, h, c = conv_lstm(x, None, None, kernel(lstm.weight_ih_l0), kernel(lstm.weight_hh_l0), bias)
    expected, (expected_h, expected_c) = lstm(x[..., 0, 0].permute(2, 0, 1))
    torch.testing.assert_close(output[..., 0, 0], expected.permute(1, 2, 0))
    torch.testing.assert_close(h[..., 0, 0], expected_h[0])
    torch.testing.assert_close(c[..., 0, 0], expected_c[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_cell_in_float32(dtype):
    x, h, c, *weights = arguments(dtype=dtype)
    output, last_h, last_c = conv_lstm(x, h, c.float(), *weights)
    assert output.dtype == last_h.dtype == dtype and last_c.dtype == torch.float32
    exact = naive(*(t.double() for t in (x, h, c, *weights)))
    torch.testing.assert_close(output.double(), exact[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(last_c.double(), exact[2], rtol=0.05, atol=0.05)
    assert conv_lstm(x, None, None, *weights)[2].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 0, 4, 3)}, "at least one step"),
        ({"weight_ih": torch.zeros(8, 3, 2, 2)}, "odd"),
        ({"weight_ih": torch.zeros(8, 4, 3, 3)}, r"expected input \[2, 3, .* to have 4 channels, but got 3"),
        ({"weight_ih": torch.zeros(4, 3, 3, 3)}, "weight_ih must be"),
        ({"weight_hh": torch.zeros(8, 3, 3, 3)}, "weight_hh must be"),
        ({"h0": torch.zeros(2, 2, 3, 3)}, "h must be of shape"),
        ({"bias": torch.zeros(3)}, "bias must be of shape"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given = dict(zip(("x", "h0", "c0", "weight_ih", "weight_hh", "bias"), arguments(), strict=True))
    with pytest.raises(ValueError, match=message):
        conv_lstm(**given | change)


@pytest.mark.gpu
def test_on_a_gpu():
    tensors = arguments()
    on_gpu = [t.cuda() for t in tensors]
    torch.testing.assert_close(tuple(t.cpu() for t in conv_lstm(*on_gpu)), naive(*tensors), rtol=2e-3, atol=2e-3)
