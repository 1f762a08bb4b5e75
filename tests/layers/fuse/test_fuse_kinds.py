"""Changes that users make to 2D networks, and to subclasses of torch.nn's layers, have the same effect after fuse."""

import copy

import pytest
import torch
from fuse_networks import assert_same, change, is_as_fast, settle
from test_fuse_attribution import METHODS
from test_fuse_copies import COPIES
from test_fuse_parts import Features
from test_fuse_tracing import LayersAreLeaves, Seen
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from fastvgan.layers import ConvLSTM, FuseReport, fuse
from fastvgan.layers.sequential import FusedSequential
from fastvgan_kernels import extension


class OwnConv2d(nn.Conv2d):
    """A subclass that defines __init__, reset_parameters, extra_repr and a method, but not forward."""

    def __init__(self, *args, note="mine", **options):
        super().__init__(*args, **options)
        self.note = note

    def twice_weight(self):
        return self.weight * 2


class OwnConv3d(nn.Conv3d):
    scale = 2

    def reset_parameters(self):
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(self.scale)


class OwnTransposed2d(nn.ConvTranspose2d):
    pass


class OwnTransposed3d(nn.ConvTranspose3d):
    pass


class OwnNorm2d(nn.BatchNorm2d):
    def extra_repr(self):
        return f"{super().extra_repr()}, mine"


class OwnNorm3d(nn.BatchNorm3d):
    @staticmethod
    def name():
        return "own"


# (convolution, transposed one, norm, number of dimensions)
KINDS = {
    "2D": (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    "2D subclasses": (OwnConv2d, OwnTransposed2d, OwnNorm2d, 2),
    "3D subclasses": (OwnConv3d, OwnTransposed3d, OwnNorm3d, 3),
}
IMPLS = ["auto"] + ["cpp"] * (extension.load() is not None)


def network(conv, transposed, norm, dims):
    return settle(
        nn.Sequential(
            *(conv(3, 4, 3, padding=1), norm(4), nn.ReLU()),
            *(conv(4, 6, 4, 2, 1, bias=False), norm(6), nn.LeakyReLU(0.2, inplace=True)),
            *(transposed(6, 3, 4, 2, 1), nn.Tanh()),
        )
    )


@pytest.fixture(params=[(kind, impl) for kind in KINDS for impl in IMPLS], ids="-".join)
def layer_pair(request):
    """Return a fused network, the stock one, an input, and the classes."""
    name, impl = request.param
    stock = network(*KINDS[name])
    x = torch.randn(2, 3, *[4] * KINDS[name][3])
    return fuse(copy.deepcopy(stock), impl=impl), stock, x, KINDS[name]


def test_it_is_fused_and_gives_the_same(layer_pair, request):
    ours, stock, x, (_, _, _, dims) = layer_pair
    impl = request.node.callspec.params["layer_pair"][1]
    assert isinstance(ours, FusedSequential)
    only_what_gains = impl == "auto" and not torch.cuda.is_available()
    for mine, theirs in zip(ours, stock, strict=True):
        if hasattr(theirs, "weight"):
            assert (type(mine) is type(theirs)) == (only_what_gains and is_as_fast(theirs))
    assert_same(ours, stock, x)
    assert_same(ours, stock, x.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d))
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours.eval()(x), stock.eval()(x)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("stop", range(1, 9))
def test_parts(layer_pair, stop):
    ours, stock, x, _ = layer_pair
    assert_same(ours[:stop], stock[:stop], x)
    between = stock.eval()[: stop - 1](x).detach()
    assert_same(ours[stop - 1 :], stock[stop - 1 :], between)
    assert_same(ours[stop - 1], stock[stop - 1], between)


def test_features(layer_pair):
    ours, stock, x, _ = layer_pair
    assert_same(Features(ours), Features(stock), x)


@pytest.mark.parametrize(
    "make", [nn.SiLU, nn.Identity, nn.Tanh, lambda: nn.LeakyReLU(-0.3), lambda: nn.GroupNorm(2, 4)]
)
@pytest.mark.parametrize("place", [1, 2])
def test_exchanges(layer_pair, place, make):
    ours, stock, x, (conv, _, norm, _) = layer_pair
    for new in (make(), norm(4), conv(4, 4, 1)):
        ours[place], stock[place] = new, copy.deepcopy(new)
        assert_same(ours, stock, x)


