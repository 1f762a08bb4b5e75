"""A Sequential large enough for compiled convolutions is computed together, or module by module if it has hooks."""

import copy

import pytest
import torch
from torch import nn

from fastvgan.layers import deferred, fuse
from fastvgan.layers.sequential import FusedSequential
from fastvgan_kernels import extension


def wide():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose3d(20, 40, 4, 1, 0, bias=False), nn.BatchNorm3d(40), nn.ReLU(),
        nn.ConvTranspose3d(40, 33, 4, 2, 1, bias=False), nn.BatchNorm3d(33), nn.LeakyReLU(0.1, inplace=True),
        nn.ConvTranspose3d(33, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return model.to(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("hooked", [None, "0", "1", "2", "3"])
@pytest.mark.parametrize("training", [True, False])
def test_a_sequential_computes_its_chains_together(monkeypatch, training, hooked):
    stock = wide().train(training)
    ours, calls, seen = fuse(copy.deepcopy(stock)), [], []

    def count_calls(real):
        return lambda *args, **options: calls.append(args[1]) or real(*args, **options)

    for name in ("fused_conv", "conv_before_norm"):
        monkeypatch.setattr(deferred, name, count_calls(getattr(deferred, name)))
    if hooked is not None:
        ours.get_submodule(hooked).register_forward_hook(lambda *args: seen.append(args[2].shape))
    x = torch.randn(20, 20, 1, 1, 1)
    results = []
    for model in (ours, stock):
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in model.parameters()), *model.buffers()])
    for mine, theirs in zip(*results, strict=True):
        # In the whole: single values near an activation's kink may go either way.
        assert (mine - theirs).double().norm() <= 1e-3 * theirs.double().norm() + 1e-6
    assert len(seen) == (hooked is not None)
    if extension.load() is not None:
        assert len(calls) == (3 if hooked in (None, "2") else 2)


def small(impl):
    stock = nn.Sequential(
        *(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Tanh()),
        *(nn.Conv3d(4, 4, 2, bias=False), nn.LeakyReLU(0.5), nn.ConvTranspose3d(4, 2, 2), nn.BatchNorm3d(2)),
    )
    return fuse(copy.deepcopy(stock), impl=impl), stock


IMPLS = ["auto"] + ["cpp"] * (extension.load() is not None)
INPUTS = {
    "one value": torch.randn(1, 2, 2, 2, 2),
    "a slice": torch.randn(2, 4, 3, 4, 6)[:, ::2, :, 1:, ::2],
    "expanded": torch.randn(1, 2, 3, 1, 4).expand(3, 2, 3, 4, 4),
    "channels last": torch.randn(2, 2, 3, 4, 4).to(memory_format=torch.channels_last_3d),
}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_of_odd_inputs(impl, name, training):
    results = []
    for model in small(impl):
        model.train(training)
        x = INPUTS[name].detach().requires_grad_()
        (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        results.append([dx, *torch.autograd.grad(dx.square().sum(), model[3].weight), *model.buffers()])
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_contexts_and_autocast(impl, context):
    for training in (True, False):
        for dtype in (torch.bfloat16, None):
            ours, stock = (model.train(training) for model in small(impl))
            with context(), torch.autocast("cpu", dtype, enabled=dtype is not None):
                x = torch.randn(2, 2, 3, 4, 4)
                y, expected = ours(x), stock(x)
            assert y.dtype == expected.dtype and y.requires_grad == expected.requires_grad
            tolerance = 1e-4 if dtype is None else 0.05
            torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def test_what_is_refused_is_refused_and_what_is_empty_passes_on():
    ours, stock = small("auto")
    for wrong in (torch.randn(2, 3, 3, 4, 4), torch.randn(2, 2, 4), torch.randint(3, (2, 2, 3, 4, 4))):
        for model in (stock, ours):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                model(wrong)
    for wrong in (None, (torch.randn(2, 2, 3, 4, 4),), "x"):
        for model in (stock, ours):
            with pytest.raises((TypeError, AttributeError)):
                model(wrong)
    assert FusedSequential()(wrong) is wrong and FusedSequential(nn.Sequential(), nn.Identity())(wrong) is wrong
    ours.add_module("nothing", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        ours(torch.randn(2, 2, 3, 4, 4))


class Pair(nn.Module):
    def forward(self, x):
        return x, x * 2


class Sum(nn.Module):
    def forward(self, pair):
        return pair[0] + pair[1]


@pytest.mark.parametrize("impl", IMPLS)
def test_what_passes_between_modules_may_be_anything(impl):
    stock = nn.Sequential(nn.BatchNorm3d(2), nn.ReLU(), Pair(), Sum(), nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), Pair())
    ours, x = fuse(copy.deepcopy(stock), impl=impl), torch.randn(2, 2, 2, 2, 2)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)


def saved_bytes(network, x):
    """Bytes that autograd keeps for backward, each storage counted once."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = network(x)
    return sum(kept.values()), y


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2, inplace=True)])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.BatchNorm3d, lambda n: nn.GroupNorm(2, n), nn.InstanceNorm3d])
def test_small_norms_keep_no_more_for_backward_than_stock(norm, activation):
    """Stock PyTorch computes them, and the activation's result is also what the next convolution keeps."""
    dims = 2 if norm is nn.BatchNorm2d else 3
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    blocks = ([conv(8, 8, 3, padding=1), norm(8), copy.deepcopy(activation)] for _ in range(3))
    stock = nn.Sequential(*(layer for block in blocks for layer in block))
    ours, x = fuse(copy.deepcopy(stock)), torch.randn(2, 8, *[8] * dims, requires_grad=True)
    ours(x)  # what is remembered of this call decides the next
    (mine, y), (theirs, expected) = saved_bytes(ours, x), saved_bytes(stock, x)
    assert mine <= theirs
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    first = [torch.autograd.grad(out.square().sum(), x, create_graph=True)[0] for out in (y, expected)]
    second = [torch.autograd.grad(dx.square().sum(), x)[0] for dx in first]
    for found, wanted in (first, second):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.detach().abs().max()))
