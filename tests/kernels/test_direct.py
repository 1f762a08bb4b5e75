"""What auto leaves to stock PyTorch with its gradients is one call of it, and computes what stock PyTorch computes."""

import copy
import io
import pickle
import types

import pytest
import torch
from stock_activations import STOCK_ACTIVATIONS
from torch import nn
from torch.nn import functional

from fastvgan.layers import BatchNormAct3d, Conv3d, ConvNormAct3d, ConvTranspose3d
from fastvgan_kernels import choice, conv_down, conv_up, guards, norm_act
from fastvgan_kernels.conv.stock import direct
from fastvgan_kernels.measured.capture import launches_are_captured
from fastvgan_kernels.norm_act import direct as norm_direct

LAST = torch.channels_last_3d
GEOMETRY = [
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": (1, 2, 3), "stride": (1, 2, 1), "padding": (0, 1, 1), "dilation": (1, 1, 2), "groups": 2},
    {"kernel_size": 1},
]
LAYERS = [(Conv3d, nn.Conv3d), (ConvTranspose3d, nn.ConvTranspose3d)]


@pytest.fixture(autouse=True)
def _undecided(monkeypatch):
    monkeypatch.delenv(choice.ENVIRONMENT, raising=False)
    choice.decisions.clear()
    yield
    choice.decisions.clear()


@pytest.fixture
def picks(monkeypatch):
    """The operations that an implementation was picked for."""
    asked, real = [], choice.pick
    monkeypatch.setattr(choice, "pick", lambda operation, *args: asked.append(operation) or real(operation, *args))
    return asked


def pair(kind, dtype=torch.float32, **options):
    """Our layer and stock PyTorch's with the same parameters."""
    ours, stock = (layer(4, 6, **options).to(dtype) for layer in kind)
    ours.load_state_dict(stock.state_dict())
    return ours, stock


def is_stock(y):
    """Whether stock PyTorch's node made y."""
    return type(y.grad_fn).__name__ == "ConvolutionBackward0"


def gradients(module, x, y):
    return torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y) / 3)


@pytest.mark.parametrize("kind", LAYERS, ids=["down", "up"])
@pytest.mark.parametrize("options", GEOMETRY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_gives_stocks_bits_with_stocks_node(picks, kind, options, dtype, last):
    ours, stock = pair(kind, dtype, **options)
    x = torch.randn(2, 4, 5, 6, 7, dtype=dtype).to(memory_format=LAST if last else torch.contiguous_format)
    x.requires_grad_()
    for call in range(3):
        y, expected = ours(x), stock(x)
        assert is_stock(y)
        assert torch.equal(y, expected) and y.stride() == expected.stride()
        for mine, theirs in zip(gradients(ours, x, y), gradients(stock, x, expected), strict=True):
            assert torch.equal(mine, theirs)
        if call == 0:
            # Of a grouped convolution stock PyTorch's one call for both gradients is taken, whatever each would be.
            alone = kind is LAYERS[0] and "groups" in options
            assert set(picks) == ({"conv_down"} if alone else {"conv_up", "conv_down", "conv_weight_grad"})
            picks.clear()
    assert picks == []


@pytest.mark.parametrize("kind", LAYERS, ids=["down", "up"])
def test_without_what_finds_a_layers_calls_they_are_looked_up(monkeypatch, picks, kind):
    monkeypatch.setattr(guards, "same_kind_as", lambda *tensors: None)
    ours, stock = pair(kind, **GEOMETRY[0])
    x = torch.randn(2, 4, 4, 4, 4)
    assert torch.equal(ours(x), stock(x)) and picks
    picks.clear()
    assert torch.equal(ours(x), stock(x)) and is_stock(ours(x)) and not picks


def test_functions_take_the_same_way():
    x, w = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3, requires_grad=True)
    for stride in (2, (2, 2), [2, 2]):
        for _ in range(2):
            torch.testing.assert_close(conv_down(x, w, None, stride), functional.conv2d(x, w, None, stride))
            torch.testing.assert_close(conv_up(x, w, None, stride), functional.conv_transpose2d(x, w, None, stride))
    assert is_stock(conv_down(x, w, None, (2, 2))) and is_stock(conv_up(x, w, None, 2))


