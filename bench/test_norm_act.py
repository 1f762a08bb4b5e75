"""Batch norm + ReLU in training, forward and backward: `BatchNormAct3d` against BatchNorm3d and ReLU."""

import copy

import pytest
import torch
from torch import nn
from variants import DTYPES, FORMATS, STOCK, assert_as_accurate, device, stock, synchronised

from fastvgan.layers import BatchNormAct3d

SHAPES = [(64, 128, 8, 8, 8), (64, 64, 16, 16, 16)]


def problem(shape, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape, device=device(), dtype=dtype)
    reference = nn.Sequential(nn.BatchNorm3d(shape[1]), nn.ReLU()).to(device())
    nn.init.normal_(reference[0].weight)
    nn.init.normal_(reference[0].bias)
    return x, torch.randn_like(x), reference


def ours(reference):
    layer = BatchNormAct3d(reference[0].num_features, activation="relu").to(device())
    layer.load_state_dict(reference[0].state_dict())
    return layer


def forward_backward(module, x, dy):
    x = x.detach().requires_grad_()
    dy = (
        dy.contiguous(memory_format=torch.channels_last_3d)
        if x.is_contiguous(memory_format=torch.channels_last_3d)
        else dy
    )
    weight, bias = list(module.parameters())

    def run():
        y = module(x)
        return (y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy))

    return run


@pytest.mark.parametrize("variant", [*STOCK, *(f"ours-{layout}" for layout in FORMATS)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_act(benchmark, shape, dtype, variant):
    x, dy, reference = problem(shape, DTYPES[dtype])
    benchmark.group = f"norm_act+relu forward+backward {shape} {dtype}"
    if variant.startswith("ours"):
        x = x.contiguous(memory_format=FORMATS[variant.split("-")[1]])
        run = forward_backward(ours(reference), x, dy)
        exact = forward_backward(copy.deepcopy(reference).double(), x.double(), dy.double())()
        theirs = forward_backward(copy.deepcopy(reference), x, dy)()
        assert_as_accurate(run(), theirs, exact, 3)
    else:
        module, x = stock(reference, variant, x)
        run = forward_backward(module, x, dy)
    benchmark.extra_info["bytes"] = 5 * x.numel() * x.element_size()  # x, x, y; dy and x in, dx out share two reads
    benchmark.pedantic(synchronised(run), rounds=15, warmup_rounds=3)