def test_converters(layer_pair):
    ours, stock, x, (_, _, norm, _) = layer_pair
    synced = [nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)) for model in (ours, stock)]
    assert [type(m) for m in synced[0]][1:5:3] == [nn.SyncBatchNorm] * 2
    assert_same(*synced, x, steps=(False,))
    for model in (ours.eval(), stock.eval()):
        for place in (0, 3):
            assert isinstance(model[place + 1], norm)
            model[place], model[place + 1] = fuse_conv_bn_eval(model[place], model[place + 1]), nn.Identity()
    assert_same(ours, stock, x, steps=(False,))


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", list(map(change, METHODS)))
def test_attribution(layer_pair, method, training):
    *models, x, _ = layer_pair
    results = []
    for model in models:
        for m in model.modules():
            m.inplace = False
        model.train(training)
        log = []
        method(model, log)
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        results.append([y, *torch.autograd.grad(y[:, 1].square().sum(), leaf), *log])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("how", COPIES)
def test_copies(layer_pair, how):
    ours, stock, x, _ = layer_pair
    again = how(ours)
    assert repr(again) == repr(ours) and [type(m) for m in again.modules()] == [type(m) for m in ours.modules()]
    assert_same(again, copy.deepcopy(stock), x)
    assert type(fuse(again)) is type(ours)


def test_tracing_and_modes(layer_pair):
    ours, stock, x, _ = layer_pair
    graphs = [LayersAreLeaves().trace(model) for model in (ours, stock)]
    assert [node.target for node in graphs[0].nodes] == [node.target for node in graphs[1].nodes]
    assert_same(torch.fx.GraphModule(ours, graphs[0]), torch.fx.GraphModule(stock, graphs[1]), x)
    one_by_one, seen = copy.deepcopy(ours), (Seen(), Seen())
    with seen[0]:
        ours(x)
    with seen[1]:
        y = x
        for module in one_by_one:
            y = module(y)
    assert seen[0].names == seen[1].names


def test_compiled(layer_pair):
    ours, stock, x, _ = layer_pair
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        torch.testing.assert_close(compiled.train(training)(x), stock.train(training)(x), rtol=1e-4, atol=1e-4)


def test_transforms(layer_pair):
    *models, x, _ = layer_pair
    results = []
    for model in models:
        model.eval()
        state = {name: p * 0.9 for name, p in model.named_parameters()}
        loss = lambda state, model=model: torch.func.functional_call(model, state, (x,)).square().sum()  # noqa: E731
        xs = torch.stack([x, x + 1])
        results.append([torch.func.vmap(model)(xs), torch.func.grad(loss)(state)["0.weight"]])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_checkpoints(layer_pair, stop):
    class Checkpointed(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    ours, stock, x, _ = layer_pair
    assert_same(Checkpointed(ours[:stop]), Checkpointed(stock[:stop]), x)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_subclass_that_is_given_a_forward_afterwards_is_called(monkeypatch, place, impl):
    stock = network(*KINDS["2D subclasses"])
    ours, x = fuse(copy.deepcopy(stock), impl=impl), torch.randn(2, 3, 4, 4)
    forward = type(stock[place]).forward
    monkeypatch.setattr(type(stock[place]), "forward", lambda self, input: forward(self, input) + 1)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[:1](x), stock[:1](x), rtol=1e-4, atol=1e-4)


# --- attributes and methods of subclasses ---


def test_a_subclass_stays_what_it_is(replace_all_layers):
    stock = nn.Sequential(
        OwnConv2d(2, 3, 1, note={"any": 1}), OwnNorm2d(3), nn.ReLU(), OwnConv3d(1, 1, 1), OwnNorm3d(1)
    )
    ours, report = copy.deepcopy(stock), FuseReport()
    fuse(ours, report=report)
    assert [tuple(vars(entry).values()) for entry in report] == [
        ("", "Sequential", "FusedSequential", "together: 1+2, 3+4"),
        ("0", "OwnConv2d", "fastvgan Conv2d", ""),
        ("1", "OwnNorm2d", "BatchNormAct2d", ""),
        ("3", "OwnConv3d", "fastvgan Conv3d", ""),
        ("4", "OwnNorm3d", "BatchNormAct3d", ""),
    ]
    for mine, theirs in zip(ours, stock, strict=True):
        assert isinstance(mine, type(theirs)) and type(mine).__qualname__ == type(theirs).__qualname__
        assert type(mine).__module__ == type(theirs).__module__ and type(mine).__doc__ == type(theirs).__doc__
    assert (
        ours[0].note == {"any": 1}
        and torch.equal(ours[0].twice_weight(), stock[0].twice_weight())
        and ours[4].name() == "own"
    )
    assert repr(ours[1]).endswith("activation=none, mine)") and repr(ours[0]) == repr(stock[0])
    for model in (ours, stock):
        torch.manual_seed(3)
        model[3].reset_parameters()
    assert torch.equal(ours[3].weight, stock[3].weight)
    assert type(fuse(OwnConv2d(2, 3, 1))) is type(ours[0]) and not fuse_report(ours).changed


