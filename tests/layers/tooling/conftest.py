"""Each of our modules with the stock one, in training and in evaluation."""

import pytest
import torch
from layer_pairs import PAIRS


@pytest.fixture(params=PAIRS)
def pair(request):
    """Return our module, the stock one with the same parameters, and an input."""
    make, shape = PAIRS[request.param]
    ours, stock = make()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    return ours, stock, torch.randn(shape)


@pytest.fixture(params=["training", "evaluation"])
def training(request):
    return request.param == "training"
