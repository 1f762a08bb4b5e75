"""What torch offers for networks, on our layers and on torch.nn's: the same results."""

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from fastvgan.layers import (
    BatchNormAct2d,
    BatchNormAct3d,
    Conv2d,
    Conv3d,
    ConvLSTM,
    ConvLSTMCell,
    ConvNormAct3d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    GroupNormAct,
    InstanceNormAct2d,
    InstanceNormAct3d,
    fuse,
)

ROOT = Path(__file__).resolve().parent.parent
ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}


class StockConvLSTM(nn.Module):
    """ConvLSTM out of stock PyTorch's operations, as its definition says."""

    def __init__(self, in_channels, hidden_channels, kernel_size=3):
        super().__init__()
        ours = ConvLSTM(in_channels, hidden_channels, kernel_size)
        self.hidden = hidden_channels
        for name, parameter in ours.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def forward(self, x, state=None):
        h, c = state or [x.new_zeros(x.shape[0], self.hidden, *x.shape[3:])] * 2
        outputs = []
        for step in x.unbind(2):
            gates = nn.functional.conv2d(step, self.weight_ih, self.bias, padding="same")
            i, f, g, o = (gates + nn.functional.conv2d(h, self.weight_hh, padding="same")).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 2), (h, c)


class StockConvLSTMCell(StockConvLSTM):
    def forward(self, x, state=None):
        return super().forward(x.unsqueeze(2), state)[1]


