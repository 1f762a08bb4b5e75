"""Conv2d, ConvTranspose2d and BatchNormAct2d against torch.nn's, computed in float64."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastvgan.layers import BatchNormAct2d, Conv2d, ConvTranspose2d, fuse, sync_batch_norm
from fastvgan_kernels import choice, conv_up, extension

LAST = torch.channels_last
IMPLS = ["auto", "reference"] + ["cpp"] * (extension.load() is not None)
CONV = [
    {"kernel_size": 3},
    {"kernel_size": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2), "groups": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (3, 4), "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    {"kernel_size": (2, 3), "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
]
TRANSPOSED = [
    {"kernel_size": 4},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    {"kernel_size": (2, 3), "stride": (2, 3), "dilation": (1, 2), "output_padding": (0, 2)},
]
CASES = [(Conv2d, nn.Conv2d, options) for options in CONV]
CASES += [(ConvTranspose2d, nn.ConvTranspose2d, options) for options in TRANSPOSED]
ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}
INPUTS = {
    "a batch": torch.randn(2, 4, 6, 7),
    "channels last": torch.randn(2, 4, 6, 7).to(memory_format=LAST),
    "no batch": torch.randn(4, 6, 7),
    "a slice": torch.randn(4, 8, 7, 9)[::2, ::2, 1:, ::2],
    "expanded": torch.randn(1, 4, 1, 7).expand(3, 4, 6, 7),
    "an empty batch": torch.randn(0, 4, 6, 7),
}


def gradients(module, x):
    """Return the output and all gradients of a weighted sum, with the same weights for every dtype."""
    x = x.detach().requires_grad_()
    y = module(x)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind, stock_kind, options", CASES)
def test_convolutions_are_torchs(kind, stock_kind, options, name, impl):
    stock = stock_kind(4, 6, **options).double()
    ours = kind(4, 6, **options, impl=impl)
    assert list(ours.state_dict()) == list(stock.state_dict()) and repr(ours) == repr(stock)
    ours.load_state_dict(stock.state_dict())
    for _ in range(2):  # the second call is found by what the first one decided
        mine, exact = gradients(ours, INPUTS[name]), gradients(stock, INPUTS[name].double())
        torch.testing.assert_close([t.double() for t in mine], exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind, stock_kind, options", [CASES[0], CASES[1], CASES[2], CASES[-3]])
def test_results_lie_in_memory_as_torchs(kind, stock_kind, options, dtype, channels, weight_last):
    ours, stock = kind(channels, 6, **options).to(dtype), stock_kind(channels, 6, **options).to(dtype)
    if weight_last:
        ours, stock = ours.to(memory_format=LAST), stock.to(memory_format=LAST)
    # A kernel of 1 says nothing of its format (kernels/layout.py), while torch goes by its strides.
    says_nothing = weight_last and options["kernel_size"] == 1
    for x_format in (LAST,) if says_nothing else (torch.contiguous_format, LAST):
        x = torch.randn(2, channels, 6, 6, dtype=dtype).to(memory_format=x_format)
        for _ in range(2):
            y, expected = ours(x), stock(x)
            assert y.dtype == expected.dtype and y.shape == expected.shape
            assert y.is_contiguous() == expected.is_contiguous()
            assert y.is_contiguous(memory_format=LAST) == expected.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.5}]
)
def test_norms_are_torchs(activation, options, impl):
    stock = nn.Sequential(nn.BatchNorm2d(4, **options), ACTIVATIONS[activation]).double()
    for parameter in stock.parameters():
        nn.init.normal_(parameter)
    ours = BatchNormAct2d(4, activation=activation, negative_slope=0.2, impl=impl, **options)
    assert list(ours.state_dict()) == list(stock[0].state_dict())
    ours.load_state_dict(stock[0].state_dict())
    for training in (True, True, False, True):
        ours.train(training), stock.train(training)
        x = torch.randn(3, 4, 5, 6) * 3 + 1
        for last in (False, True):
            x = x.to(memory_format=LAST) if last else x
            mine, exact = gradients(ours, x), gradients(stock, x.double())
            torch.testing.assert_close([t.double() for t in mine], exact, rtol=1e-3, atol=1e-4)
            assert mine[0].is_contiguous(memory_format=LAST) == last
        for name, value in stock[0].state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name].to(value.dtype), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", IMPLS)
def test_second_derivatives(impl):
    stock = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.ConvTranspose2d(4, 3, 4, 2, 1)
    )
    ours, results = fuse(copy.deepcopy(stock), impl=impl), []
    for model, dtype in ((ours, torch.float32), (stock.double(), torch.float64)):
        x = torch.linspace(-1, 1, 100, dtype=dtype).view(2, 2, 5, 5).requires_grad_()
        (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        found = torch.autograd.grad(dx.square().sum(), [x, *model.parameters()], allow_unused=True)
        results.append([None if t is None else t.double() for t in (dx, *found)])
    for mine, exact in zip(*results, strict=True):
        assert (mine is None) == (exact is None) or not (exact or mine).any()  # of a bias that has none
        if mine is not None and exact is not None:
            assert (mine - exact).norm() <= 1e-3 * exact.norm() + 1e-4


@pytest.mark.parametrize("kind, stock_kind, options", [CASES[2], CASES[-3]])
def test_autocast_compile_copies_and_changes_in_place(kind, stock_kind, options):
    stock = stock_kind(4, 6, **options)
    ours = kind(4, 6, **options)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, 4, 6, 6).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours(x), stock(x)
    assert y.dtype == torch.bfloat16 and y.stride() == expected.stride()
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for again in (compiled, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(again(x), stock(x), rtol=1e-4, atol=1e-4)
    ours(x).sin_().sum().backward()
    stock(x).sin().sum().backward()
    torch.testing.assert_close(ours.weight.grad, stock.weight.grad, rtol=1e-3, atol=1e-3)


def test_the_size_may_be_chosen():
    ours, stock = (kind(2, 2, 3, 2, 1) for kind in (ConvTranspose2d, nn.ConvTranspose2d))
    ours.load_state_dict(stock.state_dict())
    for x in (torch.randn(1, 2, 3, 3), torch.randn(2, 3, 3)):
        torch.testing.assert_close(ours(x, [6, 5]), stock(x, [6, 5]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="requested an output size"):
        ours(x, output_size=[9, 9])


def test_a_call_that_is_stock_pytorchs_is_its_node():
    """All gradients too, also in bfloat16 and channels-last, for which only the weight's gradient is compiled."""
    choice.decisions.clear()
    x = torch.randn(16, 64, 8, 8).to(memory_format=LAST)
    for dtype in (torch.float32, torch.bfloat16):
        for layer in (Conv2d(64, 64, 3, 1, 1), Conv2d(64, 64, 4, 2, 1), ConvTranspose2d(64, 64, 4, 2, 1)):
            for _ in range(2):
                y = layer.to(dtype)(x.to(dtype).requires_grad_())
                assert type(y.grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.extension
def test_a_generators_last_convolution_is_compiled():
    """With few output channels this was measured to be faster, and includes the activation."""
    choice.decisions.clear()
    x = torch.randn(16, 64, 8, 8).to(memory_format=LAST)
    stock = nn.Sequential(nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh())
    ours = fuse(copy.deepcopy(stock))
    assert type(ours[0](x).grad_fn).__name__.startswith("conv_up")
    y = ours(x)
    assert type(y.grad_fn).__name__.startswith("fused_conv") and y.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(y, stock(x), rtol=1e-4, atol=1e-5)
    one_pixel = torch.randn(16, 100, 1, 1), torch.randn(100, 256, 4, 4).to(memory_format=LAST)
    choice.decisions.clear()
    assert type(conv_up(one_pixel[0], one_pixel[1].requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda layers: layers[0](3, 2, 3), (1, 4, 5, 5), r"expected input\[?.*\[1, 4, 5, 5\] to have 3 channels"),
        (lambda layers: layers[0](3, 2, 3), (5, 5), "5, 5"),
        (lambda layers: layers[0](3, 2, 3), (1, 3, 5, 5, 5), "5, 5, 5"),
        (lambda layers: layers[0](3, 2, 7), (1, 3, 5, 5), "[Kk]ernel"),
        (lambda layers: layers[1](3, 2, 3), (1, 4, 5, 5), r"expected input\[?.*\[1, 4, 5, 5\] to have 3 channels"),
        (lambda layers: layers[2](3), (1, 4, 5, 5), "running_mean|4 channels"),
        (lambda layers: layers[2](3), (3, 5, 5), r"expected 4D input \(got 3D input\)"),
        (lambda layers: layers[2](3), (1, 3, 1, 1), "Expected more than 1 value per channel when training"),
    ],
)
def test_what_torch_refuses_is_refused(make, shape, message):
    for layers in ((Conv2d, ConvTranspose2d, BatchNormAct2d), (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
        with pytest.raises((ValueError, RuntimeError), match=message):
            make(layers)(torch.randn(shape))


def test_arguments_that_make_no_layer():
    for make in (lambda: Conv2d(1, 1, 1, impl="fast"), lambda: ConvTranspose2d(1, 1, 1, impl="fast")):
        with pytest.raises(ValueError, match="impl must be one of"):
            make()
    with pytest.raises(ValueError, match="activation must be one of"):
        BatchNormAct2d(1, activation="mish")


def test_sync_batch_norm_takes_both_kinds(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        stock = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        ours = sync_batch_norm(fuse(copy.deepcopy(stock)))
        assert ours[1].is_synced
        x = torch.randn(2, 2, 3, 3)
        torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.state_dict(), stock.state_dict(), rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()
