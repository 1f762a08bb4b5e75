"""A fused network and the stock one, by each implementation that may compute whole rows of modules."""

import copy

import pytest
from fuse_networks import IMPLS, blocks, network

from fastvgan.layers import fuse


@pytest.fixture(params=IMPLS)
def pair(request):
    """A fused network and the stock one."""
    stock = network()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


@pytest.fixture(params=IMPLS)
def nested_pair(request):
    stock = blocks()
    return fuse(copy.deepcopy(stock), impl=request.param), stock