def norm_act(activation, **options):
    ours = BatchNormAct3d(4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(nn.BatchNorm3d(4, **options), ACTIVATIONS[activation])


def group_norm_act(activation, **options):
    ours = GroupNormAct(2, 4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(nn.GroupNorm(2, 4, **options), ACTIVATIONS[activation])


def instance_norm_act(activation, ours=InstanceNormAct3d, stock=nn.InstanceNorm3d, **options):
    ours = ours(4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(stock(4, **options), ACTIVATIONS[activation])


def chain(ours, stock, *args, **options):
    return ours(*args, **options), nn.Sequential(
        stock(*args, bias=False, **options), nn.BatchNorm3d(args[1]), nn.ReLU()
    )


def network():
    return nn.Sequential(
        nn.Conv3d(4, 6, 3, 1, 1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Conv3d(6, 8, 3, 2, 1, bias=False, groups=2),
        nn.BatchNorm3d(8),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose3d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


def fused():
    stock = network()
    return fuse(copy.deepcopy(stock)), stock


class OwnConv2d(nn.Conv2d):
    """A subclass that adds no forward."""


def fused_images():
    stock = nn.Sequential(
        *(nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU()),
        *(OwnConv2d(6, 8, 3, 2, 1, bias=False, groups=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()),
    )
    return fuse(copy.deepcopy(stock)), stock


def norm_act_of_images():
    return BatchNormAct2d(4, activation="relu"), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())


# Each gives one of our modules and the stock one, and the shape of an input.
PAIRS = {
    "Conv3d": (lambda: (Conv3d(4, 6, 3, 2, 1, groups=2), nn.Conv3d(4, 6, 3, 2, 1, groups=2)), (2, 4, 5, 6, 6)),
    "Conv3d-unbatched": (lambda: (Conv3d(4, 6, (1, 2, 3)), nn.Conv3d(4, 6, (1, 2, 3))), (4, 2, 3, 3)),
    "Conv3d-reflect": (
        lambda: tuple(kind(4, 6, 3, padding="same", padding_mode="reflect") for kind in (Conv3d, nn.Conv3d)),
        (1, 4, 3, 4, 3),
    ),
    "ConvTranspose3d": (
        lambda: tuple(kind(4, 6, 3, 2, 1, 1, bias=False) for kind in (ConvTranspose3d, nn.ConvTranspose3d)),
        (2, 4, 1, 3, 3),
    ),
    **{f"BatchNormAct3d-{name}": (lambda name=name: norm_act(name), (3, 4, 2, 3, 1)) for name in ACTIVATIONS},
    "BatchNormAct3d-plain": (lambda: norm_act("tanh", affine=False, track_running_stats=False), (3, 4, 2, 3, 1)),
    **{f"GroupNormAct-{name}": (lambda name=name: group_norm_act(name), (3, 4, 2, 3, 1)) for name in ACTIVATIONS},
    "GroupNormAct-plain": (lambda: group_norm_act("relu", affine=False), (3, 4, 5)),
    "InstanceNormAct3d": (lambda: instance_norm_act("leaky_relu", affine=True), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-plain": (lambda: instance_norm_act("relu"), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-tracking": (lambda: instance_norm_act("tanh", track_running_stats=True), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-unbatched": (lambda: instance_norm_act("relu", affine=True), (4, 2, 3, 5)),
    "InstanceNormAct2d": (
        lambda: instance_norm_act("relu", InstanceNormAct2d, nn.InstanceNorm2d, affine=True),
        (3, 4, 5, 3),
    ),
    "ConvNormAct3d": (lambda: chain(ConvNormAct3d, nn.Conv3d, 4, 6, 3), (2, 4, 4, 4, 4)),
    "ConvTransposeNormAct3d": (
        lambda: chain(ConvTransposeNormAct3d, nn.ConvTranspose3d, 4, 6, 4, 2, 1),
        (2, 4, 1, 2, 3),
    ),
    "ConvLSTM": (lambda: (ConvLSTM(4, 3), StockConvLSTM(4, 3)), (2, 4, 3, 4, 5)),
    "ConvLSTMCell": (lambda: (ConvLSTMCell(4, 3, 1), StockConvLSTMCell(4, 3, 1)), (2, 4, 5, 4)),
    "fused": (fused, (2, 4, 6, 6, 4)),
    "Conv2d": (lambda: (Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 6, 3, 2, 1, groups=2)), (2, 4, 6, 5)),
    "Conv2d-unbatched": (lambda: (Conv2d(4, 6, (1, 2)), nn.Conv2d(4, 6, (1, 2))), (4, 3, 3)),
    "Conv2d-circular": (
        lambda: tuple(kind(4, 6, 3, padding=1, padding_mode="circular") for kind in (Conv2d, nn.Conv2d)),
        (1, 4, 4, 3),
    ),
    "ConvTranspose2d": (
        lambda: tuple(kind(4, 6, 3, 2, 1, 1, bias=False) for kind in (ConvTranspose2d, nn.ConvTranspose2d)),
        (2, 4, 1, 3),
    ),
    "BatchNormAct2d": (norm_act_of_images, (3, 4, 2, 1)),
    "fused-2D": (fused_images, (2, 4, 6, 4)),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    """Our module, the stock one of the same parameters, and an input."""
    make, shape = PAIRS[request.param]
    ours, stock = make()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    return ours, stock, torch.randn(shape)


@pytest.fixture(params=["training", "evaluation"])
def training(request):
    return request.param == "training"


def leaves(y):
    return list(torch.utils._pytree.tree_leaves(y))


def assert_same(ours, stock, ours_called, stock_called, x):
    """Equal outputs, gradients and buffers after a call each, backward included."""
    y, expected = leaves(ours_called(x)), leaves(stock_called(x))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    grads = [
        torch.autograd.grad([t.square().sum() for t in outputs], list(module.parameters()))
        for outputs, module in ((y, ours), (expected, stock))
        if any(True for _ in module.parameters())
    ]
    torch.testing.assert_close(*grads or ([], []), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(list(ours.buffers()), list(stock.buffers()), rtol=1e-4, atol=1e-5)


def test_meta(pair, training):
    ours, stock, x = (part.to("meta") for part in pair)
    ours.train(training), stock.train(training)
    y, expected = leaves(ours(x.requires_grad_())), leaves(stock(x))
    assert [(t.shape, t.dtype, t.device) for t in y] == [(t.shape, t.dtype, t.device) for t in expected]
    sum(t.sum() for t in y).backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in (x, *ours.parameters()))


@pytest.mark.parametrize(
    ("kind", "stock", "args"),
    [
        (Conv3d, nn.Conv3d, (2, 3, 3)),
        (ConvTranspose3d, nn.ConvTranspose3d, (2, 3, 3)),
        (BatchNormAct3d, nn.BatchNorm3d, (3,)),
        (GroupNormAct, nn.GroupNorm, (2, 4)),
        (InstanceNormAct2d, nn.InstanceNorm2d, (3, 1e-5, 0.1, True, True)),
        (InstanceNormAct3d, nn.InstanceNorm3d, (3, 1e-5, 0.1, True)),
        (Conv2d, nn.Conv2d, (2, 3, 3)),
        (ConvTranspose2d, nn.ConvTranspose2d, (2, 3, 3)),
        (BatchNormAct2d, nn.BatchNorm2d, (3,)),
        (ConvNormAct3d, None, (2, 3, 3)),
        (ConvTransposeNormAct3d, None, (2, 3, 3)),
        (ConvLSTM, None, (2, 3)),
        (ConvLSTMCell, None, (2, 3)),
    ],
)
def test_skip_init(kind, stock, args):
    layer = nn.utils.skip_init(kind, *args, dtype=torch.float64, impl="reference")
    expected = nn.utils.skip_init(stock, *args, dtype=torch.float64) if stock else kind(*args, dtype=torch.float64)
    assert [(n, t.shape, t.dtype, t.device) for n, t in layer.state_dict().items()] == [
        (n, t.shape, t.dtype, t.device) for n, t in expected.state_dict().items()
    ]


class Parts(nn.Module):
    """Calls its parts in forward, one twice, with a function between: neither a Sequential nor straight."""

    def __init__(self, down, norm, up):
        super().__init__()
        self.down, self.norm, self.up = down, norm, up

    def forward(self, x):
        y = torch.cat([self.norm(self.down(x)), self.norm(self.down(x + 1))], 1)
        return self.up(y, output_size=[4, 4, 4])


def parts():
    ours = Parts(Conv3d(2, 3, 3, 2, 1), BatchNormAct3d(3), ConvTranspose3d(6, 2, 3, 2, 1))
    stock = Parts(nn.Conv3d(2, 3, 3, 2, 1), nn.BatchNorm3d(3), nn.ConvTranspose3d(6, 2, 3, 2, 1))
    stock.load_state_dict(ours.state_dict())
    return ours, stock, torch.randn(2, 2, 4, 4, 4)


def targets(graph):
    return [(node.op, str(node.target)) for node in graph.nodes]


def test_fx_takes_layers_as_leaves(training):
    ours, stock, x = parts()
    ours.train(training), stock.train(training)
    traced, expected = fx.symbolic_trace(ours), fx.symbolic_trace(stock)
    assert targets(traced.graph) == targets(expected.graph)
    assert_same(ours, stock, traced, expected, x)


def test_fx_takes_every_layer_as_a_leaf(pair, training):
    ours, stock, x = pair
    ours.train(training), stock.train(training)
    holder = nn.Sequential(ours) if not isinstance(ours, nn.Sequential) else ours
    traced = fx.symbolic_trace(holder)
    if isinstance(ours, nn.Sequential):
        assert targets(traced.graph) == targets(fx.symbolic_trace(stock).graph)
    else:
        assert targets(traced.graph)[1] == ("call_module", "0") and len(traced.graph.nodes) == 3
    assert_same(ours, stock, traced, stock, x)


def test_fx_runs_hooks_when_the_graph_runs():
    seen = []
    ours, stock, x = parts()
    for module in (ours, stock):
        module.down.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        module.norm.register_forward_hook(lambda module, args, y: seen.append(type(y)) or y + 1)
    traced, expected = fx.symbolic_trace(ours), fx.symbolic_trace(stock)
    assert seen == [] and targets(traced.graph) == targets(expected.graph)
    torch.testing.assert_close(traced(x), expected(x), rtol=1e-4, atol=1e-5)
    assert seen == [torch.Tensor] * 4


@pytest.mark.parametrize("keyword", [True, False])
def test_fx_takes_tensors_by_keyword_and_states(keyword):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = Conv3d(2, 3, 1), ConvLSTM(3, 2)

        def forward(self, x, h, c):
            y = self.conv(input=x) if keyword else self.conv(x)
            output, (h, c) = self.lstm(x=y, state=(h, c)) if keyword else self.lstm(y, (h, c))
            return output + h.unsqueeze(2), c

    module = Steps()
    given = torch.randn(1, 2, 2, 3, 3), torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    traced = fx.symbolic_trace(module)
    assert [t for op, t in targets(traced.graph) if op == "call_module"] == ["conv", "lstm"]
    torch.testing.assert_close(traced(*given), module(*given))


@pytest.mark.parametrize("name", ["Conv3d", "Conv2d", "ConvNormAct3d", "ConvTransposeNormAct3d"])
def test_fx_traces_a_layer_that_is_all_there_is(name):
    make, shape = PAIRS[name]
    ours, x = make()[0].eval(), torch.randn(shape)
    torch.testing.assert_close(fx.symbolic_trace(ours)(x), ours(x), rtol=1e-4, atol=1e-5)


def test_feature_extractor():
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    ours, stock, x = parts()
    names = extraction.get_graph_node_names(ours)
    assert names == extraction.get_graph_node_names(stock)
    assert ["x", "down", "norm"] == names[0][:3]
    wanted = {"norm": "first", "norm_1": "second", "up": "last"}
    given, expected = (extraction.create_feature_extractor(m, wanted)(x) for m in (ours, stock))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    model, stock, x = *fused(), torch.randn(2, 4, 6, 6, 4)
    given, expected = (extraction.create_feature_extractor(m.eval(), ["2", "5"])(x) for m in (model, stock))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_preparing_for_quantisation_leaves_the_function():
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    ours, _, x = parts()
    ours.eval()
    # The default for transposed convolutions goes by exact class, and the one for all others is not for them.
    settings = get_default_qconfig_mapping().set_object_type(ConvTranspose3d, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(ours), settings, (x,))
    assert type(prepared.down) is Conv3d
    torch.testing.assert_close(prepared(x), ours(x))


def test_jit_trace_with_gradients(pair, training):
    ours, stock, x = pair
    ours.train(training), stock.train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced, expected = (torch.jit.trace(module, torch.randn_like(x)) for module in (ours, stock))
        # The check of a trace runs the module again, statistics included.
        ours.load_state_dict({n: t.reshape(ours.state_dict()[n].shape) for n, t in flat(ours, stock).items()})
        kinds = {node.kind() for node in traced.inlined_graph.nodes()}
        assert not {kind for kind in kinds if kind.startswith("fastvgan") or kind == "prim::PythonOp"}
        other = torch.cat([x, x + 1])  # another batch, or of an unbatched input other channels
        assert_same(ours, stock, traced, expected, x if x.dim() in (3, 4) else other)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        again = torch.jit.load(buffer)
    torch.testing.assert_close(leaves(again(x)), leaves(expected(x)), rtol=1e-4, atol=1e-5)


def flat(ours, stock):
    """stock's state under ours's names, which stand in the same order."""
    return dict(zip(ours.state_dict(), stock.state_dict().values(), strict=True))


def test_jit_trace_says_no_more_than_of_stock_layers(pair):
    said = []
    for module in pair[:2]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.jit.trace(module.eval(), pair[2])
        said.append({str(w.message).partition(":")[0] for w in caught if issubclass(w.category, Warning)})
    assert said[0] <= said[1]


def test_tensorboard_graph(tmp_path, pair):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(pair[0], pair[2])
    events = EventAccumulator(str(tmp_path)).Reload()
    operations = {node.op for node in events.Graph().node}
    norms = {"aten::batch_norm", "aten::group_norm", "aten::instance_norm"}
    assert operations & {"aten::_convolution", "aten::_convolution_mode", *norms}


def test_jit_script_refuses_in_one_sentence(pair):
    with pytest.raises(RuntimeError, match=r"torch.jit.script cannot compile fastvgan.layers.\w+: use") as caught:
        torch.jit.script(nn.Sequential(pair[0]))
    assert "\n" not in str(caught.value)


def test_export_loads_again(pair, tmp_path):
    ours, _, x = pair
    ours.eval()
    program = torch.export.export(ours, (x,))
    torch.export.save(program, tmp_path / "module.pt2")
    again = torch.export.load(tmp_path / "module.pt2").module()
    torch.testing.assert_close(leaves(again(x)), leaves(ours(x)), rtol=1e-4, atol=1e-5)


def flops(module, x):
    with FlopCounterMode(display=False) as forward:
        y = leaves(module(x))
    with FlopCounterMode(display=False) as backward:
        sum(t.square().sum() for t in y).backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("wants_data", [True, False])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_flops(pair, training, wants_data, impl):
    ours, stock, x = pair
    for module in ours.modules():
        if hasattr(module, "impl"):
            module.impl = impl
    if not any(p.requires_grad for p in ours.parameters()):
        wants_data = True
    counts = [flops(m.train(training), x.clone().requires_grad_(wants_data)) for m in (ours, stock)]
    assert counts[0] == counts[1]
    counted = (nn.modules.conv._ConvNd, ConvLSTM)
    assert counts[0][0] > 0 or not any(isinstance(m, counted) for m in ours.modules())


def test_flops_without_any_gradient(pair):
    ours, stock, x = pair
    with torch.no_grad(), FlopCounterMode(display=False) as mine:
        ours(x)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        stock(x)
    assert mine.get_total_flops() == theirs.get_total_flops()


def test_forward_mode(pair, training):
    ours, stock, x = pair
    ours.train(training).double(), stock.train(training).double()
    x, tangent = x.double(), torch.randn_like(x, dtype=torch.float64)

    def derivative(module):
        def call(x):
            # Running statistics of the function's own: torch.func refuses to change those of a module.
            state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            return leaves(torch.func.functional_call(module, state, x))

        return torch.func.jvp(call, (x,), (tangent,))

    given, expected = derivative(ours), derivative(stock)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)
    # The last entries only: all of them take time.
    rows = [
        torch.func.jacfwd(lambda x, m=m: leaves(m(x))[0].flatten()[-3:])(x) if not training else torch.zeros(0)
        for m in (ours, stock)
    ]
    torch.testing.assert_close(*rows, rtol=1e-6, atol=1e-6)


def test_forward_mode_that_stock_norms_refuse_too():
    """Running statistics that the function does not get as an argument."""
    x = torch.randn(2, 3, 2, 2, 2)
    for norm in (BatchNormAct3d(3), nn.BatchNorm3d(3)):
        with pytest.raises(RuntimeError, match="in-place operation"):
            torch.func.jvp(norm, (x,), (x,))


def dcgan_init(module):
    """As PyTorch's DCGAN tutorial has it."""
    name = type(module).__name__
    if name.find("Conv") != -1:
        nn.init.normal_(module.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(module.weight.data, 1.0, 0.02)
        nn.init.constant_(module.bias.data, 0)


def pix2pix_init(module):
    """As in CycleGAN and pix2pix's networks.py."""
    name = type(module).__name__
    if hasattr(module, "weight") and (name.find("Conv") != -1 or name.find("Linear") != -1):
        nn.init.kaiming_normal_(module.weight.data, a=0, mode="fan_in")
        if hasattr(module, "bias") and module.bias is not None:
            nn.init.constant_(module.bias.data, 0.0)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(module.weight.data, 1.0, 0.02)
        nn.init.constant_(module.bias.data, 0.0)


@pytest.mark.parametrize("init", [dcgan_init, pix2pix_init])
def test_initialisers_that_go_by_the_name_of_the_class(init):
    model = nn.ModuleList(
        [
            Conv3d(8, 16, 3),
            ConvTranspose3d(8, 16, 3),
            BatchNormAct3d(256),
            ConvNormAct3d(8, 16, 3),
            ConvTransposeNormAct3d(8, 16, 3),
            ConvLSTM(8, 4),
            ConvLSTMCell(8, 4),
        ]
    ).apply(init)
    stock = nn.Sequential(nn.Conv3d(8, 16, 3), nn.ConvTranspose3d(8, 16, 3), nn.BatchNorm3d(256)).apply(init)
    for i, j in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 1)):
        weight, expected = (model[i].conv.weight if i > 2 else model[i].weight), stock[j].weight
        assert weight.std().item() == pytest.approx(expected.std().item(), rel=0.15)
        assert weight.mean().item() == pytest.approx(expected.mean().item(), abs=0.02)
    recurrent = nn.Conv2d(8, 16, 3).apply(init).weight
    for layer in model[5:]:
        assert layer.weight_ih.std().item() == pytest.approx(recurrent.std().item(), rel=0.15)


def test_a_weight_found_twice_is_one_parameter():
    for layer, name in ((ConvNormAct3d(2, 3, 1), "conv.weight"), (ConvLSTM(2, 3), "weight_ih")):
        named = dict(layer.named_parameters())
        assert "weight" not in layer.state_dict() and layer.weight is named[name]
        with pytest.raises(KeyError, match="exists"):
            layer.weight = nn.Parameter(torch.zeros(1))
    assert ConvNormAct3d(2, 3, 1).bias is None


def test_dir_lists_what_there_is():
    import fastvgan
    from fastvgan import layers

    for module in (fastvgan, layers):
        assert set(module.__all__) <= set(dir(module))
        assert all(getattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Conv9d'"):
        layers.Conv9d  # noqa: B018


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (Conv3d, nn.Conv3d),
        (ConvTranspose3d, nn.ConvTranspose3d),
        (BatchNormAct3d, nn.BatchNorm3d),
        (GroupNormAct, nn.GroupNorm),
        (InstanceNormAct2d, nn.InstanceNorm2d),
        (InstanceNormAct3d, nn.InstanceNorm3d),
        (Conv2d, nn.Conv2d),
        (ConvTranspose2d, nn.ConvTranspose2d),
        (BatchNormAct2d, nn.BatchNorm2d),
    ],
)
def test_signatures_are_torchs_and_more_by_keyword(ours, stock):
    import inspect
    import typing

    mine, theirs = (inspect.signature(kind).parameters.values() for kind in (ours, stock))
    positional = [[(p.name, p.default) for p in ps if p.kind is p.POSITIONAL_OR_KEYWORD] for ps in (mine, theirs)]
    assert positional[0] == positional[1]
    assert set(typing.get_type_hints(ours.__init__)) >= {p.name for p in mine}


CHANNELS = r"expected input \[1, 4, .*\] to have {} channels.* but got {} channels"


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: Conv3d(3, 2, 3), (1, 4, 5, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: Conv3d(2, 2, 3, groups=2), (4, 5, 5, 5), ValueError, CHANNELS.format(2, 4)),
        (lambda: ConvTranspose3d(3, 2, 3), (1, 4, 5, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: BatchNormAct3d(3), (1, 4, 5, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: GroupNormAct(3, 6), (1, 4, 5, 5, 5), ValueError, CHANNELS.format(6, 4)),
        (lambda: ConvNormAct3d(3, 2, 3), (1, 4, 5, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: ConvLSTM(3, 2), (1, 4, 2, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: ConvLSTMCell(3, 2), (1, 4, 5, 5), ValueError, CHANNELS.format(3, 4)),
        (lambda: Conv3d(3, 2, 3), (5, 5, 5), ValueError, r"x of size \[5, 5, 5\] and weight of size \[2, 3, 3, 3, 3\]"),
        (lambda: Conv3d(3, 2, 7), (1, 3, 5, 5, 5), ValueError, "smaller than the kernel"),
        (lambda: ConvLSTM(3, 2), (1, 3, 5, 5), ValueError, r"x must be \(N, C, T, H, W\)"),
        (lambda: Conv3d(3, 2, 3), None, TypeError, "NoneType"),
        (lambda: ConvTranspose3d(3, 2, 3), None, TypeError, "NoneType"),
        (lambda: ConvLSTM(3, 2), None, TypeError, "x must be a Tensor, not NoneType"),
        (lambda: ConvLSTMCell(3, 2), None, TypeError, "x must be a Tensor, not NoneType"),
    ],
)
def test_inputs_that_do_not_fit_are_told(make, shape, error, message):
    with pytest.raises(error, match=message):
        make()(None if shape is None else torch.randn(shape))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConvLSTM(3, 0), ValueError, "hidden_channels must be greater than zero, not 0"),
        (lambda: ConvLSTM(0, 3), ValueError, "in_channels must be greater than zero, not 0"),
        (lambda: ConvLSTMCell(3, 2.0), TypeError, "hidden_channels must be an int, not float"),
        (lambda: ConvLSTM(3, 2, kernel_size=3.0), ValueError, "kernel_size must be an odd integer or two, not 3.0"),
        (lambda: ConvLSTM(3, 2, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: Conv3d(3, 2, 3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: ConvTranspose3d(3, 2, 3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: BatchNormAct3d(3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: BatchNormAct3d(3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: GroupNormAct(3, 6, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: InstanceNormAct3d(3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: ConvNormAct3d(3, 2, 3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: ConvLSTM(1, 1)(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1)), ValueError, r"the two tensors \(h, c\)"),
        (lambda: ConvLSTM(1, 1)(torch.zeros(1, 1, 1, 1, 1), [None]), ValueError, r"not 1 of them"),
    ],
)
def test_arguments_that_make_no_layer_are_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", [lambda x: x, nn.Parameter])
def test_compile_follows_layers_without_a_break(kind):
    torch._dynamo.reset()
    ours, stock, x = parts()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_same(ours, stock, compiled, stock, kind(x))


def test_a_traced_layer_survives_copies_and_autocast():
    ours, stock, x = parts()
    traced = copy.deepcopy(fx.symbolic_trace(ours))
    assert [type(traced.down), type(traced.norm), type(traced.up)] == [Conv3d, BatchNormAct3d, ConvTranspose3d]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(traced(x), stock(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("first", ["fastvgan.layers", "torch.utils.flop_counter"])
def test_flop_formulas_are_registered_whichever_is_imported_first(first):
    second = {"fastvgan.layers": "torch.utils.flop_counter", "torch.utils.flop_counter": "fastvgan.layers"}[first]
    code = (
        f"import sys, {first}; early = 'torch.utils.flop_counter' in sys.modules; import {second}, torch; "
        "known = torch.ops.fastvgan.conv_down in sys.modules['torch.utils.flop_counter'].flop_registry; "
        "print(early, known)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Our layers alone leave the counter, and Triton with it, unimported.
    assert run.stdout.split() == [str(first != "fastvgan.layers"), "True"]
