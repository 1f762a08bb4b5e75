"""What people do to a network gives the same after fuse as it does before, in training and in evaluation."""

import collections
import copy
import functools
import io
import pickle

import numpy
import pytest
import torch
from fuse_networks import Block, assert_same, settle
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fastvgan.fused_sequential import FusedSequential
from fastvgan.layers import FuseReport, fuse
from fastvgan_kernels import extension

# "cpp" computes every row of modules in one pass, however small.
IMPLS = ["auto"] + ["cpp"] * (extension.load() is not None)
SHAPE = 2, 3, 4, 4, 4


def network():
    return settle(
        nn.Sequential(
            *(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU()),
            *(nn.Conv3d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm3d(6), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.ConvTranspose3d(6, 3, 4, 2, 1), nn.Tanh()),
        )
    )


def blocks():
    """The same as Sequentials in a Sequential, one with a class of its own, and a norm apart from its activation."""
    first = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4))
    last = nn.Sequential(nn.ConvTranspose3d(6, 3, 2, 2), nn.Identity(), nn.Tanh())
    return settle(nn.Sequential(first, nn.ReLU(), Block(4, 6), nn.Dropout(0.0), last))


@pytest.fixture(params=IMPLS)
def pair(request):
    """A fused network and the stock one."""
    stock = network()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


@pytest.fixture(params=IMPLS)
def nested_pair(request):
    stock = blocks()
    return fuse(copy.deepcopy(stock), impl=request.param), stock


def inputs():
    return torch.randn(SHAPE)


# --- parts ---


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
    """What all children give, as torchvision's IntermediateLayerGetter collects it."""

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


def change(how):
    return pytest.param(how, id=how.__name__)


def without_last(model):
    return nn.Sequential(*list(model.children())[:-1])


def without_norms(model):
    del model[4], model[1]
    return model


def popped(model):
    model.pop(5)
    return model


def with_more(model):
    model.append(nn.BatchNorm3d(3)).append(nn.ReLU()).insert(6, nn.BatchNorm3d(6))
    return model.extend([nn.Conv3d(3, 2, 1), nn.Sigmoid()])


def twice(model):
    return model[:4] + model[4:] + nn.Sequential(nn.Conv3d(3, 3, 1)) * 2


def shared_parts(model):
    return nn.Sequential(model[:3], nn.Conv3d(4, 3, 1), model[:3], *model[3:])


@pytest.mark.parametrize(
    "how", list(map(change, (without_last, without_norms, popped, with_more, twice, shared_parts)))
)
def test_put_together_anew(pair, how):
    torch.manual_seed(1)
    ours = how(pair[0])
    torch.manual_seed(1)
    assert_same(ours, how(pair[1]), inputs())


# --- exchanges ---


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
    """Every ReLU another activation, as papers on activations do it."""
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
    """Where torch allows it, since the activation does not need its own output for backward."""

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


# --- converters ---


class Frozen(nn.Module):
    """As detectors freeze norms."""

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
    """As apex's convert_syncbn_model and MMCV's: a new norm that takes over what the old one holds."""
    new = module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        new = Shifted(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        new.weight, new.bias, new.training = module.weight, module.bias, module.training
        new.running_mean, new.running_var = module.running_mean, module.running_var
        new.num_batches_tracked = module.num_batches_tracked
    for name, child in module.named_children():
        new.add_module(name, to_synced_by_hand(child))
    return new


def folded(model):
    """Convolution and norm as one convolution, for inference."""
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
        assert_same(folded(ours), folded(stock), inputs(), steps=(False,))
        assert sum(isinstance(m, nn.BatchNorm3d) for m in ours.modules()) == 0


# --- attribution ---


def guided(model, log):
    """Springenberg et al. 2015: only positive gradients go through an activation."""
    return [
        m.register_full_backward_hook(lambda m, before, after: (before[0].clamp(min=0),))
        for m in model.modules()
        if isinstance(m, (nn.ReLU, nn.LeakyReLU))
    ]


def deconvolution(model, log):
    """Zeiler and Fergus 2014: the gradient itself is rectified."""
    return [
        m.register_full_backward_hook(lambda m, before, after: (after[0].clamp(min=0),))
        for m in model.modules()
        if isinstance(m, (nn.ReLU, nn.LeakyReLU))
    ]


def grad_cam(model, log):
    """Selvaraju et al. 2017: the maps of a layer and their gradients."""
    handles = []
    for m in model.modules():
        if isinstance(m, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.Tanh)):
            handles.append(m.register_forward_hook(lambda m, args, y: log.append(y.detach().clone())))
            handles.append(m.register_full_backward_hook(lambda m, dx, dy: log.append(dy[0].clone())))
    return handles