def fuse_report(module):
    report = FuseReport()
    fuse(module, report=report)
    return report


class Mixin:
    def __getattr__(self, name):
        return super().__getattr__(name)


class Registry(type):
    pass


OWN = {
    "forward": {"forward": lambda self, x: x},
    "_conv_forward": {"_conv_forward": lambda self, *args: args[0]},
    "__call__": {"__call__": lambda self, x: x},
    "__setattr__": {"__setattr__": nn.Module.__setattr__},
    "__slots__": {"__slots__": ()},
    "train": {"train": lambda self, mode=True: self},
    "stride": {"stride": property(lambda self: (2, 2), lambda self, value: None)},
    "_load_from_state_dict": {"_load_from_state_dict": lambda self, *args: None},
    "geometry": {"geometry": lambda self: None},
    "_pad": {"_pad": 1},
    "qconfig": {"qconfig": None},
    "__torch_function__": {"__torch_function__": classmethod(lambda *args: NotImplemented)},
}


@pytest.mark.parametrize("name", OWN)
def test_subclasses_that_could_take_part_in_a_call_are_left(name):
    kind = type("Mine", (nn.Conv2d,), OWN[name])
    layer = kind(2, 3, 1)
    (entry,) = fuse_report(layer)
    assert type(layer) is kind and entry.became is None
    assert f"subclass of a torch.nn layer, Mine, that defines {name}" in entry.why


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: type("Mine", (Mixin, nn.Conv2d), {})(2, 3, 1), "that defines __getattr__"),
        (lambda: type("Mine", (nn.BatchNorm2d, Mixin), {})(2), "that defines __getattr__"),
        (lambda: Registry("Mine", (nn.Conv2d,), {})(2, 3, 1), "runs code when it is subclassed"),
        (lambda: type("Mine", (OwnConv2d,), OWN["forward"])(2, 3, 1), "that defines forward"),
        (lambda: type("Mine", (nn.BatchNorm2d,), {"_check_input_dim": print})(2), "that defines _check_input_dim"),
        (lambda: type("Mine", (nn.BatchNorm2d,), {"activation": "relu"})(2), "attribute named activation"),
        (lambda: type("Mine", (nn.BatchNorm2d,), {"normalise": 1})(2), "that defines normalise"),
        (lambda: type("Mine", (type(fuse(nn.Conv2d(1, 1, 1))),), {})(2, 3, 1), "subclass of a fastvgan layer, Mine"),
        (lambda: with_attribute(OwnConv2d(2, 3, 1), impl=1), "attribute named impl"),
        (lambda: with_attribute(nn.Conv2d(2, 3, 1), geometry=1), "attribute named geometry"),
        (lambda: with_attribute(nn.BatchNorm2d(2), as_norm=nn.ReLU()), "attribute named as_norm"),
        (lambda: with_attribute(nn.Conv2d(2, 3, 1), _conv_forward=print), "_conv_forward that was replaced"),
        (lambda: nn.LazyConv2d(3, 1), "not initialised: run the module once"),
        (lambda: nn.LazyBatchNorm2d(), "not initialised: run the module once"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 1)), "parametrised (weight)"),
    ],
)
def test_layers_that_are_left(make, reason, replace_all_layers):
    layer = make()
    before = type(layer)
    report = fuse_report(layer)
    assert type(layer) is before and not report.changed and reason in report.left[0].why


