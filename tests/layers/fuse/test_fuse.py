"""fastvgan.layers.fuse: every network computes the same before and after."""

import copy
import io
import logging
import pickle

import pytest
import torch
from fuse_networks import (
    DCGAN,
    Block,
    ImageUNet,
    OwnLayers,
    R2Plus1D,
    Residual,
    UNet,
    VideoGAN,
    assert_same,
    generator,
    is_as_fast,
    settle,
)
from torch import nn

from fastvgan.layers import (
    BatchNormAct3d,
    Conv2d,
    Conv3d,
    ConvNormAct3d,
    ConvTranspose2d,
    ConvTranspose3d,
    FuseReport,
    fuse,
)
from fastvgan.layers.sequential import FusedSequential, groups

STOCK = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.BatchNorm2d, nn.BatchNorm3d)


NETWORKS = [  # how each is made, its input's shape, and the sizes of the groups that are computed together
    (generator, (2, 6, 1, 2, 1), [3, 3, 2]),
    (lambda: VideoGAN().generator, (2, 6), [3, 2, 2]),
    (lambda: VideoGAN().discriminator, (2, 3, 6, 6, 6), [2, 3]),
    (Residual, (2, 4, 3, 3, 3), []),
    (R2Plus1D, (2, 3, 3, 4, 4), [3, 3, 2, 2]),
    (UNet, (2, 2, 4, 4, 4), [3] * 6),
    (lambda: nn.Sequential(nn.Conv3d(3, 4, 1), Residual(), Residual(relus=2)), (2, 3, 2, 3, 2), []),
    (lambda: nn.Sequential(nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)), nn.ReLU()), (2, 3, 2, 3, 2), [3]),
    (lambda: nn.Sequential(Block(3, 4), Block(4, 2), nn.Tanh()), (2, 3, 2, 3, 2), [3, 3]),
    (DCGAN, (2, 6, 1, 1), [2, 2, 2]),
    (ImageUNet, (2, 2, 4, 4), [2] * 6),
    (OwnLayers, (2, 3, 3, 4, 4), [3, 2]),
]


def fuse_and_list(module, **options):
    """Return the report, replaced modules as {name: new class} and others as {name: reason}."""
    report = FuseReport()
    assert fuse(module, report=report, **options) is module
    return (
        {entry.name: entry.became for entry in report.changed},
        {entry.name: entry.why for entry in report.left},
    )


def rows_of(module):
    """Return the sizes of the groups of modules in every outermost FusedSequential."""
    if isinstance(module, FusedSequential):
        return [len(group.modules) for group in groups(module) if len(group.modules) > 1]
    return [size for child in module.children() for size in rows_of(child)]