def test_the_environment_is_asked_at_every_call(monkeypatch):
    layer, x = Conv3d(4, 6, 3), torch.randn(2, 4, 4, 4, 4)
    assert is_stock(layer(x)) and is_stock(layer(x))
    monkeypatch.setenv(choice.ENVIRONMENT, "reference")
    assert not is_stock(layer(x))
    monkeypatch.setenv(choice.ENVIRONMENT, "magic")
    with pytest.raises(ValueError, match="FASTVGAN_IMPL must be one of"):
        layer(x)
    monkeypatch.delenv(choice.ENVIRONMENT)
    assert is_stock(layer(x))
    layer.impl = "reference"
    assert not is_stock(layer(x))


@pytest.mark.extension
def test_what_is_compiled_and_faster_is_still_taken():
    x = torch.randn(16, 64, 8, 8, 8).to(memory_format=LAST)
    assert not is_stock(Conv3d(64, 128, 4, 2, 1)(x.requires_grad_()))
    small = torch.randn(16, 64, 4, 4, 4).to(memory_format=LAST)
    assert not is_stock(ConvTranspose3d(64, 64, 4, 2, 1)(small))
    more = torch.cat([x, x[:1]])
    assert type(BatchNormAct3d(64)(more).grad_fn).__name__ == "norm_act_tracked_autogradBackward"


@pytest.mark.extension
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_grouped_convolutions_only_what_is_faster_is_compiled(last, dtype):
    """As measured: (128 to 32 in 16 groups), contiguous float32, took 1.6 times stock's time, bfloat16 a quarter."""
    x = torch.randn(8, 32, 4, 6, 6, dtype=dtype).to(memory_format=LAST if last else torch.contiguous_format)
    x.requires_grad_()

    def is_compiled(layer):
        return not is_stock(layer.to(dtype)(x))

    assert not is_compiled(Conv3d(32, 32, 3, 2, 1, groups=32)) and not is_compiled(Conv3d(32, 64, 4, 2, 1, groups=4))
    assert not is_compiled(ConvTranspose3d(32, 32, 4, 2, 1, groups=32))
    assert not is_compiled(ConvTranspose3d(32, 16, (3, 3, 4), (1, 1, 2), 1, groups=8))
    assert is_compiled(ConvTranspose3d(32, 16, 4, 2, 1, groups=8)) is (last or dtype is torch.bfloat16)


@pytest.mark.extension
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_in_evaluation_the_compiled_norm_is_called_itself(monkeypatch, last, activation):
    """With what the layer holds at each call, as exact as stock PyTorch's, and not where a gradient is wanted."""
    calls, real = [], norm_direct.norm_act_in_cpp
    monkeypatch.setattr(norm_direct, "norm_act_in_cpp", lambda *args: calls.append(args) or real(*args))
    layer = BatchNormAct3d(32, activation=activation).eval()
    x = torch.randn(3, 32, 9, 16, 16).to(memory_format=LAST if last else torch.contiguous_format)
    for call in range(4):
        with torch.no_grad():
            for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
                tensor.uniform_(0.5, 2)
            y, expected = layer(x), functional.batch_norm(*doubles(x, layer))
            expected = expected if activation == "none" else getattr(functional, activation)(expected)
        torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-5)
        assert y.stride() == x.stride()
        assert len(calls) == (0 if activation == "none" and not last else call)
    assert layer(x).requires_grad and len(calls) <= 3


def doubles(x, norm):
    return [tensor.double() for tensor in (x, norm.running_mean, norm.running_var, norm.weight, norm.bias)]


@pytest.mark.extension
def test_one_gradient_that_is_compiled_keeps_the_operation():
    """The convolution is left to stock PyTorch but the gradient of its weight is not, where one is wanted."""
    layer, x = Conv3d(64, 64, 3, 1, 1), torch.randn(16, 64, 4, 4, 4).to(memory_format=LAST).requires_grad_()
    assert not is_stock(layer(x))
    layer.weight.requires_grad_(False)
    assert is_stock(layer(x))
    with torch.no_grad():
        assert torch.equal(layer(x), functional.conv3d(x, layer.weight, layer.bias, 1, 1))


