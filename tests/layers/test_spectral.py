"""Spectral normalisation against torch.nn.utils.parametrizations.spectral_norm and the singular values of NumPy."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from fastvgan.layers import Conv3d, ConvLSTM, deferred
from fastvgan.layers.deferred import conv_act
from fastvgan.layers.spectral import SpectralNorm, add_spectral_norm, is_original, iterate

SHAPES = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
)
FORMATS = {2: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}


class Weighted(nn.Module):
    """A module that holds a weight and nothing else."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone(memory_format=torch.preserve_format))


def normed(*shape):
    """Our module and torch's with normalised weights: equal weights and vectors, in float64."""
    weight = torch.randn(*shape, dtype=torch.float64)
    stock = parametrizations.spectral_norm(Weighted(weight)).eval()  # in training each reading iterates
    ours = Weighted(weight)
    add_spectral_norm(ours)
    ours.load_state_dict(stock.state_dict())
    return ours, stock


@given(shape=SHAPES, steps=st.integers(0, 4), is_last=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_weights_and_gradients_of_both_orders_are_torch_s(shape, steps, is_last, seed):
    torch.manual_seed(seed)
    ours, stock = normed(*shape)
    if is_last:  # channels last in memory
        original = ours.parametrizations.weight.original
        original.data = original.data.contiguous(memory_format=FORMATS[len(shape)])
    with torch.no_grad():  # another weight than the one that the vectors belong to
        change = 0.3 * torch.randn(*shape, dtype=torch.float64)
        for module in (ours, stock):
            module.parametrizations.weight.original += change
    for _ in range(steps):
        iterate(ours)
        stock.train()
        assert stock.weight is not None  # iterates
        stock.eval()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    coefficients = torch.randn(*shape, dtype=torch.float64)
    results = []
    for module in (ours, stock):
        original, weight = module.parametrizations.weight.original, module.weight
        (first,) = torch.autograd.grad((weight.sin() * coefficients).sum(), original, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), original)
        results.append((weight, first, second))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@given(shape=SHAPES, seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_largest_singular_value_becomes_one(shape, seed):
    torch.manual_seed(seed)
    module = Weighted(torch.randn(*shape, dtype=torch.float64))
    add_spectral_norm(module)
    for _ in range(500):
        iterate(module)
    values = np.linalg.svd(module.weight.detach().flatten(1).numpy(), compute_uv=False)
    assert values[0] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("size", [(3, 4), (4, 2, 3, 3, 3)])
def test_a_weight_that_starts_at_zero_is_only_bounded(size):
    module = Weighted(torch.zeros(*size))
    add_spectral_norm(module)
    original = module.parametrizations.weight.original
    for _ in range(3):
        iterate(module)
    weight = module.weight
    weight.sum().backward()
    assert torch.equal(weight, torch.zeros(*size)) and torch.equal(original.grad, torch.ones(*size))
    with torch.no_grad():
        original.copy_(torch.randn(*size))
        original /= 2 * torch.linalg.matrix_norm(original.flatten(1), 2)  # a singular value of one half
    for _ in range(300):
        iterate(module)
    torch.testing.assert_close(module.weight, original)
    with torch.no_grad():
        original *= 20
    torch.testing.assert_close(module.weight, original / 10, rtol=1e-4, atol=1e-6)


def test_a_weight_that_becomes_zero_or_infinite_leaves_the_vectors_finite():
    module = Weighted(torch.rand(3, 4))  # with positive vectors, whose products with infinities are infinite, not NaN
    add_spectral_norm(module)
    vectors = [buffer.clone() for buffer in module.buffers()]
    for value in (0.0, torch.nan, torch.inf):
        with torch.no_grad():
            module.parametrizations.weight.original.fill_(value)
        iterate(module)
        assert all(torch.equal(buffer, before) for buffer, before in zip(module.buffers(), vectors, strict=True))


def test_every_weight_is_normalised_and_no_bias_or_excluded_module():
    network = nn.Sequential(Conv3d(2, 3, 1), nn.Sequential(nn.Linear(3, 4), nn.Embedding(4, 2)), ConvLSTM(3, 2))
    add_spectral_norm(network, nn.Embedding)
    originals = {name for name, _ in network.named_parameters() if is_original(name)}
    assert originals == {
        "0.parametrizations.weight.original",
        "1.0.parametrizations.weight.original",
        "2.parametrizations.weight_ih.original",
        "2.parametrizations.weight_hh.original",
    }
    assert {name for name, _ in network.named_parameters()} - originals == {
        "0.bias",
        "1.0.bias",
        "1.1.weight",
        "2.bias",
    }


def test_no_random_number_is_drawn():
    network = Conv3d(2, 3, 2)
    state = torch.random.get_rng_state()
    add_spectral_norm(network)
    iterate(network)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.extension
@pytest.mark.parametrize("autocast", [False, True])
def test_a_normalised_convolution_is_computed_with_its_activation(monkeypatch, autocast):
    """The fused operation gets the normalised weight, and its gradient reaches the original one."""
    monkeypatch.setenv("FASTVGAN_IMPL", "cpp")
    conv = Conv3d(16, 16, 3, padding=1)
    add_spectral_norm(conv)
    seen = []
    fused = deferred.fused_conv
    monkeypatch.setattr(deferred, "fused_conv", lambda *given, **more: seen.append(given) or fused(*given, **more))
    x = torch.randn(2, 16, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), parametrize.cached():
        y = conv_act(conv, x, "leaky_relu", 0.2)
        weight = conv.weight
    assert len(seen) == 1 and seen[0][1] is weight and weight.dtype == torch.float32
    y.float().square().sum().backward()
    mine = conv.parametrizations.weight.original.grad.clone()
    conv.zero_grad()
    expected = nn.functional.leaky_relu(nn.functional.conv3d(x, conv.weight, conv.bias, padding=1), 0.2)
    expected.square().sum().backward()
    least = 0.02 if autocast else 1e-5
    for found, wanted in ((y.float(), expected), (mine, conv.parametrizations.weight.original.grad)):
        assert (found - wanted).norm() < least * wanted.norm()


def test_the_norm_is_exact_under_autocast(monkeypatch):
    """On a GPU autocast would cast the product of a matrix and a vector, too."""
    conv = Conv3d(3, 4, 2)
    add_spectral_norm(conv)
    multiply = torch.mv
    casts = []
    monkeypatch.setattr(torch, "mv", lambda *x: casts.append(torch.is_autocast_enabled("cpu")) or multiply(*x))
    plain = conv.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv.weight, plain)
        vectors = [buffer.clone() for buffer in conv.buffers()]
        iterate(conv)
        within = [buffer.clone() for buffer in conv.buffers()]
    assert len(casts) == 4 and not any(casts)
    for buffer, before in zip(conv.buffers(), vectors, strict=True):
        buffer.copy_(before)
    iterate(conv)
    assert all(torch.equal(buffer, one) for buffer, one in zip(conv.buffers(), within, strict=True))


