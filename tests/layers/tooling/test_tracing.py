"""torch.fx, torch.jit, torch.export and torch.compile take our layers as they take torch.nn's."""

import copy
import io
import warnings

import pytest
import torch
from layer_pairs import PAIRS, assert_same, flat, leaves, make_fused, parts
from torch import fx, nn

from fastvgan.layers import BatchNormAct3d, Conv3d, ConvLSTM, ConvTranspose3d


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
    model, stock, x = *make_fused(), torch.randn(2, 4, 6, 6, 4)
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
