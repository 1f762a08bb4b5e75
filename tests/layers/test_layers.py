"""fastvgan.layers against torch.nn."""

import copy

import pytest
import torch
from stock_activations import STOCK_ACTIVATIONS
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastvgan.layers import (
    BatchNormAct3d,
    Conv3d,
    ConvLSTM,
    ConvLSTMCell,
    ConvNormAct3d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    GroupNormAct,
    InstanceNormAct3d,
    fuse,
)
from fastvgan.layers.deferred import chain, resolve
from fastvgan_kernels import extension
from fastvgan_kernels.norm_act import norm_act_with
from fastvgan_kernels.norm_act.following import update_running
from fastvgan_kernels.norm_act.protocol import Norm

CONV = [
    {"kernel_size": 3},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (1, 2, 3), "stride": (1, 2, 1), "padding": (0, 1, 1), "dilation": (1, 1, 2), "groups": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (2, 3, 4), "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": (1, 2, 1), "padding_mode": "reflect"},
    {"kernel_size": (2, 3, 3), "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
]
TRANSPOSED = [
    {"kernel_size": 4},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    {"kernel_size": (1, 2, 3), "stride": (1, 2, 3), "dilation": (2, 1, 1), "output_padding": (1, 0, 2)},
]


def assert_same(ours, stock, *inputs):
    """Check for equal outputs and gradients, and state_dicts that load both ways."""
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    other = copy.deepcopy(stock)
    other.load_state_dict(ours.state_dict())
    y, expected = ours(*inputs), stock(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(expected)
    for module, output in ((ours, y), (stock, expected)):
        module.zero_grad()
        (output * weights).sum().backward()
    for a, b in zip(ours.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", CONV)
@pytest.mark.parametrize("batched", [True, False])
def test_conv3d_is_torchs(options, batched):
    x = torch.randn(2, 4, 5, 6, 7)
    assert_same(Conv3d(4, 6, **options), nn.Conv3d(4, 6, **options), x if batched else x[0])


@pytest.mark.parametrize("options", TRANSPOSED)
@pytest.mark.parametrize("batched", [True, False])
def test_conv_transpose3d_is_torchs(options, batched):
    x = torch.randn(2, 4, 2, 3, 4)
    assert_same(ConvTranspose3d(4, 6, **options), nn.ConvTranspose3d(4, 6, **options), x if batched else x[0])


def test_output_size_chooses_the_size():
    options = {"kernel_size": 3, "stride": 2, "padding": 1}
    ours, stock = ConvTranspose3d(2, 2, **options), nn.ConvTranspose3d(2, 2, **options)
    x = torch.randn(1, 2, 3, 3, 3)
    assert_same(ours, stock, x, [6, 5, 6])
    assert ours(x, output_size=[6, 5, 6]).shape[2:] == (6, 5, 6)
    with pytest.raises(ValueError, match="requested an output size"):
        ours(x, output_size=[9, 9, 9])


@pytest.mark.parametrize("activation", STOCK_ACTIVATIONS)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.5, "eps": 1e-2}],
)
def test_batch_norm_act_is_torchs(activation, options):
    ours = BatchNormAct3d(4, activation=activation, negative_slope=0.2, **options)
    stock = nn.BatchNorm3d(4, **options)
    act = STOCK_ACTIVATIONS[activation]
    assert list(ours.state_dict()) == list(stock.state_dict())
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.normal_()
    ours.load_state_dict(stock.state_dict())
    for training in (True, True, False, True):
        ours.train(training), stock.train(training)
        x = torch.randn(3, 4, 2, 3, 3) * 3 + 1
        torch.testing.assert_close(ours(x), act(stock(x)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.state_dict(), stock.state_dict(), rtol=1e-4, atol=1e-4)
    stock.load_state_dict(ours.state_dict())


def test_batch_norm_act_refuses_what_batch_norm_refuses():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        BatchNormAct3d(2)(torch.randn(1, 2, 1, 1, 1))
    with pytest.raises(ValueError, match="expected 5D input"):
        BatchNormAct3d(2)(torch.randn(1, 2, 1, 1))


def test_batch_norm_act_in_evaluation_without_updates_when_tracking_was_switched_off():
    """torch.nn keeps, and then uses but does not update, statistics after track_running_stats is set to False."""
    ours, stock = BatchNormAct3d(2), nn.BatchNorm3d(2)
    ours.track_running_stats = stock.track_running_stats = False
    x = torch.randn(2, 2, 2, 2, 2) + 1
    for training in (True, False):
        ours.train(training), stock.train(training)
        torch.testing.assert_close(ours(x), stock(x))
        torch.testing.assert_close(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize(
    ("fused", "conv"),
    [
        (ConvNormAct3d, nn.Conv3d),
        (ConvTransposeNormAct3d, nn.ConvTranspose3d),
    ],
)
def test_chains_are_the_stock_chain(fused, conv):
    ours = fused(3, 4, 4, 2, 1, activation="leaky_relu", negative_slope=0.2)
    stock = nn.Sequential(conv(3, 4, 4, 2, 1, bias=False), nn.BatchNorm3d(4), nn.LeakyReLU(0.2))
    assert [n for n, _ in ours.named_parameters()] == ["conv.weight", "norm.weight", "norm.bias"]
    stock[0].load_state_dict(ours.conv.state_dict())
    x = torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x), rtol=1e-4, atol=1e-4)


