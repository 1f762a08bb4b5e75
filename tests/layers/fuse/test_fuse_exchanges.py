"""Modules that are replaced, changed or converted after fuse compute the same as in the stock network."""

import copy

import pytest
import torch
from fuse_networks import IMPLS, assert_same, change, inputs
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastvgan.layers import fuse


class Shifted(nn.BatchNorm3d):
    def forward(self, x):
        return super().forward(x) + 1


class Doubled(nn.Conv3d):
    def forward(self, x):
        return 2 * super().forward(x)


EXCHANGES = {
    "2": [nn.SiLU, nn.Identity, nn.Tanh, nn.ReLU, lambda: nn.LeakyReLU(0.3), lambda: nn.LeakyReLU(-0.3), nn.Sequential],
    "1": [nn.Identity, lambda: nn.InstanceNorm3d(4), lambda: nn.GroupNorm(2, 4), lambda: nn.BatchNorm3d(4)],
    "0": [lambda: nn.Conv3d(3, 4, 1), lambda: Doubled(3, 4, 1), lambda: nn.Conv3d(3, 4, 3, padding=1, bias=False)],
    "4": [lambda: Shifted(6), lambda: nn.BatchNorm3d(6, momentum=None), nn.GELU, lambda: nn.Dropout3d(0.0)],
    "7": [lambda: nn.BatchNorm3d(3), nn.Sigmoid, lambda: nn.Sequential(nn.BatchNorm3d(3), nn.Tanh())],
}


@pytest.mark.parametrize("name, make", [(name, make) for name, makes in EXCHANGES.items() for make in makes])
def test_a_part_exchanged_for_another(pair, name, make):
    ours, stock = pair
    torch.manual_seed(1)
    new = make()
    ours[int(name)], stock[int(name)] = new, copy.deepcopy(new)
    assert_same(ours, stock, inputs())


@pytest.mark.parametrize("name", ["0.1", "1", "2.1", "2.2", "4.1"])
@pytest.mark.parametrize("make", [nn.Identity, nn.GELU, nn.ELU])
def test_a_nested_part_exchanged_for_another(nested_pair, name, make):
    for model in nested_pair:
        model.set_submodule(name, make())
    assert_same(*nested_pair, inputs())


def all_activations(model):
    """Replace every ReLU by another activation, as papers on activations do."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.ReLU, nn.LeakyReLU)):
                setattr(module, name, nn.GELU())
    return model


def test_all_activations_exchanged(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        assert_same(all_activations(ours), all_activations(stock), inputs())


def test_attributes_changed(pair):
    for model in pair:
        model[5].negative_slope, model[4].eps, model[1].momentum = 0.7, 0.3, 0.9
        model[3].stride, model[3].padding, model[3].dilation = [1, 1, 1], 0, 1
    assert_same(*pair, inputs())


ENDS = [nn.ReLU, nn.LeakyReLU, lambda: nn.LeakyReLU(0.2, inplace=True), nn.Tanh]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("make", ENDS)
def test_a_result_changed_in_place(impl, with_norm, make):
    """torch allows it if the activation does not need its output for backward."""

    class Residual(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            y = self.net(x)
            y += 1
            return y

    norm = [nn.BatchNorm3d(4)] * with_norm
    for net in (
        nn.Sequential(nn.Conv3d(3, 4, 1), *norm, make()),
        nn.Sequential(nn.Conv3d(3, 4, 1), *norm, nn.Sequential(make()), nn.Identity(), nn.Dropout3d(0.0, inplace=True)),
    ):
        stock = Residual(net)
        ours = fuse(copy.deepcopy(stock), impl=impl)
        try:
            copy.deepcopy(stock)(inputs()).sum().backward()
        except RuntimeError:
            continue
        assert_same(ours, stock, inputs())


class Frozen(nn.Module):
    """Object detectors freeze norms like this."""

    def __init__(self, norm):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        shape = 1, -1, 1, 1, 1
        scale = self.weight / (self.running_var + 1e-5).sqrt()
        return x * scale.view(shape) + (self.bias - self.running_mean * scale).view(shape)


def to_frozen(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return Frozen(module)
    for name, child in module.named_children():
        module.add_module(name, to_frozen(child))
    return module


def to_group_norm(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            setattr(module, name, nn.GroupNorm(2, child.num_features, child.eps))
        to_group_norm(child)
    return module


def to_synced_by_hand(module):
    """Like apex's and MMCV's convert_syncbn_model: a new norm takes over the tensors of the old one."""
    new = module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        new = Shifted(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        new.weight, new.bias, new.training = module.weight, module.bias, module.training
        new.running_mean, new.running_var = module.running_mean, module.running_var
        new.num_batches_tracked = module.num_batches_tracked
    for name, child in module.named_children():
        new.add_module(name, to_synced_by_hand(child))
    return new


def fold(model):
    """Fold a norm into its convolution for inference."""
    model.eval()
    for container in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for first, second in zip(range(len(container)), range(1, len(container)), strict=False):
            conv, norm = container[first], container[second]
            if isinstance(norm, nn.BatchNorm3d) and isinstance(conv, nn.Conv3d):
                container[first], container[second] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model


@pytest.mark.parametrize("how", list(map(change, (to_frozen, to_group_norm, to_synced_by_hand))))
def test_converted_norms(pair, nested_pair, how):
    for ours, stock in (pair, nested_pair):
        assert_same(how(ours), how(stock), inputs())


def test_torch_sync_batch_norm(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        ours, stock = map(nn.SyncBatchNorm.convert_sync_batchnorm, (ours, stock))
        assert [type(m) for m in ours.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] == [
            nn.SyncBatchNorm
        ] * 2
        assert_same(ours, stock, inputs(), steps=(False,))


def test_folded(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        assert_same(fold(ours), fold(stock), inputs(), steps=(False,))
        assert sum(isinstance(m, nn.BatchNorm3d) for m in ours.modules()) == 0


class Exchange(nn.Module):
    """A module that replaces a later one in each call, by a path that starts at the root."""

    def __init__(self, root, path, new):
        super().__init__()
        self.root, self.path, self.new = [root], path, new

    def forward(self, x):
        self.root[0].set_submodule(self.path, self.new)
        return x


@pytest.mark.parametrize("path", ["4", "5.0", "5.2", "5"])
@pytest.mark.parametrize("by_hook", [False, True])
def test_a_part_exchanged_by_an_earlier_one_in_the_same_call(path, by_hook):
    torch.manual_seed(0)
    stock = nn.Sequential(
        *(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Identity(), nn.Tanh()),
        nn.Sequential(nn.BatchNorm3d(4), nn.LeakyReLU(), nn.Softplus()),
    )
    ours, x, results = fuse(copy.deepcopy(stock)), torch.randn(2, 3, 3, 3, 3), []
    for network in (ours, stock):
        exchange = Exchange(network, path, nn.Hardtanh(-0.1, 0.2))
        if by_hook:
            network[0].register_forward_hook(lambda module, args, y, exchange=exchange: exchange(y))
        else:
            network[3] = exchange
        results.append(network(x))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_part_appended_in_a_call_raises_as_in_a_stock_network():
    stock = nn.Sequential(nn.BatchNorm3d(3), nn.ReLU(), nn.Softplus())
    for network in (stock, fuse(copy.deepcopy(stock))):
        network[2].register_forward_hook(lambda *args, network=network: network.append(nn.Tanh()) and None)
        with pytest.raises(RuntimeError, match="mutated|changed size"):
            network(torch.randn(2, 3, 2, 2, 2))
