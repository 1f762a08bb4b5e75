"""FLOPs, forward mode and the meta device: our layers behave as torch.nn's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layer_pairs import leaves
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from fastvgan.layers import BatchNormAct3d, ConvLSTM, deferred

ROOT = Path(__file__).resolve().parents[2]


def test_meta(pair, training):
    ours, stock, x = (part.to("meta") for part in pair)
    ours.train(training), stock.train(training)
    y, expected = leaves(ours(x.requires_grad_())), leaves(stock(x))
    assert [(t.shape, t.dtype, t.device) for t in y] == [(t.shape, t.dtype, t.device) for t in expected]
    sum(t.sum() for t in y).backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in (x, *ours.parameters()))


class Counted(nn.Module):
    """A parametrisation that counts how often it is computed."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, tensor):
        self.calls += 1
        return tensor * 1


def counts_per_call(module, x, least_dims):
    """How often one call of a network computes each parameter of at least so many dimensions."""
    counters = []
    for part in list(module.modules()):
        kind = type(part)
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.dim() >= least_dims:
                counters.append(Counted())
                parametrize.register_parametrization(part, name, counters[-1])
        if least_dims > 1:  # as add_spectral_norm does
            deferred.register_parametrised(part, kind)
    for counter in counters:
        counter.calls = 0
    module(x)
    return [counter.calls for counter in counters]


@pytest.mark.parametrize(("impl", "least_dims"), [(None, 1), ("cpp", 2)])
def test_a_call_computes_a_parametrised_weight_once(pair, impl, least_dims, monkeypatch):
    """As stock PyTorch does: power iterations and random weights depend on it. From 2 on, neighbours are fused."""
    ours, stock, x = pair
    if impl is not None:
        monkeypatch.setenv("FASTVGAN_IMPL", impl)
    mine = counts_per_call(ours, x, least_dims)
    assert mine == [1] * len(mine)
    if "ConvLSTM" not in type(stock).__name__:
        assert mine == counts_per_call(stock, x, least_dims)


def flops(module, x):
    with FlopCounterMode(display=False) as forward:
        y = leaves(module(x))
    with FlopCounterMode(display=False) as backward:
        sum(t.square().sum() for t in y).backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("wants_data", [True, False])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_flops(pair, training, wants_data, impl):
    ours, stock, x = pair
    for module in ours.modules():
        if hasattr(module, "impl"):
            module.impl = impl
    if not any(p.requires_grad for p in ours.parameters()):
        wants_data = True
    counts = [flops(m.train(training), x.clone().requires_grad_(wants_data)) for m in (ours, stock)]
    assert counts[0] == counts[1]
    counted = (nn.modules.conv._ConvNd, ConvLSTM)
    assert counts[0][0] > 0 or not any(isinstance(m, counted) for m in ours.modules())


def test_flops_without_any_gradient(pair):
    ours, stock, x = pair
    with torch.no_grad(), FlopCounterMode(display=False) as mine:
        ours(x)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        stock(x)
    assert mine.get_total_flops() == theirs.get_total_flops()


def test_forward_mode(pair, training):
    ours, stock, x = pair
    ours.train(training).double(), stock.train(training).double()
    x, tangent = x.double(), torch.randn_like(x, dtype=torch.float64)

    def derivative(module):
        def call(x):
            # Running statistics of the function's own: torch.func refuses to change those of a module.
            state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            return leaves(torch.func.functional_call(module, state, x))

        return torch.func.jvp(call, (x,), (tangent,))

    given, expected = derivative(ours), derivative(stock)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)
    # The last entries only: all of them take time.
    rows = [
        torch.func.jacfwd(lambda x, m=m: leaves(m(x))[0].flatten()[-3:])(x) if not training else torch.zeros(0)
        for m in (ours, stock)
    ]
    torch.testing.assert_close(*rows, rtol=1e-6, atol=1e-6)


def test_forward_mode_that_stock_norms_refuse_too():
    """The function does not receive the running statistics as an argument."""
    x = torch.randn(2, 3, 2, 2, 2)
    for norm in (BatchNormAct3d(3), nn.BatchNorm3d(3)):
        with pytest.raises(RuntimeError, match="in-place operation"):
            torch.func.jvp(norm, (x,), (x,))


@pytest.mark.parametrize("first", ["fastvgan.layers", "torch.utils.flop_counter"])
def test_flop_formulas_are_registered_whichever_is_imported_first(first):
    second = {"fastvgan.layers": "torch.utils.flop_counter", "torch.utils.flop_counter": "fastvgan.layers"}[first]
    code = (
        f"import sys, {first}; early = 'torch.utils.flop_counter' in sys.modules; import {second}, torch; "
        "known = torch.ops.fastvgan.conv_down in sys.modules['torch.utils.flop_counter'].flop_registry; "
        "print(early, known)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Our layers alone leave the counter, and Triton with it, unimported.
    assert run.stdout.split() == [str(first != "fastvgan.layers"), "True"]