@pytest.mark.parametrize(("make", "shape", "rows"), NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_are_the_same(make, shape, rows, dtype, replace_all_layers):
    stock = settle(make()).to(dtype)
    ours = copy.deepcopy(stock)
    before = {name: id(module) for name, module in ours.named_modules()}
    parameters = {name: id(t) for name, t in (*ours.named_parameters(), *ours.named_buffers())}
    changed, _ = fuse_and_list(ours)
    assert rows_of(ours) == rows and changed
    assert before == {name: id(module) for name, module in ours.named_modules()}
    assert parameters == {name: id(t) for name, t in (*ours.named_parameters(), *ours.named_buffers())}
    assert not any(type(m) in STOCK for m in ours.modules())
    assert_same(ours, stock, torch.randn(shape, dtype=dtype), tolerance=1e-4 if dtype == torch.float32 else 1e-10)
    ours.load_state_dict(stock.state_dict())
    stock.load_state_dict(ours.state_dict())
    again, _ = fuse_and_list(ours)
    assert not again and rows_of(ours) == rows


@pytest.mark.parametrize(("make", "shape"), [network[:2] for network in NETWORKS])
def test_networks_are_the_same_where_only_what_gains_is_exchanged(make, shape, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stock = settle(make())
    ours = copy.deepcopy(stock)
    changed, left = fuse_and_list(ours)
    as_fast = [name for name, why in left.items() if "as fast on a CPU" in why]
    assert all(
        is_as_fast(module) == (name in as_fast) for name, module in stock.named_modules() if type(module) in STOCK
    )
    assert not set(as_fast) & set(changed)
    assert_same(ours, stock, torch.randn(shape), tolerance=1e-4)


@pytest.mark.parametrize(
    ("layer", "is_left"),
    [
        (nn.Conv3d(2, 3, 1), True),
        (nn.Conv2d(2, 3, 1), True),
        (nn.Conv2d(2, 3, 3, padding=1), True),
        (nn.Conv2d(2, 3, 3, padding=2, groups=1, bias=False), True),
        (nn.Conv3d(2, 3, 1, stride=(1, 2, 2)), False),
        (nn.Conv3d(2, 3, (1, 1, 2)), False),
        (nn.Conv3d(2, 3, 1, padding=1), False),  # a fault of stock PyTorch's
        (nn.Conv2d(2, 3, 3, padding=3), False),
        (nn.Conv2d(2, 3, 3, dilation=2), False),
        (nn.Conv2d(2, 3, 3, padding="same"), False),
        (nn.Conv2d(2, 3, 4, 2, 1), False),
        (nn.ConvTranspose3d(2, 3, 1), False),
        (nn.ConvTranspose2d(2, 3, 3), False),
    ],
    ids=str,
)
def test_what_cannot_gain_on_a_cpu_is_left(layer, is_left, monkeypatch):
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        changed, left = fuse_and_list(copy.deepcopy(layer))
        assert bool(left) == (is_left and not has_gpu) and bool(changed) != bool(left)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(fuse(copy.deepcopy(layer), impl="reference"), (Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d))


@pytest.mark.extension
@pytest.mark.parametrize(
    "layer", [Conv3d(64, 64, 1), Conv3d(16, 128, 1, groups=2), Conv2d(64, 64, 3, padding=1)], ids=str
)
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_nothing_is_compiled_for_what_is_left(layer, batch, last, dtype):
    layer = copy.deepcopy(layer).to(dtype)
    dims = layer.weight.dim() - 2
    x = torch.randn(batch, layer.in_channels, *[3] * dims, dtype=dtype)
    x = x.to(memory_format=(torch.channels_last, torch.channels_last_3d)[dims - 2]) if last else x
    assert type(layer(x.requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"


def test_the_report_says_what_and_why(caplog, replace_all_layers):
    model = nn.Sequential(
        nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.LeakyReLU(0.2), nn.Flatten(1, 3), nn.BatchNorm1d(4), Residual(4)
    )
    report = FuseReport()
    with caplog.at_level(logging.INFO, logger="fastvgan"):
        fuse(model, report=report)
    own = "has a custom forward, which fuse does not analyse: the layers that it calls are computed one by one"
    assert caplog.messages == ["fuse: 7 replaced, 2 left"]
    assert [tuple(vars(entry).values()) for entry in report] == [
        ("", "Sequential", "FusedSequential", "together: 0+1+2"),
        ("0", "Conv3d", "fastvgan Conv3d", ""),
        ("1", "BatchNorm3d", "BatchNormAct3d", ""),
        ("4", "BatchNorm1d", None, "no fused layer exists for BatchNorm1d"),
        ("5", "Residual", None, own),
        ("5.conv1", "Conv3d", "fastvgan Conv3d", ""),
        ("5.bn1", "BatchNorm3d", "BatchNormAct3d", ""),
        ("5.conv2", "Conv3d", "fastvgan Conv3d", ""),
        ("5.bn2", "BatchNorm3d", "BatchNormAct3d", ""),
    ]
    assert str(report).splitlines()[0] == "(itself)  Sequential   FusedSequential  together: 0+1+2"
    fuse(nn.Linear(1, 1), report=report)
    assert str(report) == "0 replaced, 0 left"


def of_three_channels(kind):
    return kind(3) if issubclass(kind, nn.modules.batchnorm._BatchNorm) else kind(3, 4, 2)


def clip_or_image(kind):
    return torch.randn(2, 3, *[3] * (2 if kind.__name__.endswith("2d") else 3))


@pytest.mark.parametrize("make", STOCK)
def test_the_module_itself_may_be_a_stock_layer(make, replace_all_layers):
    stock = of_three_channels(make)
    ours = copy.deepcopy(stock)
    assert list(fuse_and_list(ours)[0]) == [""] and type(ours) is not make and isinstance(ours, make)
    assert_same(ours, stock, clip_or_image(make))


@pytest.mark.parametrize("make", STOCK)
def test_the_input_may_be_given_by_its_name(make):
    stock, x = of_three_channels(make), clip_or_image(make)
    ours = fuse(copy.deepcopy(stock))
    torch.testing.assert_close(ours(input=x), stock(input=x), rtol=1e-4, atol=1e-4)


def test_the_output_size_may_be_given_by_its_name():
    x = torch.randn(2, 2, 3, 3, 3)
    ours = fuse(nn.ConvTranspose3d(2, 2, 3, 2, 1))
    assert ours(x, output_size=[6, 5, 6]).shape[2:] == (6, 5, 6)


def test_impl_and_what_is_refused():
    ours = fuse(generator(), impl="reference")
    assert {m.impl for m in ours.modules() if hasattr(m, "impl")} == {"reference"}
    stock = generator()
    with pytest.raises(ValueError, match="impl must be one of"):
        fuse(stock, impl="nonsense")
    with pytest.raises(TypeError, match="not list"):
        fuse([stock])
    with pytest.raises(ValueError, match="before torch.compile"):
        fuse(torch.compile(stock, backend="eager"))
    stock.compile(backend="eager")
    with pytest.raises(ValueError, match="before torch.compile"):
        fuse(stock)
    assert type(stock[0]) is nn.ConvTranspose3d


# --- one difference each that forbids the exchange, and the reason that is given ---


class MyConv(nn.Conv3d):
    def forward(self, x):
        return super().forward(x) * 2


def replace_forward(module):
    original = module.forward
    module.forward = lambda x: original(x) - 1
    return module


def with_attributes(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def quantise(module):
    module.qconfig = "any"
    return module


class TensorSubclass(torch.Tensor):
    pass


def subclass_weight(module):
    module.weight = nn.Parameter(module.weight.detach().as_subclass(TensorSubclass))
    return module


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MyConv(2, 2, 1), "subclass of a torch.nn layer, MyConv"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv3d(2, 2, 1)), "parametrised (weight)"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose3d(2, 2, 1)), "parametrised (weight)"),
        (lambda: nn.LazyConv3d(2, 1), "not initialised: run the module once"),
        (lambda: nn.LazyBatchNorm3d(), "not initialised: run the module once"),
        (lambda: replace_forward(nn.Conv3d(2, 2, 1)), "replaced on the instance"),
        (lambda: quantise(nn.Conv3d(2, 2, 1)), "quantisation"),
        (lambda: subclass_weight(nn.Conv3d(2, 2, 1)), "weight that is a"),
        (lambda: with_attributes(nn.Conv3d(2, 2, 1), impl="mine"), "attribute named impl"),
        (lambda: with_attributes(nn.BatchNorm3d(2), activation=nn.ReLU()), "attribute named activation"),
        (lambda: nn.Conv3d(2, 2, 1, dtype=torch.complex64), "weight of torch.complex64"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv3d(2, 2, 1))), "ScriptModule"),
        (lambda: torch.compile(nn.Conv3d(2, 2, 1), backend="eager"), "compiled already"),
        (lambda: nn.Conv1d(2, 2, 1), "no fused layer exists for Conv1d"),
        (lambda: nn.SyncBatchNorm(2), "no fused layer exists for SyncBatchNorm"),
        (lambda: nn.InstanceNorm1d(2), "no fused layer exists for InstanceNorm1d"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_layers_that_are_left(make, reason):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make()

        def forward(self, x):
            return self.layer(x)

    model = Network()
    before = {name: type(m) for name, m in model.named_modules()}
    changed, left = fuse_and_list(model)
    assert not changed and list(left) == ["layer"] and reason in left["layer"]
    assert before == {name: type(m) for name, m in model.named_modules()}


# --- what stays ---


def test_every_hook_sees_the_same_in_the_same_order():
    def record(model, log):
        for name, m in model.named_modules():

            def note(kind, name=name):
                return lambda module, *args: log.append((name, kind, copy.deepcopy(tensors(args))))

            m.register_forward_pre_hook(note("pre"))
            m.register_forward_pre_hook(note("pre kwargs"), with_kwargs=True)
            m.register_forward_hook(note("forward"))
            m.register_forward_hook(note("kwargs"), with_kwargs=True)
            m.register_forward_hook(note("always"), always_call=True, prepend=True)
            m.register_full_backward_hook(note("backward"))
            m.register_full_backward_pre_hook(note("backward pre"))
            m.register_state_dict_pre_hook(lambda m, prefix, keep, n=name: log.append((n, "state_dict pre", None)))
            m.register_state_dict_post_hook(lambda m, d, prefix, meta, n=name: log.append((n, "state_dict", None)))
            m.register_load_state_dict_pre_hook(lambda *args, n=name: log.append((n, "load pre", None)))
            m.register_load_state_dict_post_hook(lambda m, keys, n=name: log.append((n, "load", None)))

    def tensors(values):
        if isinstance(values, torch.Tensor):
            return values.detach().clone()
        return [tensors(v) for v in values if v is not None] if isinstance(values, (tuple, list)) else None

    def run(model, log):
        x = torch.linspace(-1, 1, 2 * 2 * 27).view(2, 2, 3, 3, 3).requires_grad_()
        model(x).square().sum().backward()
        model.load_state_dict(model.state_dict())
        return log

    stock = settle(nn.Sequential(nn.Conv3d(2, 2, 2), nn.BatchNorm3d(2), nn.ReLU(), nn.ConvTranspose3d(2, 1, 2)))
    ours, logs = copy.deepcopy(stock), ([], [])
    record(ours, logs[0]), record(stock, logs[1])
    changed, left = fuse_and_list(ours)
    assert list(changed) == ["", "0", "1", "3"] and not left
    run(ours, logs[0]), run(stock, logs[1])
    assert [entry[:2] for entry in logs[0]] == [entry[:2] for entry in logs[1]] and len(logs[0]) > 40
    for a, b in zip(*logs, strict=True):
        torch.testing.assert_close(a[2], b[2], rtol=1e-4, atol=1e-4)


def test_hooks_registered_before_still_change_what_they_changed():
    stock = nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2), nn.ReLU(inplace=True))
    stock[0].register_forward_hook(double_output)
    stock[1].register_forward_pre_hook(halve_input)
    stock[2].register_forward_hook(double_output)
    ours = copy.deepcopy(stock)
    fuse(ours)
    assert rows_of(ours) == []
    assert_same(ours, stock, torch.randn(2, 2, 2, 2, 2))