def test_conv_lstm_is_its_cell_step_by_step_and_goes_on_from_its_state():
    lstm = ConvLSTM(3, 2, kernel_size=(3, 5))
    cell = ConvLSTMCell(3, 2, kernel_size=(3, 5))
    cell.load_state_dict(lstm.state_dict())
    x = torch.randn(2, 3, 5, 4, 4)
    output, (h, c) = lstm(x)
    state = None
    for t in range(5):
        state = cell(x[:, :, t], state)
        torch.testing.assert_close(state[0], output[:, :, t])
    torch.testing.assert_close(state, (h, c))
    first, middle = lstm(x[:, :, :2])
    second, last = lstm(x[:, :, 2:], middle)
    torch.testing.assert_close(torch.cat([first, second], 2), output)
    torch.testing.assert_close(last, (h, c))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("last", [False, True])
def test_the_last_state_of_a_conv_lstm_is_a_tensor_alone(steps, last):
    """As of torch.nn.LSTM: it may be detached and changed in place, and keeps no other step in memory."""
    lstm, cell = ConvLSTM(3, 2), ConvLSTMCell(3, 2)
    cell.load_state_dict(lstm.state_dict())
    x, mask = torch.randn(2, 3, steps, 4, 4), torch.rand(2, 2, 4, 4)
    x = x.to(memory_format=torch.channels_last_3d) if last else x
    grads = []
    for in_place in (True, False):
        output, (h, c) = lstm(x)
        once, _ = cell(x[:, :, 0])
        for state in (h, once):
            assert state._base is None and state.untyped_storage().nbytes() == state.nbytes
            assert state.stride(1) == (1 if last else 16)
        torch.testing.assert_close(h, output[:, :, -1])
        h, once = (state.mul_(mask) if in_place else state * mask for state in (h, once))
        lstm.zero_grad(), cell.zero_grad()
        (h + once + c).sum().backward()
        grads.append([p.grad for p in (*lstm.parameters(), *cell.parameters())])
    torch.testing.assert_close(*grads)
    lstm(x)[1][0].detach_()


