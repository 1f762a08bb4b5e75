"""Parts of a network, and networks built from them, compute the same after fuse as before."""

import pytest
import torch
from fuse_networks import assert_same, change, inputs
from torch import nn


@pytest.mark.parametrize("stop", range(1, 9))
def test_the_beginning_of_it(pair, stop):
    ours, stock = (model[:stop] for model in pair)
    assert_same(ours, stock, inputs())


@pytest.mark.parametrize("start", range(1, 8))
def test_the_end_of_it(pair, start):
    ours, stock = pair
    x = stock.eval()[:start](inputs()).detach()
    assert_same(ours[start:], stock[start:], x)


@pytest.mark.parametrize("name", "01234567")
def test_one_of_it(pair, name):
    ours, stock = pair
    x = stock.eval()[: int(name)](inputs()).detach()
    assert_same(ours.get_submodule(name), stock.get_submodule(name), x)


class Features(nn.Module):
    """Collects the outputs of all children, like torchvision's IntermediateLayerGetter."""

    def __init__(self, model):
        super().__init__()
        self.children_of = nn.ModuleDict(model.named_children())

    def forward(self, x):
        found = []
        for layer in self.children_of.values():
            x = layer(x)
            found.append(x.flatten().clone())
        return torch.cat(found)


def test_a_feature_extractor(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        assert_same(Features(ours), Features(stock), inputs())


def without_last(model):
    return nn.Sequential(*list(model.children())[:-1])


def without_norms(model):
    del model[4], model[1]
    return model


def pop_last(model):
    model.pop(5)
    return model


def with_more(model):
    model.append(nn.BatchNorm3d(3)).append(nn.ReLU()).insert(6, nn.BatchNorm3d(6))
    return model.extend([nn.Conv3d(3, 2, 1), nn.Sigmoid()])


def twice(model):
    return model[:4] + model[4:] + nn.Sequential(nn.Conv3d(3, 3, 1)) * 2


def share_parts(model):
    return nn.Sequential(model[:3], nn.Conv3d(4, 3, 1), model[:3], *model[3:])


@pytest.mark.parametrize(
    "how", list(map(change, (without_last, without_norms, pop_last, with_more, twice, share_parts)))
)
def test_networks_built_from_parts(pair, how):
    torch.manual_seed(1)
    ours = how(pair[0])
    torch.manual_seed(1)
    assert_same(ours, how(pair[1]), inputs())
