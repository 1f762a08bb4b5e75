"""A fused and a stock network, for each implementation that can compute modules together."""

import copy

import pytest
from fuse_networks import IMPLS, blocks, network

from fastvgan.layers import fuse


@pytest.fixture(params=IMPLS)
def pair(request):
    """Return a fused network and the stock one."""
    stock = network()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


@pytest.fixture(params=IMPLS)
def nested_pair(request):
    stock = blocks()
    return fuse(copy.deepcopy(stock), impl=request.param), stock
