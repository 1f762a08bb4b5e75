"""Random networks compute the same after fuse and random changes, conversions, copies, hooks and traces."""

import copy
import os
import pickle
import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastvgan.layers import fuse
from fastvgan_kernels import extension

CHANNELS = 4


class MyConv2d(nn.Conv2d):
    """A subclass that, like the next ones, defines only __init__ and a method that no call uses."""

    def __init__(self, *args, note="mine", **options):
        super().__init__(*args, **options)
        self.note = note

    @staticmethod
    def get_downsample_stride(stride):
        return stride, stride


class MyConv3d(nn.Conv3d):
    def reset_parameters(self):
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(0.9)


class MyTransposed2d(nn.ConvTranspose2d):
    pass


class MyTransposed3d(nn.ConvTranspose3d):
    pass


class MyNorm2d(nn.BatchNorm2d):
    def extra_repr(self):
        return "mine, " + super().extra_repr()


class MyNorm3d(nn.BatchNorm3d):
    pass


class Doubled2d(nn.Conv2d):
    """A subclass that computes something else."""

    def forward(self, x):
        return super().forward(x) * 2


class Doubled3d(nn.Conv3d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias) * 2


# By the number of dimensions.
CONVOLUTIONS = {2: [nn.Conv2d, nn.Conv2d, MyConv2d, Doubled2d], 3: [nn.Conv3d, nn.Conv3d, MyConv3d, Doubled3d]}
TRANSPOSED = {2: [nn.ConvTranspose2d, MyTransposed2d], 3: [nn.ConvTranspose3d, MyTransposed3d]}
NORMS = {2: [nn.BatchNorm2d, MyNorm2d], 3: [nn.BatchNorm3d, MyNorm3d]}
INSTANCE_NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
BATCH_NORMS, ALL_CONVOLUTIONS = (nn.BatchNorm2d, nn.BatchNorm3d), (nn.Conv2d, nn.Conv3d)
ALL_TRANSPOSED = nn.ConvTranspose2d, nn.ConvTranspose3d


class Choose(random.Random):
    """Random draws for a network of a number of dimensions."""

    def __init__(self, seed, dims):
        super().__init__(seed)
        self.dims = dims


KINDS = ["conv", "transposed", "norm", "act", "row", "row", "row", "nested", "branch", "other"]


class Chain(nn.Sequential):
    """A subclass of Sequential."""


class Branch(nn.Module):
    """Layers that a forward calls one after another."""

    def __init__(self, conv, norm, act):
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x):
        return self.act(self.norm(self.conv(x))) + 1


class Scaled(nn.Module):
    def forward(self, x):
        return x * 0.5


def make(kind, choose, depth=0):
    """A layer that keeps the number of channels; `choose` is a Choose."""
    if kind == "nested":
        count = choose.randrange(4) if depth < 3 else 0
        inside = [make(choose.choice(KINDS), choose, depth + 1) for _ in range(count)]
        return choose.choice([nn.Sequential, Chain])(*inside)
    if kind == "row":
        return row(choose)
    if kind == "branch":
        return Branch(*(make(part, choose) for part in ("conv", "norm", "act")))
    if kind == "norm":
        return norm(choose)
    if kind == "act":
        inplace = choose.random() < 0.3
        gelu, silu = nn.GELU(choose.choice(["none", "none", "tanh"])), nn.SiLU(inplace)
        return choose.choice([nn.LeakyReLU(0.9, inplace), nn.LeakyReLU(0.8), nn.Tanh(), silu, gelu, nn.ReLU6()])
    if kind == "other":
        return choose.choice([POOL[choose.dims](1), nn.Dropout(0.0), nn.Identity(), Scaled()])
    return convolution(kind, choose)


def row(choose):
    """A convolution, a norm and an activation, some of them in a nested Sequential, or one of them absent."""
    layers = [make(kind, choose) for kind in (choose.choice(["conv", "transposed"]), "norm", "act")]
    if choose.random() < 0.4:
        layers.pop(choose.randrange(3))
    border = choose.randrange(len(layers) + 1)
    inside = choose.choice([nn.Sequential, Chain])
    return inside(*layers[:border], inside(*layers[border:])) if choose.random() < 0.5 else inside(*layers)


def norm(choose):
    # A large eps, or else what is nearly constant makes much of little errors.
    options = {"eps": choose.choice([0.1, 1.0]), "affine": choose.random() < 0.7}
    kind = choose.choice(["batch", "batch", "instance", "group"])
    if kind == "group":
        layer = nn.GroupNorm(choose.choice([1, 2]), CHANNELS, **options)
    else:
        layers = NORMS[choose.dims] if kind == "batch" else [INSTANCE_NORMS[choose.dims]]
        options["momentum"] = choose.choice([None, 0.1, 0.9]) if kind == "batch" else 0.1
        options["track_running_stats"] = choose.random() < (0.8 if kind == "batch" else 0.2)
        layer = choose.choice(layers)(CHANNELS, **options)
    if layer.affine:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2)
            layer.bias.normal_()
    return layer


