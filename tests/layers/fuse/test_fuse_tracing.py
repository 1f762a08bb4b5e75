"""Compilers, tracers, transforms and modes see every module of a fused network."""

import contextlib
import copy
import functools

import pytest
import torch
from fuse_networks import SHAPE, assert_same, inputs, settle
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from fastvgan.layers import fuse
from fastvgan.layers.sequential import FusedSequential


class LayersAreLeaves(torch.fx.Tracer):
    def is_leaf_module(self, m, name):
        return not list(m.children())


def test_torch_fx(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        graphs = [LayersAreLeaves().trace(model) for model in (ours, stock)]
        assert [node.target for node in graphs[0].nodes] == [node.target for node in graphs[1].nodes]
        traced = torch.fx.GraphModule(ours, graphs[0])
        traced_stock = torch.fx.GraphModule(stock, graphs[1])
        x = inputs()
        for training in (True, False):
            results = [model.train(training)(x) for model in (traced, traced_stock)]
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_function_of_a_constant_is_traced_and_not_computed(pair):
    class Constant(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
            self.register_buffer("x", inputs())

        def forward(self, y):
            return self.net(self.x) + y

    ours, stock = (Constant(model) for model in pair)
    names = [[node.target for node in LayersAreLeaves().trace(model).nodes] for model in (ours, stock)]
    assert names[0] == names[1] and ours.net[1].num_batches_tracked == 0


def test_torch_compile(pair, nested_pair):
    for ours, stock in (pair, nested_pair):
        torch._dynamo.reset()
        compiled, x = torch.compile(ours, fullgraph=True, backend="aot_eager"), inputs()
        for training in (True, False):
            results = [model.train(training)(x) for model in (compiled, stock)]
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_trace(pair):
    ours, stock = (model.eval() for model in pair)
    with torch.no_grad():
        traced = torch.jit.trace(ours, inputs())
        x = inputs()
        torch.testing.assert_close(traced(x), stock(x), rtol=1e-4, atol=1e-4)
    assert len(list(traced.children())) == 8


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_container_left_with_stock_layers_can_be_scripted(pair):
    ours = FusedSequential(nn.Conv3d(3, 3, 1), nn.ReLU())
    x = inputs()
    torch.testing.assert_close(torch.jit.script(ours)(x), ours(x))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def test_a_mode_sees_the_operations_of_every_module(pair):
    ours, _ = pair
    x, seen = inputs(), (Seen(), Seen())
    alone = copy.deepcopy(ours)
    with seen[0]:
        y = ours(x)
    with seen[1]:
        z = x
        for module in alone:
            z = module(z)
    torch.testing.assert_close(y, z)
    assert seen[0].names == seen[1].names and not any("fused_conv" in name for name in seen[0].names)


def test_torch_func(pair):
    ours, stock = (model.eval() for model in pair)
    x = torch.randn(3, *SHAPE)
    results = []
    for model in (ours, stock):
        state = {name: p * 0.9 for name, p in model.named_parameters()}
        loss = lambda state, x, model=model: torch.func.functional_call(model, state, (x,)).square().sum()  # noqa: E731
        results.append([torch.func.vmap(model)(x), torch.func.grad(loss)(state, x[0])["0.weight"], loss(state, x[0])])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_functionalize_updates_the_running_statistics(remove, momentum, activation):
    torch.manual_seed(0)
    stock = nn.Sequential(
        nn.ConvTranspose3d(4, 3, 4, 2, 1), nn.BatchNorm3d(3, momentum=momentum), activation(), nn.Conv3d(3, 2, 3)
    )
    ours, x = fuse(copy.deepcopy(stock)), torch.randn(2, 4, 2, 3, 3)
    for _ in range(2):
        results = [torch.func.functionalize(model, remove=remove)(x) for model in (ours, stock)]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    for buffer, expected in zip(ours.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)


def test_default_devices_are_no_obstacle():
    """Device modes are function modes, but see only functions that create tensors."""
    from fastvgan.layers.deferred import is_observed

    assert not is_observed()
    with torch.device("cpu"):
        assert not is_observed()
    with Seen():
        assert is_observed()


@pytest.mark.parametrize("patched", [nn.ReLU, nn.BatchNorm3d])
def test_a_class_that_was_given_another_forward(monkeypatch, patched):
    stock = settle(nn.Sequential(nn.BatchNorm3d(3), nn.ReLU()))
    ours = fuse(copy.deepcopy(stock))
    kind = type(ours[0]) if patched is nn.BatchNorm3d else patched
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, input: forward(self, input) + 1)
    if kind is not patched:
        stock_forward = patched.forward
        monkeypatch.setattr(patched, "forward", lambda self, input: stock_forward(self, input) + 1)
    x = inputs()
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("stop", range(3, 9))
@pytest.mark.parametrize("segment", [1, 2])
def test_checkpoints_without_reentry_move_the_statistics_as_often(pair, stop, early_stop, segment):
    class Checkpointed(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            for start in range(0, len(self.net), len(self.net) // segment):
                part = self.net[start : start + len(self.net) // segment]
                x = checkpoint(part, x, use_reentrant=False, early_stop=early_stop)
            return x

    ours, stock = (Checkpointed(model[:stop]) for model in pair)
    assert_same(ours, stock, inputs())


def test_selective_checkpoints_move_the_statistics_as_often():
    save = [torch.ops.aten.convolution.default, torch.ops.aten.native_batch_norm.default]
    how = functools.partial(create_selective_checkpoint_contexts, save)
    stock = nn.Sequential(nn.Conv3d(3, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ReLU())
    ours, x = fuse(copy.deepcopy(stock)), inputs()
    for model in (ours, stock):
        checkpoint(model, x, use_reentrant=False, context_fn=how).square().sum().backward()
    torch.testing.assert_close(dict(ours.named_buffers()), dict(stock.named_buffers()))
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)


WATCHED = nn.functional.conv2d, nn.functional.conv3d, nn.functional.batch_norm, nn.functional.group_norm


class Halved(torch.overrides.TorchFunctionMode):
    """Halves what some of torch's functions compute."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {})) * (0.5 if func in WATCHED else 1)


class Doubled(torch.Tensor):
    """Doubles what some of torch's functions compute."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        y = super().__torch_function__(func, types, args, kwargs or {})
        return y + y if func in WATCHED else y


@pytest.mark.parametrize("of_a_class", ["input", "weight", "bias", "last weight", None])
@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: nn.Conv2d(2, 3, 3, 2), (2, 2, 5, 5)),
        (lambda: nn.Conv3d(2, 3, 3, 2), (2, 2, 3, 5, 5)),
        (lambda: nn.BatchNorm3d(4), (2, 4, 2, 3, 3)),
        (lambda: nn.GroupNorm(2, 4), (2, 4, 2, 3, 3)),
        (lambda: nn.Sequential(nn.Conv3d(2, 3, 3, 2), nn.BatchNorm3d(3), nn.ReLU()), (2, 2, 5, 5, 5)),
        (lambda: nn.Sequential(nn.Conv3d(2, 3, 3, 2), nn.ReLU(), nn.BatchNorm3d(3)), (2, 2, 5, 5, 5)),
    ],
)
def test_modes_and_tensors_that_override_functions_see_torchs(make, shape, of_a_class):
    stock = make()
    ours, x, results = fuse(copy.deepcopy(stock)), torch.randn(shape), []
    ours(x)  # what is remembered of this call must not serve the next
    stock(x)
    for model in (ours, stock):
        if of_a_class not in (None, "input"):
            layers = [layer for layer in model.modules() if getattr(layer, "weight", None) is not None]
            layer, name = layers[-1 if "last" in of_a_class else 0], of_a_class.split()[-1]
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach().as_subclass(Doubled)))
        with contextlib.nullcontext() if of_a_class else Halved():
            y = model(x.as_subclass(Doubled) if of_a_class == "input" else x)
        results.append((type(y), y.detach().as_subclass(torch.Tensor)))
    assert results[0][0] is results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", pytest.param("cpp", marks=pytest.mark.extension)])
