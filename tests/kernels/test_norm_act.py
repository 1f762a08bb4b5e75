"""norm_act against torch.nn.functional.batch_norm and an activation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan_kernels import norm_act

ACTIVATE = {
    "none": lambda y: y,
    "relu": functional.relu,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def compute_expected(x, weight, bias, mean, var, training, activation, momentum=0.1):
    return ACTIVATE[activation](functional.batch_norm(x, mean, var, weight, bias, training, momentum))


def compute_actual(x, weight, bias, mean, var, training, activation, **options):
    return norm_act(x, weight, bias, mean, var, training, activation=activation, negative_slope=0.2, **options)


@settings(max_examples=80)
@given(
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 3),
    st.integers(1, 5),
    st.sampled_from(sorted(ACTIVATE)),
    st.booleans(),
    st.sampled_from(["contiguous", "channels_last", "sliced"]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_is_batch_norm_and_activation(sizes, batch, channels, activation, training, layout, affine, dtype):
    x = torch.randn(batch, channels, *sizes, dtype=dtype) * 2 + 5
    if layout == "channels_last" and x.dim() in FORMATS:
        x = x.contiguous(memory_format=FORMATS[x.dim()])
    if layout == "sliced":
        x = torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]
    parameters = [torch.randn(channels, dtype=dtype) for _ in range(2)] if affine else [None, None]
    running = [torch.randn(channels, dtype=dtype), torch.rand(channels, dtype=dtype) + 0.5]
    inputs = [t.detach().requires_grad_() for t in (x, *parameters) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    ours_running, exact_running = [t.clone() for t in running], [t.double() for t in running]
    pad = [] if affine else [None, None]
    if training and x.numel() == channels:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            compute_actual(*inputs, *pad, *ours_running, training, activation)
        return
    ours = compute_actual(*inputs, *pad, *ours_running, training, activation)
    wanted = compute_expected(*exact, *pad, *exact_running, training, activation)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    close = lambda a, b: torch.testing.assert_close(a.double(), b, **tolerance)  # noqa: E731
    close(ours, wanted)
    for mine, theirs in zip(ours_running, exact_running, strict=True):
        close(mine, theirs)
    dy = torch.randn_like(ours)
    near_kink = (wanted.abs() < 1e-4).any() and activation in ("relu", "leaky_relu")
    if x.numel() and not near_kink:
        grads = torch.autograd.grad(ours, inputs, dy)
        for grad, other in zip(grads, torch.autograd.grad(wanted, exact, dy.double()), strict=True):
            torch.testing.assert_close(grad.double(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", sorted(ACTIVATE))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives(activation, training, affine):
    double = {"dtype": torch.float64}
    x = torch.randn(3, 2, 2, 1, 2, **double, requires_grad=True)
    parameters = [torch.randn(2, **double, requires_grad=True) for _ in range(2)] if affine else []
    mean, var = torch.randn(2, **double), torch.rand(2, **double) + 0.5

    def function(x, weight=None, bias=None):
        return compute_actual(x, weight, bias, mean.clone(), var.clone(), training, activation)

    assert gradcheck(function, (x, *parameters))
    assert gradgradcheck(function, (x, *parameters))


def test_gradient_penalty_in_float32_is_the_stock_one():
    """Whichever implementation serves float32, a gradient of its gradient is right."""
    x, weight, bias = torch.randn(4, 3, 2, 2, 2), torch.rand(3) + 0.5, torch.randn(3)

    def penalty(function):
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = function(*inputs, None, None, True, "leaky_relu")
        (dx,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        dx.square().sum().backward()
        return [t.grad for t in inputs]

    for ours, stock in zip(penalty(compute_actual), penalty(compute_expected), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_parameters", [True, False])
def test_half_precision_has_float32_statistics(dtype, half_parameters):
    x = (torch.randn(8, 4, 4, 4, 4) + 30).to(dtype).requires_grad_()
    weight, bias = torch.rand(4) + 0.5, torch.randn(4)
    if half_parameters:
        weight, bias = weight.to(dtype), bias.to(dtype)
    weight.requires_grad_()
    mean, var = torch.zeros(4), torch.ones(4)
    y = norm_act(x, weight, bias, mean, var, activation="relu")
    exact = functional.batch_norm(x.double(), None, None, weight.double(), bias.double(), True).relu()
    assert y.dtype == dtype and mean.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(mean, 0.1 * x.float().mean((0, 2, 3, 4)))
    torch.testing.assert_close(var, 0.9 + 0.1 * x.float().var((0, 2, 3, 4)), rtol=1e-3, atol=1e-4)
    y.sum().backward()
    assert x.grad.dtype == dtype and weight.grad.dtype == weight.dtype


def test_large_offset_does_not_cancel():
    x = torch.randn(16, 2, 4, 4, 4) + 1e4
    y = norm_act(x, activation="none")
    exact = functional.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), exact, rtol=1e-3, atol=1e-2)


def test_evaluation_does_not_touch_the_running_statistics():
    mean, var = torch.zeros(3), torch.ones(3)
    norm_act(torch.randn(2, 3, 2, 2, 2), running_mean=mean, running_var=var, training=False)
    assert mean.eq(0).all() and var.eq(1).all()


def test_layout_is_kept():
    last = {"memory_format": torch.channels_last_3d}
    x = torch.randn(2, 3, 2, 4, 4).contiguous(**last).requires_grad_()
    y = norm_act(x, activation="relu")
    assert y.is_contiguous(**last)
    (dx,) = torch.autograd.grad(y, x, torch.ones(y.shape))
    assert dx.is_contiguous(**last)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "elu"}, ValueError, "activation must be one of none, relu"),
        ({"weight": torch.ones(5)}, ValueError, r"expected input \[2, 3, 2\] to have 5 channels"),
        ({"weight": torch.ones(3, 1)}, ValueError, r"weight must be of shape \(3,\)"),
        ({"training": False}, ValueError, "needs running_mean"),
        ({"running_mean": torch.zeros(3)}, ValueError, "must both be given"),
        ({"impl": "magic"}, ValueError, "impl must be one of"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        norm_act(torch.randn(2, 3, 2), **options)


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_one_of_the_running_statistics_alone_is_refused_after_a_call_with_both(training, missing):
    """The choice that the first call left behind is for as many tensors as that had."""
    x, running = torch.randn(2, 3, 2), {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    weight, bias = torch.ones(3), torch.zeros(3)
    norm_act(x, weight, bias, training=training, **running)
    with pytest.raises(ValueError, match="must both be given"):
        norm_act(x, weight, bias, training=training, **running | {missing: None})


@pytest.mark.gpu
@pytest.mark.parametrize("activation", sorted(ACTIVATE))
def test_on_a_gpu(activation):
    x = torch.randn(4, 3, 2, 4, 4, requires_grad=True)
    weight, bias = torch.randn(3), torch.randn(3)
    y = compute_actual(x, weight, bias, None, None, True, activation)
    on_gpu = x.detach().cuda().requires_grad_()
    other = compute_actual(on_gpu, weight.cuda(), bias.cuda(), None, None, True, activation)
    torch.testing.assert_close(other.cpu(), y, rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(on_gpu.grad.cpu(), x.grad, rtol=1e-3, atol=1e-3)
