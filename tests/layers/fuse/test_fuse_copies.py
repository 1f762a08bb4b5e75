"""Copies of a fused network are fused, and fuse runs no code of a network."""

import collections
import copy
import functools
import gc
import io
import pickle
import weakref

import numpy
import pytest
import torch
from fuse_networks import assert_same, inputs, network
from torch import nn

from fastvgan.layers import FuseReport, fuse
from fastvgan.layers.sequential import FusedSequential


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_pickle(model, protocol):
    return pickle.loads(pickle.dumps(model, protocol))


COPIES = [
    copy.deepcopy,
    copy.copy,
    through_torch_save,
    *(functools.partial(through_pickle, protocol=p) for p in range(6)),
]


@pytest.mark.parametrize("how", COPIES)
def test_copies(pair, nested_pair, how):
    for ours, stock in (pair, nested_pair):
        again = how(ours)
        assert repr(again) == repr(ours) and [type(m) for m in again.modules()] == [type(m) for m in ours.modules()]
        assert_same(again, copy.deepcopy(stock), inputs())


def test_classes_and_names_stay(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        for mine, theirs in zip(ours.modules(), stock.modules(), strict=True):
            assert isinstance(mine, type(theirs))
            assert type(theirs) in (nn.Sequential, nn.BatchNorm3d) or type(mine).__name__ == type(theirs).__name__
        assert list(ours.state_dict()) == list(stock.state_dict())
        assert isinstance(ours, FusedSequential)


class Stateful(nn.Module):
    """Changes state in forward in every way that published networks do."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.net = network()
        self.history, self.generator = collections.deque(maxlen=3), numpy.random.default_rng(0)
        self.drawn, self.count, self.cache, self.last = iter(range(100)), 0, {}, None
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        type(self).calls += 1
        self.count += next(self.drawn)
        self.steps += 1
        self.history.append(x.mean())
        self.cache[len(self.cache)] = x.shape
        self.last = self.net(x * (1 + self.generator.random() + self.count))
        return self.last + torch.stack(tuple(self.history)).mean()


def test_nothing_of_a_network_is_run():
    stock, seen = Stateful(), []
    ours = copy.deepcopy(stock)
    for module in ours.modules():
        module.register_forward_hook(lambda *args: seen.append(args))
        module.register_forward_pre_hook(lambda *args: seen.append(args))
    ours.drawn, before = iter(range(100)), (torch.get_rng_state(), numpy.random.get_state(legacy=False))
    fuse(ours)
    assert Stateful.calls == 0 and ours.count == 0 and not ours.history and not ours.cache and ours.last is None
    assert ours.steps == 0 and next(ours.drawn) == 0 and not seen
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(numpy.random.get_state(legacy=False)) == repr(before[1])
    ours.drawn = iter(range(100))
    assert ours.generator.bit_generator.state == stock.generator.bit_generator.state
    x = inputs()
    for training in (True, False, True):
        torch.testing.assert_close(ours.train(training)(x), stock.train(training)(x), rtol=1e-4, atol=1e-4)


class Registered(nn.Sequential):
    names = []

    def __init_subclass__(cls):
        Registered.names.append(cls.__name__)


class Watching(nn.Sequential):
    written = []

    def __setattr__(self, name, value):
        self.written.append(name)
        super().__setattr__(name, value)


def test_no_code_of_a_class_is_run():
    """A registry of subclasses, and a class with a __setattr__. The first is fused as part of its container."""
    layers = nn.BatchNorm3d(3), nn.ReLU()
    report = FuseReport()
    registered = fuse(Registered(*layers), report=report)
    assert type(registered) is Registered and not Registered.names
    assert "that runs code when it is subclassed" in report.left[0].why
    assert type(fuse(nn.Sequential(registered))) is FusedSequential
    watching = Watching(*layers)
    Watching.written.clear()
    fuse(watching)
    assert isinstance(watching, FusedSequential) and not Watching.written
    x = inputs()
    torch.testing.assert_close(watching(x), nn.Sequential(nn.BatchNorm3d(3), nn.ReLU())(x))


KINDS = [(nn.BatchNorm3d, (3,)), (nn.Conv3d, (3, 3, 3, 1, 1)), (nn.Sequential, (nn.BatchNorm3d(3), nn.ReLU()))]


@pytest.mark.parametrize("base, arguments", KINDS)
def test_classes_of_users_do_not_stay(base, arguments):
    """Neither does what fuse derived from them. While an instance lives, others get its class."""
    kind = type("Own", (base,), {})
    networks = [fuse(nn.Sequential(kind(*arguments), nn.BatchNorm3d(3), nn.ReLU())) for _ in range(2)]
    derived = type(networks[0][0])
    assert derived is not kind and issubclass(derived, kind)
    copied = copy.deepcopy(networks[0])
    assert type(networks[1][0]) is type(copied[0]) is derived
    copied(inputs())
    classes = [weakref.ref(kind), weakref.ref(derived)]
    del kind, derived, networks, copied
    gc.collect()
    assert [each() for each in classes] == [None, None]


class Own(nn.Sequential):
    pass


def test_a_pickle_outlives_the_class_that_fuse_derived():
    pickled = pickle.dumps(fuse(Own(nn.BatchNorm3d(3), nn.ReLU())))
    gc.collect()
    again = pickle.loads(pickled)
    assert isinstance(again, Own) and isinstance(again, FusedSequential)
    assert type(copy.deepcopy(again)) is type(again)
