"""Construction, initialisers and messages: our layers accept torch.nn's arguments and reject bad ones."""

import copy

import pytest
import torch
from torch import nn

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


def dcgan_init(module):
    """From PyTorch's DCGAN tutorial."""
    name = type(module).__name__
    if name.find("Conv") != -1:
        nn.init.normal_(module.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(module.weight.data, 1.0, 0.02)
        nn.init.constant_(module.bias.data, 0)


def pix2pix_init(module):
    """From CycleGAN and pix2pix's networks.py."""
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
def test_inputs_that_do_not_fit_are_refused(make, shape, error, message):
    with pytest.raises(error, match=message):
        make()(None if shape is None else torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv3d(3, 2, 3, 2), (1, 4, 5, 5, 5)),
        (lambda: nn.Conv2d(3, 2, 7, 2), (1, 3, 5, 5)),
        (lambda: nn.Conv3d(3, 2, 3, 2), (5, 5, 5)),
        (lambda: nn.ConvTranspose3d(3, 2, 3), (1, 4, 5, 5, 5)),
        (lambda: nn.BatchNorm2d(3), (2, 4, 5, 5)),
        (lambda: nn.BatchNorm2d(3), (5, 5)),
        (lambda: nn.GroupNorm(3, 6), (1, 4, 5, 5, 5)),
        (lambda: nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 5)),
    ],
)
def test_code_that_catches_torchs_errors_catches_ours(make, shape, dtype):
    stock = make()
    ours, x = fuse(copy.deepcopy(stock)), torch.ones(shape, dtype=dtype)
    try:
        stock(x)
    except Exception as error:  # of the class that users catch
        with pytest.raises(type(error)):
            ours(x)
    else:
        assert ours(x).dtype == dtype


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConvLSTM(3, 0), ValueError, "hidden_channels must be greater than zero, not 0"),
        (lambda: ConvLSTM(0, 3), ValueError, "in_channels must be greater than zero, not 0"),
        (lambda: ConvLSTMCell(3, 2.0), TypeError, "hidden_channels must be an int, not float"),
        (
            lambda: ConvLSTM(3, 2, kernel_size=3.0),
            ValueError,
            "kernel_size must be one odd integer or a pair",
        ),
        (lambda: ConvLSTM(3, 2, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: Conv3d(3, 2, 3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: ConvTranspose3d(3, 2, 3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: BatchNormAct3d(3, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: BatchNormAct3d(3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: GroupNormAct(3, 6, impl="fast"), ValueError, "impl must be one of auto"),
        (lambda: InstanceNormAct3d(3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: ConvNormAct3d(3, 2, 3, activation="swish"), ValueError, "activation must be one of none, relu"),
        (lambda: ConvLSTM(1, 1)(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1)), ValueError, r"the two tensors \(h, c\)"),
        (lambda: ConvLSTM(1, 1)(torch.zeros(1, 1, 1, 1, 1), [None]), ValueError, r"not a sequence of 1"),
    ],
)
def test_arguments_that_make_no_layer_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    ("kind", "stock", "options"),
    [
        (Conv2d, nn.Conv2d, {"padding": 1, "padding_mode": "reflect"}),
        (Conv3d, nn.Conv3d, {"padding": "same", "bias": False}),
        (ConvTranspose2d, nn.ConvTranspose2d, {"stride": 2}),
        (ConvTranspose3d, nn.ConvTranspose3d, {"groups": 2}),
    ],
)
def test_complex_convolutions_are_those_of_stock(kind, stock, options, dtype):
    torch.manual_seed(0)
    ours, theirs = (each(2, 4, 3, dtype=dtype, **options) for each in (kind, stock))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn((1, 2, 4, 4, 4)[: ours.weight.dim()], dtype=dtype)
    for module in (ours, nn.Sequential(ours, nn.Tanh()), fuse(nn.Sequential(ours, nn.Tanh()))):
        results = []
        for network in (module, theirs if module is ours else nn.Sequential(theirs, nn.Tanh())):
            inputs = x.clone().requires_grad_(), *network.parameters()
            y = network(inputs[0])
            results.append((y, network(x[0]), *torch.autograd.grad(y.abs().sum(), inputs)))
        torch.testing.assert_close(*results)
