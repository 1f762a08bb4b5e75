"""Gradients of many outputs at once: autograd's is_grads_batched, and the Jacobians and Hessians made of them."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian

from fastvgan.layers import ConvLSTM, fuse

IMPLS = ["auto", "cpp", "reference"]


def generator() -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(4, 3, 4, 2, 1), nn.BatchNorm3d(3), nn.ReLU(), nn.ConvTranspose3d(3, 2, 4, 2, 1), nn.Tanh()
    )


def fused(network: nn.Module, impl: str) -> nn.Module:
    """A fused copy whose layers use that implementation."""
    mine = fuse(copy.deepcopy(network))
    for layer in mine.modules():
        if hasattr(layer, "impl"):
            layer.impl = impl
    return mine


def assert_same(mine, stock):
    scale = max(gradient.abs().max() for gradient in stock)
    for a, b in zip(mine, stock, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(scale))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_batched_gradients_of_a_network_are_those_of_stock(impl, create_graph):
    torch.manual_seed(0)
    stock = generator()
    x, dy = torch.randn(2, 4, 1, 2, 2).contiguous(memory_format=torch.channels_last_3d), torch.randn(3, 2, 2, 4, 8, 8)

    def differentiate(network):
        inputs = x.clone().requires_grad_(), *network.parameters()
        grads = torch.autograd.grad(network(inputs[0]), inputs, dy, is_grads_batched=True, create_graph=create_graph)
        if create_graph:
            grads = torch.autograd.grad(sum((g * g).sum() for g in grads), inputs, materialize_grads=True)
        return grads

    assert_same(differentiate(fused(stock, impl)), differentiate(copy.deepcopy(stock)))


def test_batched_gradients_where_the_compiled_kernels_serve_a_network():
    """The sizes of a generator, for which auto takes the compiled kernels."""
    torch.manual_seed(0)
    stock = nn.Sequential(
        nn.ConvTranspose3d(64, 32, 4, 2, 1), nn.BatchNorm3d(32), nn.ReLU(), nn.ConvTranspose3d(32, 3, 4, 2, 1)
    )
    x = torch.randn(8, 64, 2, 4, 4).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    grads = [
        torch.autograd.grad(network(x).mean((0, 2, 3, 4)), x, torch.eye(3), is_grads_batched=True)
        for network in (fuse(copy.deepcopy(stock)), stock)
    ]
    assert_same(*grads)


@pytest.mark.parametrize("impl", IMPLS)
def test_jacobians_and_hessians_of_a_conv_lstm(impl):
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 3, impl=impl), torch.randn(1, 2, 2, 2, 2)
    for derivative, function in (
        (jacobian, lambda x: layer(x)[0].sum((0, 2, 3))),
        (hessian, lambda x: layer(x)[0].pow(2).sum()),
    ):
        assert_same([derivative(function, x, vectorize=True)], [derivative(function, x)])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_jacobians_of_an_instance_norm(impl, memory_format):
    torch.manual_seed(0)
    stock = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.SiLU())
    mine, x = fused(stock, impl), torch.randn(2, 3, 3, 3).contiguous(memory_format=memory_format)
    assert_same([jacobian(mine, x, vectorize=True)], [jacobian(stock, x, vectorize=True)])


@pytest.mark.parametrize("impl", ["cpp", "reference"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_hessians_of_an_instance_norm(impl, memory_format):
    """Not by auto, which calls stock group_norm: torch 2.13 cannot batch its second derivatives in nn.GroupNorm."""
    torch.manual_seed(0)
    stock = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.SiLU())
    mine, x = fused(stock, impl), torch.randn(2, 3, 2, 2).contiguous(memory_format=memory_format)
    hessians = [hessian(lambda x, n=n: n(x).pow(3).sum(), x, vectorize=True) for n in (mine, stock)]
    assert_same([hessians[0]], [hessians[1]])
