"""Batch norm and an activation: `BatchNormAct3d` against BatchNorm3d and ReLU, LeakyReLU, SiLU or GELU.

Also with a residual added before ReLU, as in residual networks.
"""

import pytest
import torch
from support.variants import (
    DTYPES,
    FORMATS,
    STOCK,
    TINY,
    assert_as_accurate,
    away_from_kink,
    describe,
    device,
    forward_backward,
    in_float64,
    load_in_order,
    stock,
    time_call,
)
from torch import nn

from fastvgan.layers import BatchNormAct3d

# Even the tiny shapes are larger than those that auto leaves to stock PyTorch.
SHAPES = [(9 if TINY else 64, 128, 8, 8, 8), (3 if TINY else 64, 64, 16, 16, 16)]
ACTIVATIONS = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2)}
SMOOTH = {"silu": nn.SiLU(), "gelu": nn.GELU()}
# Transfers of x, y, dy and dx. The mean of x must be known before the first y, and the mean of dy before the first dx,
# so x and dy are read twice if they exceed the cache. Evaluation: x, y; forward: x, x, y; backward: dy, x, dy, x, dx.
TRANSFERS = {"evaluation": 2, "forward": 3, "forward + backward": 8}
# The residual adds one transfer. Backward: dy, x, residual, its gradient; then its gradient, x, dx.
RESIDUAL_TRANSFERS = {"evaluation": 3, "forward": 4, "forward + backward": 11}


class Residual(nn.Module):
    """relu(norm(x) + residual) by stock PyTorch, or by one call of the norm. The residual is a parameter."""

    def __init__(self, norm: nn.BatchNorm3d, residual: torch.Tensor):
        super().__init__()
        self.norm, self.residual = norm, nn.Parameter(residual)

    def forward(self, x):
        if isinstance(self.norm, BatchNormAct3d):
            return self.norm(x, self.residual)
        return torch.relu(self.norm(x) + self.residual)


def problem(shape, dtype, activation):
    torch.manual_seed(0)
    x = torch.randn(shape, device=device(), dtype=dtype)
    reference = nn.Sequential(nn.BatchNorm3d(shape[1]), (ACTIVATIONS | SMOOTH)[activation]).to(device())
    nn.init.normal_(reference[0].weight)
    nn.init.normal_(reference[0].bias)
    return x, torch.randn_like(x), reference


def ours(reference, activation):
    layer = BatchNormAct3d(reference[0].num_features, activation=activation, negative_slope=0.2).to(device())
    return load_in_order(layer, reference)


def runner(module, x, dy, what):
    """Return the function to time, which returns a tuple of tensors."""
    if what == "forward + backward":
        return forward_backward(module, x, dy)
    module.train(what == "forward")

    @torch.no_grad()
    def run():
        return (module(x),)

    return run


def check(module, reference, x, dy, what):
    double = in_float64(reference)
    with torch.no_grad():
        dy = away_from_kink(dy, double[0](x.double()))
    exact = runner(in_float64(reference), x.double(), dy.double(), what)()
    assert_as_accurate(runner(module, x, dy, what)(), runner(reference, x, dy, what)(), exact, 3)


@pytest.mark.parametrize("variant", [*STOCK, *(f"ours-{layout}" for layout in FORMATS)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, *SMOOTH])
@pytest.mark.parametrize("what", TRANSFERS, ids=["evaluation", "forward", "forward-backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_act(benchmark, shape, what, activation, dtype, variant):
    x, dy, reference = problem(shape, DTYPES[dtype], activation)
    transfers = TRANSFERS[what] * x.numel() * x.element_size()
    describe(benchmark, f"BatchNorm3d + {activation} {shape}, {what}, {dtype}", variant, dtype, bytes=transfers)
    if variant.startswith("ours"):
        x = x.contiguous(memory_format=FORMATS[variant.split("-")[1]])
        module = ours(reference, activation)
        check(module, reference, x, dy, what)
    else:
        module, x = stock(reference, variant, x)
    time_call(benchmark, runner(module, x, dy, what))


@pytest.mark.parametrize("variant", [*STOCK, *(f"ours-{layout}" for layout in FORMATS)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", TRANSFERS, ids=["evaluation", "forward", "forward-backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_residual_relu(benchmark, shape, what, dtype, variant):
    x, dy, reference = problem(shape, DTYPES[dtype], "relu")
    reference = Residual(reference[0], torch.randn_like(x))
    transfers = RESIDUAL_TRANSFERS[what] * x.numel() * x.element_size()
    describe(benchmark, f"BatchNorm3d + residual + relu {shape}, {what}, {dtype}", variant, dtype, bytes=transfers)
    if variant.startswith("ours"):
        layout = FORMATS[variant.split("-")[1]]
        x = x.contiguous(memory_format=layout)
        norm = load_in_order(BatchNormAct3d(shape[1], activation="relu").to(device()), reference.norm)
        module = Residual(norm, reference.residual.detach().contiguous(memory_format=layout))
        double = in_float64(reference)
        with torch.no_grad():
            dy = away_from_kink(dy, double.norm(x.double()) + double.residual)
        exact = runner(in_float64(reference), x.double(), dy.double(), what)()
        assert_as_accurate(runner(module, x, dy, what)(), runner(reference, x, dy, what)(), exact, 3)
    else:
        module, x = stock(reference, variant, x)
    time_call(benchmark, runner(module, x, dy, what))
