"""logistic against PyTorch's binary cross entropy in float64."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from fastvgan_kernels.logistic import logistic

DTYPES = [torch.float32, torch.float16]
FAR = [-90.0, -20.5, -1e-4, -1e-9, 0.0, 1e-9, 1e-4, 0.5, 20.5, 90.0]


@pytest.fixture(params=["reference", pytest.param("triton", marks=pytest.mark.triton)])
def impl(request):
    if request.param == "triton":
        request.getfixturevalue("interpreted")
    return request.param


def logits(size, dtype):
    values = torch.randn(size) * 3
    values.view(-1)[: len(FAR)] = torch.tensor(FAR)[: values.numel()]
    return values.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("size", [(1,), (5, 3), (2, 700), (33, 40)])
def test_is_the_mean_cross_entropy(impl, dtype, positive, size):
    x = logits(size, dtype)
    loss, probability = logistic(x, positive, impl)
    loss.mul(3).backward()
    exact = x.detach().double().requires_grad_()
    right = cross_entropy(exact, torch.full_like(exact, float(positive)))
    right.mul(3).backward()
    torch.testing.assert_close(loss.double(), right, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(probability.double(), exact.detach().sigmoid().mean(), rtol=1e-6, atol=1e-7)
    one = torch.finfo(dtype)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=4 * one.eps, atol=one.smallest_normal)
    assert loss.dtype == probability.dtype == torch.float32 and x.grad.dtype == dtype
    assert not probability.requires_grad


@pytest.mark.parametrize("positive", [True, False])
def test_a_small_loss_keeps_its_digits(impl, positive):
    """softplus(-15) is 3e-7, of which 1 + 3e-7 has one digit in float32."""
    x = torch.full((7,), 15.0 if positive else -15.0)
    right = cross_entropy(x.double(), torch.full((7,), float(positive), dtype=torch.float64))
    torch.testing.assert_close(logistic(x, positive, impl)[0].double(), right, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_seen(impl, bad):
    x = torch.tensor([1.0, bad, 2.0])
    for positive in (True, False):
        found = logistic(x, positive, impl)[0]
        expected = torch.nn.functional.softplus(-x if positive else x).mean()
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("positive", [True, False])
def test_gradients_of_gradients(positive):
    x = torch.randn(4, 3, requires_grad=True)
    torch.autograd.gradgradcheck(
        lambda y: logistic(y, positive, "reference")[0], x, eps=1e-2, atol=1e-2, rtol=1e-2, nondet_tol=0
    )


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        logistic(torch.ones(2, dtype=torch.int64), True)
    with pytest.raises(ValueError, match="impl must be one of"):
        logistic(torch.ones(2), True, "fast")
