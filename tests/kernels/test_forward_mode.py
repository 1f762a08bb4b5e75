"""Forward-mode derivatives of the operations against those of stock PyTorch, and against finite differences."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck
from torch.nn import functional

from fastvgan_kernels import conv_down, conv_lstm, conv_lstm_cell, conv_up, conv_weight_grad, fused_conv, norm_act
from fastvgan_kernels.fused_conv import Geometry, Norm, conv_before_norm
from fastvgan_kernels.logistic import logistic
from fastvgan_kernels.norm_act.following import Following

ACTIVATIONS = {
    "none": lambda y: y,
    "relu": torch.relu,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


def randn(*shape, dtype=torch.float64, **options):
    return torch.randn(*shape, dtype=dtype, **options)


def assert_same_jvp(ours, stock, *inputs):
    """The same outputs and directional derivatives, by every way that torch has to ask for them."""
    tangents = tuple(map(torch.randn_like, inputs))
    expected = torch.func.jvp(stock, inputs, tangents)
    torch.testing.assert_close(torch.func.jvp(ours, inputs, tangents), expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(ours(*map(forward_ad.make_dual, inputs, tangents)))
    torch.testing.assert_close((dual.primal, dual.tangent), expected)
    torch.testing.assert_close(torch.func.jacfwd(ours)(*inputs), torch.func.jacrev(stock)(*inputs))


def test_convolutions():
    x, weight, bias = randn(2, 4, 5, 1, 4), randn(6, 2, 3, 1, 2), randn(6)
    options = (2, 1, 1), (1, 0, 1), (1, 1, 2), 2
    assert_same_jvp(
        lambda *given: conv_down(*given, *options),
        lambda x, w, b: functional.conv3d(x, w, b, *options),
        *(x, weight, bias),
    )
    x, weight = randn(2, 4, 3, 2), randn(4, 3, 3, 2)
    assert_same_jvp(
        lambda *given: conv_up(*given, 2, 1, 1, groups=2),
        lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1, 1, 2),
        *(x, weight, bias),
    )
    large, small = randn(2, 4, 5, 5), randn(2, 6, 3, 3)
    assert gradcheck(
        lambda *given: conv_weight_grad(*given, 3, 2, 1, groups=2),
        (large.requires_grad_(), small.requires_grad_()),
        check_forward_ad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_norm_act(activation, training):
    x, weight, bias = randn(3, 4, 2, 2) * 2 + 1, randn(4), randn(4)
    running = (None, None) if training else (randn(4), torch.rand(4, dtype=torch.float64) + 0.5)
    assert_same_jvp(
        lambda x, w, b: norm_act(x, w, b, *running, training, 0.1, 1e-5, activation, 0.2),
        lambda x, w, b: ACTIVATIONS[activation](functional.batch_norm(x, *running, w, b, training)),
        *(x, weight, bias),
    )


@pytest.mark.parametrize("training", [True, False])
def test_norm_act_with_a_residual(training):
    x, residual, weight = randn(3, 4, 2, 2) * 2 + 1, randn(3, 4, 2, 2), randn(4)
    running = (None, None) if training else (randn(4), torch.rand(4, dtype=torch.float64) + 0.5)
    assert_same_jvp(
        lambda x, r, w: norm_act(x, w, None, *running, training, 0.1, 1e-5, "silu", residual=r),
        lambda x, r, w: functional.silu(functional.batch_norm(x, *running, w, None, training) + r),
        *(x, residual, weight),
    )


def test_running_statistics_take_no_tangent():
    mean, var = torch.zeros(2), torch.ones(2)
    expected = mean.clone(), var.clone()
    x = torch.randn(4, 2, 3)
    functional.batch_norm(x, *expected, training=True)
    with forward_ad.dual_level():
        norm_act(forward_ad.make_dual(x, torch.randn_like(x)), None, None, mean, var)
        assert [forward_ad.unpack_dual(t).tangent for t in (mean, var)] == [None, None]
    torch.testing.assert_close((mean, var), expected)


@pytest.mark.parametrize("cell", [False, True])
def test_conv_lstm_by_finite_differences(cell):
    x = randn(1, 2, 3, 3) if cell else randn(1, 2, 2, 3, 3)
    inputs = x, randn(1, 2, 3, 3), randn(1, 2, 3, 3), randn(8, 2, 3, 3), randn(8, 2, 1, 3), randn(8)
    operation = conv_lstm_cell if cell else conv_lstm
    assert gradcheck(operation, [t.requires_grad_() for t in inputs], check_forward_ad=True, check_batched_grad=False)


def test_convolutions_whose_norm_waits():
    """fused_conv's statistics are constants to it, yet the norm by them depends on what they are of."""
    down = Geometry(False, (1,), (1,), (0,), (1,))
    up = Geometry(True, (2,), (1,), (0,), (1,))

    def ours(x, first, second, scale, shift):
        y, *statistics = conv_before_norm(x, first, None, down, None, Following(scale, shift, 1e-5))
        norm = Norm(*statistics[:2], scale, shift, True, 1e-5, "relu", 0.0, *statistics[2:])
        return fused_conv(y, second, None, up, norm, activation="tanh")[0]

    def stock(x, first, second, scale, shift):
        y = functional.batch_norm(functional.conv1d(x, first, None, 1, 1), None, None, scale, shift, True)
        return torch.tanh(functional.conv_transpose1d(torch.relu(y), second, None, 2, 1))

    assert_same_jvp(ours, stock, randn(2, 2, 5), randn(3, 2, 3), randn(3, 2, 4), randn(3), randn(3))


@pytest.mark.parametrize("positive", [True, False])
def test_logistic(positive):
    target = torch.full((3, 2), float(positive))
    assert_same_jvp(
        lambda x: logistic(x, positive)[0],
        lambda x: functional.binary_cross_entropy_with_logits(x, target),
        torch.randn(3, 2),
    )


def of_two(down, norm):
    return lambda x, w: norm(down(x, w)).tanh().square().sum()


OURS, STOCK = (
    of_two(conv_down, lambda y: norm_act(y, activation="none")),
    of_two(functional.conv2d, lambda y: functional.batch_norm(y, None, None, training=True)),
)


@pytest.mark.parametrize(
    "transform",
    [
        torch.func.hessian,  # forward over reverse
        lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
    ],
)
def test_second_derivatives(transform):
    x, weight = randn(2, 3, 3, 4), randn(2, 3, 3, 3)
    torch.testing.assert_close(transform(OURS)(x, weight), transform(STOCK)(x, weight))


def test_vmap_of_forward_mode():
    x, weight = randn(2, 1, 3, 3, 4), randn(2, 3, 3, 3)
    ours, stock = (torch.vmap(torch.func.jacfwd(f), in_dims=(0, None)) for f in (OURS, STOCK))
    torch.testing.assert_close(ours(x, weight), stock(x, weight))


def test_compiled_and_under_autocast():
    torch._dynamo.reset()
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)

    def derivative(convolve, x):
        return torch.func.jvp(lambda x: convolve(x, weight), (x,), (x,))

    expected = derivative(functional.conv2d, x)
    compiled = torch.compile(lambda x: derivative(conv_down, x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = derivative(conv_down, x)
    assert [t.dtype for t in half] == [torch.bfloat16, torch.bfloat16]
    torch.testing.assert_close(half, expected, check_dtype=False, rtol=0.05, atol=0.05)