def deep_lift(model, log):
    """Shrikumar et al. 2017, as Captum has it: what goes into each activation and comes out, then another gradient."""

    def before(m, args):
        m.seen = args[0].detach().clone()

    def after(m, args, y):
        m.given = y.detach().clone()

    def gradient(m, dx, dy):
        moved = m.seen.abs() > 1e-3
        return (torch.where(moved, dy[0] * m.given / torch.where(moved, m.seen, torch.ones(())), dx[0]),)

    handles = []
    for m in model.modules():
        if isinstance(m, (nn.ReLU, nn.LeakyReLU, nn.Tanh)):
            m.register_forward_pre_hook(before), m.register_forward_hook(after)
            handles.append(m.register_full_backward_hook(gradient))
    return handles


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy.clamp(min=0) * (x > 0)


class GuidedActivation(nn.Module):
    def forward(self, x):
        return GuidedReLU.apply(x)


def replaced_modules(model, log):
    for container in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for name, child in container.named_children():
            if isinstance(child, nn.ReLU):
                container._modules[name] = GuidedActivation()
    return []


def replaced_forwards(model, log):
    for m in model.modules():
        if isinstance(m, nn.ReLU):
            m.forward = GuidedReLU.apply
    return []


def hooks_in_hooks(model, log):
    """A hook of each module but the last hooks what is next, for one call."""
    layers, handles = [m for m in model.modules() if not list(m.children())], []

    def look(following):
        def hook(*args):
            log.append(torch.tensor(len(log)))
            handles.append(following.register_forward_hook(lambda m, args, y: y * 2))

        return hook

    return [m.register_forward_pre_hook(look(n)) for m, n in zip(layers[::2], layers[1::2], strict=False)] + handles


METHODS = (guided, deconvolution, grad_cam, deep_lift, replaced_modules, replaced_forwards, hooks_in_hooks)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", list(map(change, METHODS)))
def test_attribution(pair, nested_pair, method, training):
    for models in (pair, nested_pair):
        x, results = inputs(), []
        for model in models:
            for m in model.modules():  # torch's backward hooks do not go with an activation in place
                m.inplace = False
            model.train(training)
            log = []
            handles = method(model, log)
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            (dx,) = torch.autograd.grad(y[:, 1].square().sum(), leaf)
            results.append([y, dx, *log])
            for handle in handles:
                handle.remove()
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


# --- copies ---


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


# --- looking at a network leaves no trace ---


class Stateful(nn.Module):
    """Keeps in forward what only a call may change, in every way that networks of the wild do."""

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
    """A registry of subclasses; attributes written through a __setattr__. The first is fused by what it is in."""
    layers = nn.BatchNorm3d(3), nn.ReLU()
    report = FuseReport()
    registered = fuse(Registered(*layers), report=report)
    assert type(registered) is Registered and not Registered.names
    assert "that runs code of its own" in report.left[0].why
    assert type(fuse(nn.Sequential(registered))) is FusedSequential
    watching = Watching(*layers)
    Watching.written.clear()
    fuse(watching)
    assert isinstance(watching, FusedSequential) and not Watching.written
    x = inputs()
    torch.testing.assert_close(watching(x), nn.Sequential(nn.BatchNorm3d(3), nn.ReLU())(x))


# --- compilers, tracers, transforms and modes are shown the modules ---


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


def test_default_devices_are_no_obstacle():
    """They are function modes, but see only what makes tensors."""
    from fastvgan.deferred import is_observed

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


# --- recomputation ---


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
