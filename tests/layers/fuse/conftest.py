"""A fused and a stock network, for each implementation that can compute modules together; and fuse as with a GPU."""

import copy

import pytest
from fuse_networks import IMPLS, blocks, network

from fastvgan.layers import fuse, fusion


@pytest.fixture(params=IMPLS)
def pair(request):
    """Return a fused network and the stock one."""
    stock = network()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


@pytest.fixture(params=IMPLS)
def nested_pair(request):
    stock = blocks()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


@pytest.fixture
def replace_all_layers(monkeypatch):
    """Let fuse also replace the layers that gain nothing on a CPU, as it does with a GPU."""
    monkeypatch.setattr(fusion, "_no_gain", lambda module, stock: None)