def with_attribute(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_no_code_of_a_subclass_is_run():
    names = []

    class Told(nn.Conv2d):
        def __init_subclass__(cls, **options):
            names.append(cls.__name__)

    class Below(Told):
        pass

    names.clear()
    for kind in (Told, Below):
        (entry,) = fuse_report(kind(2, 3, 1))
        assert entry.became is None
    assert not names


def test_lazy_layers_are_exchanged_once_they_were_run():
    stock = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    x = torch.randn(2, 2, 5, 5)
    stock(x)
    assert_same(fuse(copy.deepcopy(stock)), stock, x)


def test_a_local_class_is_copied_and_not_pickled():
    class Local(nn.Conv2d):
        pass

    ours = fuse(Local(2, 3, 1))
    assert type(copy.deepcopy(ours)) is type(ours) and isinstance(ours, Local)


@pytest.mark.parametrize("norm", [nn.BatchNorm3d, OwnNorm3d])
def test_a_norm_of_other_dimensions_is_refused_as_by_torch(norm):
    for model in (nn.Sequential(nn.Conv2d(2, 3, 1), norm(3), nn.ReLU()),):
        for network in (model, fuse(copy.deepcopy(model), impl=IMPLS[-1])):
            with pytest.raises(ValueError, match="expected 5D input"):
                network(torch.randn(2, 2, 3, 3))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("as_given", [lambda value: value, lambda value: (value,), lambda value: [value]])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_one_number_stands_for_all_dimensions(kind, place, as_given, impl):
    """As torch.nn takes it, when the layer is made and when it is assigned afterwards."""
    dims = 2 if "2d" in kind.__name__ else 3
    x, name = torch.randn(2, 3, *[7] * dims), ("stride", "padding", "dilation")[place]
    made = kind(3, 4, 3, **{name: as_given(2)})
    assigned = kind(3, 4, 3)
    # A stock transposed convolution asserts that its padding is a tuple.
    setattr(assigned, name, (2,) if name == "padding" else as_given(2))
    for conv in (made, assigned):
        stock = nn.Sequential(conv, nn.Tanh())
        ours = fuse(copy.deepcopy(stock), impl=impl)
        for _ in range(2):  # the second call finds the first one's choice
            assert_same(ours, stock, x)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_subclass_that_calls_torchs_init_makes_convolutions(kind, replace_all_layers):
    """The class that fuse derives, too, as a library makes one layer from another: type(layer)(…)."""

    class Old(kind):
        def __init__(self, inputs, outputs):
            kind.__init__(self, inputs, outputs, 3, stride=2)

    x = torch.randn(2, 3, *[7] * (2 if "2d" in kind.__name__ else 3))
    stock = nn.Sequential(Old(3, 4), nn.Tanh())
    again = type(fuse(copy.deepcopy(stock))[0])(3, 4)
    again.load_state_dict(stock[0].state_dict())
    assert again.impl == "auto"
    assert_same(nn.Sequential(again, nn.Tanh()), stock, x)
    assert_same(fuse(nn.Sequential(again, nn.Tanh())), stock, x)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm])
def test_a_subclass_that_calls_torchs_init_makes_norms(kind):
    class Old(kind):
        def __init__(self):
            kind.__init__(self, *([2] if kind is nn.GroupNorm else []), 4)

    x = torch.randn(2, 4, *[5] * (3 if "3d" in kind.__name__ else 2))
    stock = nn.Sequential(Old(), nn.ReLU())
    again = type(fuse(copy.deepcopy(stock))[0])()
    assert again.activation == "none" and "activation=none" in repr(again)
    assert_same(nn.Sequential(again, nn.ReLU()), stock, x)
    assert_same(fuse(nn.Sequential(again, nn.ReLU())), stock, x)


def test_a_named_implementation_is_given_to_layers_that_are_fused_already():
    model = nn.Sequential(nn.Conv3d(3, 4, 3, 2), nn.BatchNorm3d(4), OwnNorm3d(4), ConvLSTM(4, 4))
    layers = list(fuse(model, impl="reference"))
    assert [layer.impl for layer in layers] == ["reference"] * 4
    fuse(model)  # "auto" is also what is meant by nothing
    assert [layer.impl for layer in layers] == ["reference"] * 4
    layers[1].impl = "auto"
    report = FuseReport()
    fuse(model, impl="cpp", report=report)
    assert [layer.impl for layer in layers] == ["cpp"] * 4 and not report.changed
