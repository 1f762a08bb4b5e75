"""A Sequential large enough for the compiled convolutions: computed together, or module by module where hooks look."""

import copy

import pytest
import torch
from torch import nn

from fastvgan import deferred
from fastvgan.layers import fuse
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

    def counted(real):
        return lambda *args, **options: calls.append(args[1]) or real(*args, **options)

    for name in ("fused_conv", "conv_before_norm"):
        monkeypatch.setattr(deferred, name, counted(getattr(deferred, name)))
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