def double_output(module, args, y):
    return y * 2


def halve_input(module, args):
    return (args[0] / 2,)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normalise", [nn.utils.spectral_norm, nn.utils.weight_norm])
def test_norms_of_weights_by_hooks_stay(normalise):
    stock = nn.Sequential(normalise(nn.Conv3d(2, 3, 2)), nn.BatchNorm3d(3), nn.LeakyReLU(0.2))
    with torch.no_grad():  # else weight_norm's weight is no leaf, and not to be copied
        stock[0].weight = stock[0].weight.detach()
        ours = copy.deepcopy(stock)
    assert list(fuse_and_list(ours)[0]) == ["", "0", "1"] and rows_of(ours) == [2]
    assert_same(ours, stock, torch.randn(2, 2, 3, 3, 3))


def test_shared_modules_and_parameters_stay_shared_and_attributes_stay():
    shared, model = nn.BatchNorm3d(2), nn.Module()
    relu = nn.ReLU()
    model.a, model.b = nn.Sequential(shared, relu), nn.Sequential(shared, relu)
    model.conv1, model.conv2 = nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, 1)
    model.conv2.weight = model.conv1.weight
    model.conv1.note, model.conv1.weight.requires_grad = {"any": 1}, False
    model.a[0].eval()
    elsewhere = [shared, model.conv1.weight]
    fuse(model)
    assert model.a[0] is model.b[0] is elsewhere[0] and model.conv1.weight is model.conv2.weight is elsewhere[1]
    assert model.conv1.note == {"any": 1} and not model.conv1.weight.requires_grad
    assert not shared.training and model.training and rows_of(model) == [2, 2]