def convolution(kind, choose):
    sizes = lambda: tuple(choose.randint(1, 2) for _ in range(choose.dims))  # noqa: E731
    options = {"kernel_size": sizes(), "groups": choose.choice([1, 1, 2]), "bias": choose.random() < 0.5}
    if kind == "transposed":
        transposed = choose.choice(TRANSPOSED[choose.dims])
        return transposed(CHANNELS, CHANNELS, padding=0, dilation=sizes(), **options)
    mode, layer = choose.choice(["zeros", "zeros", "replicate", "circular"]), choose.choice(CONVOLUTIONS[choose.dims])
    return layer(CHANNELS, CHANNELS, padding="same", padding_mode=mode, dilation=sizes(), **options)


# --- what is done to a network; each takes it and a Choose, and gives it back ---


def containers(model):
    return [m for m in model.modules() if isinstance(m, nn.Sequential)]


def leaf(model, choose):
    """Choose a random module: return its name and its container."""
    inside = [(m, name) for m in model.modules() for name, _ in m.named_children()]
    return choose.choice(inside) if inside else (None, None)


def a_slice(model, choose):
    start = choose.randint(0, len(model) // 2)
    return model[start : choose.randint(start, len(model))]


def an_exchange(model, choose):
    parent, name = leaf(model, choose)
    if parent is not None:
        setattr(parent, name, make(choose.choice(KINDS), choose))
    return model


def a_swap(model, choose):
    container = choose.choice(containers(model))
    if len(container) > 1:
        i, j = choose.sample(range(len(container)), 2)
        container[i], container[j] = container[j], container[i]
    return model


def a_move(model, choose):
    source, target = choose.choice(containers(model)), choose.choice(containers(model))
    if len(source) and target not in source.modules():
        target.append(source.pop(choose.randrange(len(source))))
    return model


def a_conversion(model, choose):
    """Replace all norms as converters do: by class, keeping their tensors."""
    how = choose.choice(["group", "new", "none"])
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BATCH_NORMS):
                setattr(parent, name, convert(child, how))
    return model


def convert(child, how):
    if how == "none":
        return nn.Identity()
    if how == "group":
        return nn.GroupNorm(2, child.num_features, child.eps)
    tracks = child.running_mean is not None
    kind = nn.BatchNorm2d if isinstance(child, nn.BatchNorm2d) else nn.BatchNorm3d
    new = kind(child.num_features, child.eps, child.momentum, child.affine, tracks)
    new.load_state_dict(child.state_dict())
    return new


def a_folding(model, choose):
    model.eval()
    for container in containers(model):
        for i in range(len(container) - 1):
            conv, after = container[i], container[i + 1]
            if isinstance(after, BATCH_NORMS) and isinstance(conv, ALL_CONVOLUTIONS) and after.running_mean is not None:
                if not (conv._forward_hooks or conv._forward_pre_hooks or after._forward_hooks):
                    container[i], container[i + 1] = fuse_conv_bn_eval(conv, after), nn.Identity()
    return model


def a_copy(model, choose):
    how = choose.choice([copy.deepcopy, through_pickle])
    # Unpickling a GraphModule traces it again, which needs every module that its graph calls.
    is_traced = any(isinstance(m, torch.fx.GraphModule) for m in model.modules())
    return copy.deepcopy(model) if is_traced else how(model)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def double(module, args, y):
    return y * 2


def halve(module, args):
    return (args[0] / 2,)


def shift(module, args, kwargs, y):
    return y + 1


def take_third(module, before, after):
    return tuple(None if grad is None else grad / 3 for grad in before)


def take_quarter(module, after):
    return tuple(None if grad is None else grad / 4 for grad in after)


def a_hook(model, choose):
    module = choose.choice(list(model.modules()))
    how = choose.randrange(5)
    if how == 0:
        module.register_forward_hook(double)
    elif how == 1:
        module.register_forward_pre_hook(halve)
    elif how == 2:
        module.register_forward_hook(shift, with_kwargs=True)
    elif how == 3:
        module.register_full_backward_hook(take_third)
    else:
        module.register_full_backward_pre_hook(take_quarter)
    return model


def no_hooks(model, choose):
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            if choose.random() < 0.5:
                hooks.clear()
    return model


def an_attribute(model, choose):
    module = choose.choice(list(model.modules()))
    if isinstance(module, BATCH_NORMS):
        module.eps, module.momentum, module.track_running_stats = 0.5, choose.choice([None, 0.5]), choose.random() < 0.5
    elif isinstance(module, nn.LeakyReLU):
        module.negative_slope = choose.choice([0.7, 1.2])
    elif isinstance(module, ALL_TRANSPOSED):
        module.padding = (0,) * choose.dims
        module.dilation = (1, 2, 1)[: choose.dims]
    return model