def test_conv_lstm_options():
    assert list(dict(ConvLSTM(1, 2, bias=False).named_parameters())) == ["weight_ih", "weight_hh"]
    lstm = ConvLSTM(1, 2, kernel_size=1, dtype=torch.float64)
    assert lstm.weight_ih.shape == (8, 1, 1, 1) and lstm.weight_hh.shape == (8, 2, 1, 1) and lstm.bias.shape == (8,)
    assert lstm(torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64))[0].dtype == torch.float64
    with pytest.raises(ValueError, match="odd"):
        ConvLSTM(1, 2, kernel_size=2)


def test_layers_train_under_autocast_in_channels_last():
    model = nn.Sequential(
        ConvTransposeNormAct3d(6, 4, 4),
        ConvTransposeNormAct3d(4, 4, 4, 2, 1),
        ConvTranspose3d(4, 1, 4, 2, 1, bias=False),
        ConvNormAct3d(1, 4, 4, 2, 1),
    ).to(memory_format=torch.channels_last_3d)
    x, formats = torch.randn(2, 6, 1, 1, 1), []
    for layer in model[:3]:
        layer.register_forward_hook(lambda module, args, y: formats.append(y.stride(1)))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and formats == [1, 1, 1]
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kind, arguments",
    [("BatchNorm3d", (8,)), ("GroupNorm", (4, 8)), ("InstanceNorm3d", (8,)), ("ConvTranspose3d", (8, 3, 4, 2, 1))],
)
def test_a_video_stored_in_another_order_gives_what_view_accepts(kind, arguments, training):
    """As N, H, W, T, C its channels are innermost, but torch does not count it as channels-last."""
    stock = getattr(nn, kind)(*arguments).train(training)
    ours, x = fuse(copy.deepcopy(stock)), torch.randn(2, 4, 3, 2, 8).permute(0, 4, 3, 1, 2)
    torch.testing.assert_close(ours(x).view(2, -1), stock(x).view(2, -1), rtol=1e-4, atol=1e-5)


def test_an_impl_that_cannot_run_says_so():
    layer = Conv3d(1, 1, 1, impl="cuda")
    with pytest.raises(ValueError, match="conv_down cannot run with impl='cuda'"):
        layer(torch.zeros(1, 1, 1, 1, 1))


def test_layers_survive_pickle_and_compile():
    import io

    model = ConvNormAct3d(2, 3, 3, padding=1)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    x = torch.randn(2, 2, 3, 3, 3)
    expected = model(x)
    torch.testing.assert_close(again(x), expected)
    torch._dynamo.reset()
    model.norm.reset_running_stats()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    model(x)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(
        compiled.state_dict()["_orig_mod.norm.running_mean"].isfinite().all(), torch.tensor(True)
    )


IN_PLACE = [
    (Conv3d, {"kernel_size": 3, "padding": 1}, (2, 4, 3, 4, 5)),
    (Conv3d, {"kernel_size": 1}, (2, 4, 1, 1, 1)),
    (ConvTranspose3d, {"kernel_size": 4, "stride": 2, "padding": 1}, (2, 4, 3, 4, 5)),
    (BatchNormAct3d, None, (2, 4, 3, 4, 5)),
    (ConvNormAct3d, {"kernel_size": 3}, (2, 4, 3, 4, 5)),
]