@pytest.mark.parametrize("options", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), nn.LeakyReLU(1.5), nn.Tanh()])
def test_batch_norms_of_any_setting(options, act):
    stock = settle(nn.Sequential(nn.BatchNorm3d(3, **options), copy.deepcopy(act)))
    ours = copy.deepcopy(stock)
    fuse(ours)
    assert rows_of(ours) == [2]
    x = torch.randn(3, 3, 2, 3, 4)
    assert_same(ours, stock, x)
    assert_same(ours, stock, x.to(memory_format=torch.channels_last_3d))
    ours[0].track_running_stats = stock[0].track_running_stats = False
    assert_same(ours, stock, x)
    x[0, 0, 0, 0, 0] = float("nan")
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x), equal_nan=True, rtol=1e-4, atol=1e-4)


def test_a_batch_norm_without_bias():
    stock = nn.Sequential(nn.BatchNorm3d(2), nn.ReLU())
    stock[0].bias = None  # as newer versions than torch 2.11 do for bias=False
    assert_same(fuse(copy.deepcopy(stock)), stock, torch.randn(2, 2, 2, 2, 2))


def test_copies_pickles_and_saved_modules_are_the_same():
    stock = settle(nn.Sequential(UNet(), nn.Conv3d(2, 2, 1)))
    ours = copy.deepcopy(stock)
    fuse(ours)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(buffer, weights_only=False)):
        assert repr(again) == repr(ours)
        assert_same(again, copy.deepcopy(stock), torch.randn(2, 2, 2, 2, 2))