def test_a_call_without_gradients_decides_nothing_for_one_with_them():
    layer, x = Conv3d(64, 64, 3, 1, 1), torch.randn(16, 64, 4, 4, 4).to(memory_format=LAST).requires_grad_()
    with torch.no_grad():
        layer(x), layer(x)
    assert not is_stock(layer(x))  # the gradient of its weight is compiled


def test_a_stride_that_is_set_afterwards_holds_for_the_very_same_input():
    layer, x = Conv3d(4, 6, 3), torch.randn(2, 4, 7, 7, 7)
    layer(x), layer(x)
    layer.stride = (2, 2, 2)
    assert torch.equal(layer(x), functional.conv3d(x, layer.weight, layer.bias, 2))


@pytest.mark.parametrize("kind", LAYERS, ids=["down", "up"])
@pytest.mark.parametrize("grad", [False, True])
def test_autocast_is_recalled_by_its_dtype(picks, kind, grad):
    """With stock PyTorch's bits and dtype, whichever order the dtypes come in."""
    ours, stock = pair(kind, kernel_size=3, padding=1)
    x = torch.randn(2, 4, 5, 6, 7)
    for call, dtype in enumerate((None, torch.bfloat16, torch.float16, None, torch.bfloat16, torch.float16)):
        context = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
        with torch.set_grad_enabled(grad), context:
            y, expected = ours(x), stock(x)
        assert y.dtype == expected.dtype == (dtype or torch.float32) and torch.equal(y, expected)
        if grad:
            parameters = [
                torch.autograd.grad(z.sum(), [*module.parameters()]) for module, z in ((ours, y), (stock, expected))
            ]
            assert all(map(torch.equal, *parameters))
        with torch.set_grad_enabled(grad), context:
            assert torch.equal(ours.try_stock(x), expected)  # found by the first, cheaper look-up
        assert call < 3 or picks == []
        picks.clear()


def test_in_a_capture_on_a_gpu_nothing_is_recalled(monkeypatch):
    """A GPU's decisions, as they would be remembered there."""
    x, weight, geometry = (
        torch.randn(2, 4, 5, 5, 5),
        torch.randn(6, 4, 3, 3, 3),
        (False, (1,) * 3, (0,) * 3, 0, (1,) * 3, 1),
    )
    stock = direct._Stock(torch.convolution, ([1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1), None, True, False)
    norm = types.SimpleNamespace(is_cuda=True)
    known = {(id(weight), geometry, True): ((lambda *tensors: True, stock),)}
    known[norm_direct._key(None, None, None, None, True)] = ((lambda *tensors: True, "reference"),)
    monkeypatch.setattr(guards, "_decisions", known)
    assert torch.equal(direct.recall(x, weight, None, geometry), functional.conv3d(x, weight))
    assert norm_direct.serves(norm, None, None, None, None, True) is True
    with launches_are_captured():
        assert direct.recall(x, weight, None, geometry) is None
        assert norm_direct.serves(norm, None, None, None, None, True) is False


def test_what_stock_gets_wrong_is_not_left_to_it():
    """Nor are gradients: that of a gradient of the weight is a convolution, of which some output sees only padding."""
    outside = Conv3d(3, 5, 1, padding=1)
    x = torch.randn(2, 3, 3, 3, 3)
    exact = functional.conv3d(x.double(), outside.weight.double(), outside.bias.double(), padding=1)
    for _ in range(2):
        torch.testing.assert_close(outside(x).double(), exact, rtol=1e-5, atol=1e-5)
        assert not is_stock(outside(x))
    voxel, x = Conv3d(3, 5, 3, padding=1), torch.randn(2, 3, 1, 1, 1, requires_grad=True)
    assert not is_stock(voxel(x)) and not is_stock(voxel(x))
    half, x = Conv3d(3, 5, 3, 2, 1).bfloat16(), torch.randn(2, 3, 4, 4, 4).bfloat16()
    assert not is_stock(half(x)) and is_stock(half.float()(x.float()))


@pytest.mark.parametrize("kind", LAYERS, ids=["down", "up"])
@pytest.mark.parametrize("options", GEOMETRY, ids=str)
def test_gradients_of_gradients_are_those_of_float64(kind, options):
    ours, stock = pair(kind, **options)
    exact, x = copy.deepcopy(stock).double(), torch.randn(2, 4, 5, 6, 7)
    found = []
    for module, leaf in ((ours, x.clone().requires_grad_()), (exact, x.double().requires_grad_())):
        y = module(leaf)
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [leaf, *module.parameters()]))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_another_tensor_at_a_weights_address_is_not_taken_for_it():
    layer, x = Conv3d(4, 6, 3), torch.randn(2, 4, 5, 5, 5)
    layer(x), layer(x)
    with torch.no_grad():
        layer.weight.data = torch.randn(6, 4, 5, 5, 5)  # the same object, another kernel
    expected = functional.conv3d(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), expected) and torch.equal(layer(x), expected)
    layer.stride = (2, 2, 2)
    assert layer(torch.randn(2, 4, 9, 9, 9)).shape[2:] == (3, 3, 3)
    layer.padding_mode, layer.padding, layer._reversed_padding_repeated_twice = "circular", (1, 1, 1), [1] * 6
    assert layer(x).shape[2:] == (2, 2, 2)
    with pytest.raises(ValueError, match="but got 3 channels instead"):
        layer(x[:, :3])
    with pytest.raises(TypeError, match="weight is torch.float32 but x torch.float64"):
        layer(x.double())