@pytest.mark.parametrize("impl", ["auto", "reference"] + ["cpp"] * (extension.load() is not None))
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("kind, options, shape", IN_PLACE)
def test_the_output_may_be_changed_in_place(kind, options, shape, channels, last, impl):
    """An in-place activation after it does this; autograd rejects it for a view created within an operation."""
    x = torch.randn(shape)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    layer = kind(4, impl=impl) if options is None else kind(4, channels, impl=impl, **options)
    results = []
    for function in (torch.sin_, torch.sin):
        layer.zero_grad()
        function(layer(x)).sum().backward()
        results.append([p.grad for p in layer.parameters()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_running_statistics_may_be_in_half_precision(dtype):
    ours, stock = BatchNormAct3d(3, activation="none").eval(), nn.BatchNorm3d(3).eval()
    for layer in (ours, stock):
        layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.randn(2, 3, 2, 4, 4).to(dtype)
    expected = stock.to(dtype)(x)
    torch.testing.assert_close(ours.to(dtype)(x), expected)
    norm = Norm(ours.running_mean, ours.running_var, ours.weight, ours.bias, False, ours.eps, "none", 0.0)
    torch.testing.assert_close(norm_act_with(x, norm), expected)  # as generators call it


BLOCKS = [(ConvNormAct3d, nn.Conv3d), (ConvTransposeNormAct3d, nn.ConvTranspose3d)]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("kind, stock", BLOCKS)
def test_a_converted_block_keeps_its_activation(kind, stock, activation):
    block = kind(3, 4, 3, activation=activation, negative_slope=0.2).eval()
    block.norm.running_mean.normal_(), block.norm.bias.data.normal_()
    x, keys = torch.randn(2, 3, 5, 5, 5), list(block.state_dict())
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert type(synced.norm) is nn.SyncBatchNorm and list(synced.state_dict()) == keys
    folded = copy.deepcopy(block)
    folded.conv, folded.norm = fuse_conv_bn_eval(block.conv, block.norm, stock is not nn.Conv3d), nn.Identity()
    expected = STOCK_ACTIVATIONS[activation](nn.BatchNorm3d.forward(block.norm, block.conv(x)))
    for layer in (block, synced, folded):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(resolve(chain([layer], x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "norm, activate",
    [
        (nn.Identity(), torch.relu),
        (nn.GroupNorm(2, 4), torch.relu),
        (nn.BatchNorm3d(4), torch.relu),
        (GroupNormAct(2, 4), torch.relu),
        (InstanceNormAct3d(4), torch.relu),
        (GroupNormAct(2, 4, activation="tanh"), lambda y: y),
        (BatchNormAct3d(4), lambda y: y),
        (BatchNormAct3d(4, activation="silu"), lambda y: y),
    ],
)
@pytest.mark.parametrize("kind, stock", BLOCKS)
def test_any_modules_may_take_the_places_of_a_blocks_parts(kind, stock, norm, activate, traced):
    """The block's activation follows a norm without one. A BatchNormAct3d computes what it was made for."""
    x = torch.randn(2, 3, 5, 5, 5)
    for conv in (None, stock(3, 4, 3)):
        block = kind(3, 4, 3)
        block.norm, block.conv = copy.deepcopy(norm), block.conv if conv is None else conv
        expected = activate(copy.deepcopy(norm)(block.conv(x)))
        fused = fuse(copy.deepcopy(block))
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
        found = torch.jit.trace(block, x, check_trace=False)(x) if traced else block(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "reference"] + ["cpp"] * (extension.load() is not None))
def test_running_statistics_in_float16_take_a_batchs_variance_that_float16_does_not_hold(impl):
    x = (torch.randn(80, 4, 8, 16, 16) * 400).half()  # variance 160000, of which a tenth is below 65504
    ours, stock = BatchNormAct3d(4, impl=impl).half(), nn.BatchNorm3d(4).half()
    for _ in range(2):
        ours(x), stock(x)
    assert stock.running_var.isfinite().all()
    torch.testing.assert_close(ours.running_var, stock.running_var)
    torch.testing.assert_close(ours.running_mean, stock.running_mean)


@pytest.mark.parametrize("momentum", [0.1, torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_running_statistics_are_rounded_once(dtype, momentum):
    """Also by a share that only the device knows, as norm_act_synced has it."""
    mean, var, count = torch.randn(5), torch.rand(5) * 3e5, 8
    running = [torch.randn(5).to(dtype), torch.rand(5).to(dtype)]
    batch = mean.double(), var.double() * count / (count - 1)
    expected = [(0.9 * old.double() + 0.1 * new).to(dtype) for old, new in zip(running, batch, strict=True)]
    update_running(*running, mean, var, momentum, count)
    torch.testing.assert_close(running, expected)