def a_mode(model, choose):
    choose.choice(list(model.modules())).train(choose.random() < 0.5)
    return model


def freeze(model, choose):
    for parameter in choose.choice(list(model.modules())).parameters():
        parameter.requires_grad_(choose.random() < 0.5)
    return model


class Forward:
    """A forward assigned to an instance, which copies and pickles keep."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, x):
        return x.tanh() if self.kind else x * 0.5


def a_forward(model, choose):
    layers = [m for m in model.modules() if not list(m.children())]
    if layers:
        choose.choice(layers).forward = Forward(choose.random() < 0.5)
    return model


def last_format(model, choose):
    return model.to(memory_format=choose.choice([LAST[choose.dims], torch.contiguous_format]))


class LayersAreLeaves(torch.fx.Tracer):
    def is_leaf_module(self, m, name):
        return not list(m.children()) or any(vars(m)[hooks] for hooks in vars(m) if hooks.endswith("_hooks"))


def a_trace(model, choose):
    """The network as torch.fx records it; the network itself does not change."""
    try:
        graph = LayersAreLeaves().trace(model)
    except AttributeError:  # an earlier trace calls a layer that was exchanged since; names differ if one side can
        return model
    return nn.Sequential(torch.fx.GraphModule(model, graph)) if choose.random() < 0.3 else model


CHANGES = [a_slice, an_exchange, a_swap, a_move, a_conversion, a_folding, a_copy, a_hook, no_hooks, an_attribute]
CHANGES += [a_mode, freeze, a_forward, last_format, a_trace, an_exchange, a_hook]

# --- the comparison ---


def run(model, x, with_gradient, through, in_place):
    """Return the output, optionally changed in place, gradients and state, or the class of the error."""
    leaf_x = x.clone().requires_grad_(with_gradient)
    model.zero_grad()
    with torch.set_grad_enabled(with_gradient):
        try:
            y = through(model)(leaf_x * 1)  # an activation in place may not change a leaf
            y = y.add_(1) if in_place else y
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            return type(error)
        if with_gradient and y.requires_grad:
            try:
                (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            except RuntimeError:
                return RuntimeError  # something in place changed what backward needs
    grads = [leaf_x.grad, *(p.grad for p in model.parameters())]
    return y.detach(), [g for g in grads if g is not None], list(model.state_dict().values())


def near(mine, exact, tolerance):
    """Compare norms, since a single value near an activation's kink may differ."""
    assert mine.shape == exact.shape and mine.dtype == exact.dtype
    difference = (mine.double() - exact.double()).norm()
    assert difference <= tolerance * (exact.double().norm() + 0.1 * exact.numel() ** 0.5), difference


def assert_same(ours, stock, x, choose, tolerance):
    with_gradient = choose.random() < 0.7
    through = choose.choice([lambda m: m] * 4 + [trace, one_by_one])
    in_place = choose.random() < 0.2
    mine, exact = (run(model, x, with_gradient, through, in_place) for model in (ours, stock))
    if isinstance(exact, type):
        # torch rejects some in-place changes that a fused network can compute.
        return
    assert not isinstance(mine, type), mine
    assert list(ours.state_dict()) == list(stock.state_dict())
    for a, b in zip((mine[0], *mine[1], *mine[2]), (exact[0], *exact[1], *exact[2]), strict=True):
        near(a, b, tolerance)


def trace(model):
    return torch.fx.GraphModule(model, LayersAreLeaves().trace(model))


def one_by_one(model):
    def call(x):
        for layer in model.children():
            x = layer(x)
        return x

    return call


IMPLS = [("auto", torch.float64, 1e-6)]
if extension.load() is not None:
    IMPLS += [("cpp", torch.float32, 1e-2)]


@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:Full backward hook")
@pytest.mark.parametrize("impl, dtype, tolerance", IMPLS)
@pytest.mark.parametrize("dims", [2, 3])
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(CHANGES), max_size=5))
@settings(max_examples=60)
def test_any_network_after_any_changes(impl, dtype, tolerance, dims, seed, changes):
    choose = Choose(seed, dims)
    torch.manual_seed(seed)
    stock = nn.Sequential(*(make(choose.choice(KINDS), choose) for _ in range(choose.randint(1, 7)))).to(dtype)
    ours = fuse(copy.deepcopy(stock))
    x = torch.randn(2, CHANNELS, *(2, 3, 2)[-dims:], dtype=dtype)
    with mock.patch.dict(os.environ, {"FASTVGAN_IMPL": impl}):
        for change in (None, *changes):
            models = []
            training, again = choose.random() < 0.6, choose.random() < 0.2
            number = choose.random()
            for model in (ours, stock):
                torch.manual_seed(seed)
                model.train(training)
                models.append(model if change is None else change(model, Choose(number, dims)).to(dtype))
            ours, stock = models
            if again:
                fuse(ours)
            assert_same(ours, stock, x, choose, tolerance)