def test_kinds_of_call_are_distinguished(picks):
    layer = Conv3d(4, 6, 3, padding=1)
    for size in (3, 4, 5, 6, 7, 3):
        for x in (torch.randn(2, 4, size, size, size), torch.randn(2, 4, size, size, size).to(memory_format=LAST)):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    y = layer(x)
                assert y.requires_grad == grad and y.is_contiguous(memory_format=LAST) == x.is_contiguous(
                    memory_format=LAST
                )
                torch.testing.assert_close(y, functional.conv3d(x, layer.weight, layer.bias, padding=1))
    assert layer(torch.randn(4, 3, 3, 3)).shape == (6, 3, 3, 3)
    sliced = torch.randn(2, 8, 3, 3, 3)[:, ::2]
    torch.testing.assert_close(layer(sliced), layer(sliced.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_what_the_operation_gives(dtype):
    layer, x = Conv3d(4, 6, 3, padding=1), torch.randn(2, 4, 6, 6, 6, requires_grad=True)
    named = copy.deepcopy(layer)
    named.impl = "reference"
    layer(x)
    with torch.autocast("cpu", dtype):
        with torch.no_grad():
            layer(x)  # leaves no copy of the weight without a gradient behind
        y, expected = layer(x), named(x)
        assert y.dtype == dtype and is_stock(y) and not is_stock(expected) and torch.equal(y, expected)
        found, right = gradients(layer, x, y), gradients(named, x, expected)
    for mine, theirs in zip(found, right, strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("make", [lambda: Conv3d(4, 4, 3, 1, 1), lambda: BatchNormAct3d(4, activation="tanh").eval()])
def test_transforms_and_compilation_take_the_operation(make):
    layer, x = make(), torch.randn(3, 4, 4, 4, 4)
    expected = layer(x)
    layer(x)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.vmap(lambda one: layer(one.unsqueeze(0))[0])(x), expected)
    by_func = torch.func.grad(lambda x: layer(x).square().sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(by_func, torch.autograd.grad(layer(x).square().sum(), x)[0])


def test_layers_are_copied_and_pickled_after_a_call():
    for layer in (Conv3d(4, 4, 3, 1, 1), BatchNormAct3d(4).eval(), ConvNormAct3d(4, 4, 3).eval()):
        x = torch.randn(2, 4, 4, 4, 4)
        y = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(other(x), y)
        torch.save(layer, file := io.BytesIO())
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), y)


@pytest.mark.parametrize("activation", STOCK_ACTIVATIONS)
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_small_norm_gives_stocks_bits(picks, activation, options, dtype):
    act = STOCK_ACTIVATIONS[activation]
    ours = BatchNormAct3d(4, activation=activation, negative_slope=0.2, **options).to(dtype)
    stock = nn.BatchNorm3d(4, **options).to(dtype)
    for training in (True, True, False, True):
        ours.train(training), stock.train(training)
        for last in (torch.contiguous_format, LAST):
            x = torch.randn(2, 4, 3, 3, 3, dtype=dtype).to(memory_format=last).requires_grad_()
            y, expected = ours(x), act(stock(x))
            assert torch.equal(y, expected) and y.is_contiguous(memory_format=last)
            for mine, theirs in zip(gradients(ours, x, y), gradients(stock, x, expected), strict=True):
                assert torch.equal(mine, theirs)
        for mine, theirs in zip(ours.state_dict().values(), stock.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
    modes = 1 if options.get("track_running_stats") is False else 2  # without them evaluation is as training
    assert picks == ["norm_act"] * 2 * modes  # for two layouts


def test_norms_of_unlike_dtypes_and_layouts():
    x = torch.randn(4, 4, 3, 3, 3)
    vector = torch.rand(4) + 0.5
    exact = norm_act(x.double(), vector.double(), vector.double(), activation="relu")
    for dtypes in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        y = norm_act(x.to(dtypes[0]), vector.to(dtypes[1]), vector.to(dtypes[1]), activation="relu")
        torch.testing.assert_close(y.double(), exact, rtol=5e-2, atol=5e-2)
    sliced = torch.randn(4, 8, 3, 3, 3)[:, ::2]
    for _ in range(2):
        torch.testing.assert_close(norm_act(sliced, vector), norm_act(sliced.contiguous(), vector))
        with pytest.raises(ValueError, match="weight must be of shape|as many as weight has"):
            norm_act(x, vector[:3])
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm_act(x[:1, :, :1, :1, :1], vector)
        with pytest.raises(ValueError, match="activation must be one of"):
            norm_act(x, vector, activation="elu")
        assert norm_act(x[:0], vector).shape == (0, 4, 3, 3, 3)
    negative = norm_act(x.requires_grad_(), vector, activation="leaky_relu", negative_slope=-0.5)
    (dx,) = torch.autograd.grad(negative.square().sum(), x)
    right = functional.leaky_relu(functional.batch_norm(x, None, None, vector, None, True), -0.5)
    torch.testing.assert_close(dx, torch.autograd.grad(right.square().sum(), x)[0])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("layer", [Conv3d(3, 1, 3), ConvTranspose3d(3, 1, 3), BatchNormAct3d(1, activation="relu")])
def test_gradients_pass_a_single_channel(layer, last):
    """Whose stride is set right afterwards, in a tensor that autograd follows."""
    x = torch.randn(2, 1 if isinstance(layer, BatchNormAct3d) else 3, 4, 5, 6)
    x = (x.to(memory_format=LAST) if last else x).requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.abs().max() > 0 and all(p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_norm_by_stock_goes_backward_after_another_call_has_changed_its_running_statistics(impl):
    """As in a step that scores two batches before it goes backward, one of them by another implementation."""
    x, other = (torch.randn(3, 4, 2, 5, 5, requires_grad=True) for _ in range(2))
    norm = torch.nn.BatchNorm3d(4)
    inputs = norm.weight, norm.bias, norm.running_mean, norm.running_var, True, 0.1, norm.eps
    y = norm_direct.norm_act(x, *inputs, "relu", 0.0)
    z = norm_act(other, *inputs, activation="relu", impl=impl)
    found = torch.autograd.grad((y.square() + z.square()).sum(), [x, other, norm.weight])
    stock = torch.nn.BatchNorm3d(4)
    expected = sum(torch.relu(stock(part)).square().sum() for part in (x, other))
    for mine, theirs in zip(found, torch.autograd.grad(expected, [x, other, stock.weight]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, stock.running_mean)
    torch.testing.assert_close(norm.running_var, stock.running_var)