@pytest.mark.parametrize("place, name", [(0, "bias"), (1, "weight"), (3, "bias")])
@pytest.mark.parametrize("has_norm", [False, True])
def test_what_is_computed_in_one_pass_heeds_tensors_that_override_functions(has_norm, place, name, impl):
    norm = nn.BatchNorm3d(3) if has_norm else nn.PReLU(3)
    stock = nn.Sequential(nn.Conv3d(2, 3, 3, 2), norm, nn.ReLU(), nn.Conv3d(3, 3, 1), nn.ReLU(), nn.Conv3d(3, 2, 1))
    ours, x, results = fuse(copy.deepcopy(stock), impl=impl), torch.randn(2, 2, 9, 9, 9), []
    for model in (ours, stock):
        parameter = getattr(model[place], name)
        setattr(model[place], name, nn.Parameter(parameter.detach().as_subclass(Doubled)))
        results.append(model(x).detach().as_subclass(torch.Tensor))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_compiler_gets_stock_operations_where_it_joins_them(dims):
    """It computes a norm and its neighbours in one loop, but not if the norm is our operation."""
    kinds = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    stock = nn.Sequential(kinds[0](3, 4, 3, 2, 1), kinds[1](4), nn.ReLU(), nn.GroupNorm(2, 4))
    ours, seen, x = fuse(copy.deepcopy(stock)), [], torch.randn(2, 3, *[4] * dims)

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.testing.assert_close(torch.compile(ours, backend=backend, fullgraph=True)(x), stock(x))
    assert seen and not [name for name in seen if "fastvgan" in name]
    ours[0].impl = ours[1].impl = "reference"
    assert torch.compile(ours, backend=backend, fullgraph=True)(x) is not None
    assert len([name for name in seen if "fastvgan" in name]) >= 2