def test_compile_autocast_and_channels_last():
    stock = settle(generator()).to(memory_format=torch.channels_last_3d)
    ours = copy.deepcopy(stock)
    fuse(ours)
    x = torch.randn(4, 6, 1, 2, 2).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours(x), stock(x)
    assert y.dtype == expected.dtype and y.stride() == expected.stride()
    torch.testing.assert_close(y, expected, rtol=5e-2, atol=5e-2)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    for training in (True, False):
        ours.train(training), compiled.train(training)
        torch.testing.assert_close(compiled(x), ours(x), rtol=1e-4, atol=1e-4)


def test_wrappers_are_fused_within():
    stock = settle(generator())
    ours = nn.DataParallel(copy.deepcopy(stock))
    fuse(ours)
    assert rows_of(ours) == [3, 3, 2] and type(ours.module[0]) is ConvTranspose3d
    assert_same(ours.module, stock, torch.randn(2, 6, 1, 1, 1))


def test_graph_modules_and_our_own_layers(replace_all_layers):
    stock = settle(torch.fx.symbolic_trace(R2Plus1D()))
    ours = copy.deepcopy(stock)
    assert list(fuse_and_list(ours)[0]) == [name for name, m in stock.named_modules() if type(m) in STOCK]
    assert_same(ours, stock, torch.randn(2, 3, 2, 3, 3))
    own = nn.Sequential(ConvNormAct3d(2, 2, 1), Conv3d(2, 2, 1), BatchNormAct3d(2), nn.Tanh())
    before = copy.deepcopy(own)
    changed, left = fuse_and_list(own)
    assert changed == {"": "FusedSequential"} and not left and rows_of(own) == [3]
    assert_same(own, before, torch.randn(2, 2, 2, 2, 2))
