"""Convolutions that read copies of weights give what they give without, to the bit."""

import pytest
import torch

from fastvgan_kernels import conv_down, conv_up
from fastvgan_kernels.weight_copies import WeightCopies, cast


@pytest.fixture(params=["reference", pytest.param("triton", marks=pytest.mark.triton)])
def impl_and_dtype(request):
    """An implementation, and a dtype that it takes here."""
    if request.param == "triton":
        request.getfixturevalue("interpreted")
        return "triton", torch.float16
    return "reference", torch.bfloat16


def run(conv, x, weight, impl, dtype):
    with torch.autocast("cpu", dtype, cache_enabled=False):
        y = conv(x, weight, stride=2, padding=(0, 0, 1), impl=impl)
    # Through the gradient, too: a penalty's double backward.
    (dx,) = torch.autograd.grad(y.float().square().mean(), x, create_graph=True)
    dx.float().square().sum().mul(100).backward()
    found = y.detach(), dx.detach(), weight.grad
    weight.grad = None
    return found


@pytest.mark.parametrize("channels", [(16, 18), (3, 5), (17, 3), (18, 1)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("conv", [conv_down, conv_up])
def test_results_and_gradients_are_the_same(conv, last, channels, impl_and_dtype):
    impl, dtype = impl_and_dtype
    layout = torch.channels_last_3d if last else torch.contiguous_format
    inputs, outputs = channels if conv is conv_up else channels[::-1]
    x = torch.randn(2, inputs, 2, 4, 2).contiguous(memory_format=layout).requires_grad_()
    weight = torch.nn.Parameter((torch.randn(*channels, 2, 2, 4) / 20).contiguous(memory_format=layout))
    plain = run(conv, x, weight, impl, dtype)
    copies = WeightCopies([weight], dtype)
    copies.refresh()
    with copies.in_use():
        assert torch.equal(cast(weight, dtype), weight.detach().to(dtype)) and cast(weight, dtype) is not weight
        mine = run(conv, x, weight, impl, dtype)
    assert weight.dtype == torch.float32
    for a, b in zip(mine, plain, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_copies_are_what_is_read():
    weight = torch.nn.Parameter(torch.ones(16, 16, 1, 1, 1))
    copies = WeightCopies([weight], torch.bfloat16)
    copies.refresh()
    copies._entries[0].copy.fill_(2)
    x = torch.ones(1, 16, 1, 1, 1, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), copies.in_use():
        assert (conv_down(x, weight, impl="reference") == 32).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert (conv_down(x, weight, impl="reference") == 16).all()


def test_a_copy_of_what_has_changed_is_not_read():
    weight = torch.nn.Parameter(torch.randn(16, 16, 1, 1, 1))
    copies = WeightCopies([weight], torch.bfloat16)
    with copies.in_use():
        assert cast(weight, torch.bfloat16) is weight  # no copy yet
        copies.refresh()
        assert cast(weight, torch.float16) is weight
        assert cast(weight, torch.bfloat16).dtype == torch.bfloat16
        with torch.no_grad():
            weight.mul_(2)
        assert cast(weight, torch.bfloat16) is weight
        copies.refresh()
        assert torch.equal(cast(weight, torch.bfloat16), weight.bfloat16())
    assert cast(weight, torch.bfloat16) is weight