def test_copies_have_their_own_weights_and_vectors():
    conv = Conv3d(3, 4, 2)
    add_spectral_norm(conv)
    other = copy.deepcopy(conv)
    x = torch.randn(1, 3, 3, 3, 3)
    before = conv(x)
    assert torch.equal(other(x), before) and deferred.is_unwatched(other)
    with torch.no_grad():
        other.parametrizations.weight.original.normal_()
    iterate(other)
    assert torch.equal(conv(x), before) and not torch.equal(other(x), before)
    conv.load_state_dict(other.state_dict())
    assert torch.equal(conv(x), other(x))


def test_a_network_is_freed_with_its_classes():
    conv = Conv3d(3, 4, 2)
    add_spectral_norm(conv)
    assert deferred.is_unwatched(conv)
    found = weakref.ref(conv), weakref.ref(type(conv))
    del conv
    gc.collect()
    assert [each() for each in found] == [None, None]


def test_the_start_is_torch_s_number_of_iterations():
    weight = torch.randn(5, 4, dtype=torch.float64)
    ours, u, v = SpectralNorm(weight), torch.full((5,), 5**-0.5).double(), torch.full((4,), 0.5).double()
    for _ in range(15):
        u = nn.functional.normalize(weight @ v, dim=0)
        v = nn.functional.normalize(weight.T @ u, dim=0)
    torch.testing.assert_close(ours.sigma(weight), u @ weight @ v)
    torch.testing.assert_close(ours(weight), weight / (u @ weight @ v))
