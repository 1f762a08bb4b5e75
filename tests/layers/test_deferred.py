"""fastvgan.layers.deferred: norms and activations on load compute the same as the modules."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from fastvgan.layers import (
    BatchNormAct3d,
    Conv3d,
    ConvNormAct3d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    deferred,
    fuse,
)
from fastvgan.layers.deferred import Pending, chain, conv_act, conv_norm, resolve
from fastvgan_kernels import extension

LAST = {"memory_format": torch.channels_last_3d}
COMPILED = extension.load() is not None


class Generator(nn.Module):
    """Like a generator: two layers with deferred norms, and a last one with tanh."""

    def __init__(self):
        super().__init__()
        self.a = ConvTransposeNormAct3d(20, 18, 4)
        self.b = ConvTransposeNormAct3d(18, 17, 4, 2, 1, activation="leaky_relu", negative_slope=0.2)
        self.c = ConvTranspose3d(17, 3, 4, 2, 1)

    def forward(self, x):
        return conv_act(self.c, chain([self.a, self.b], x), "tanh")


class Stock(nn.Module):
    """The same network of torch.nn's modules, with the same parameter names."""

    def __init__(self):
        super().__init__()
        up = lambda *args: nn.ConvTranspose3d(*args, bias=False)  # noqa: E731
        self.a = nn.ModuleDict({"conv": up(20, 18, 4), "norm": nn.BatchNorm3d(18)})
        self.b = nn.ModuleDict({"conv": up(18, 17, 4, 2, 1), "norm": nn.BatchNorm3d(17)})
        self.c = nn.ConvTranspose3d(17, 3, 4, 2, 1)

    def forward(self, x):
        x = self.a["norm"](self.a["conv"](x)).relu()
        x = nn.functional.leaky_relu(self.b["norm"](self.b["conv"](x)), 0.2)
        return self.c(x).tanh()


def pair():
    """Return a Generator and a Stock of the same state, with no parameter at its initial 0 or 1."""
    stock = Stock()
    with torch.no_grad():
        for norm in (stock.a["norm"], stock.b["norm"]):
            for t in (norm.weight, norm.running_var):
                t.uniform_(0.5, 1.5)
            for t in (norm.bias, norm.running_mean):
                t.normal_()
    ours = Generator().to(**LAST)
    ours.load_state_dict(stock.state_dict())
    return ours, stock.to(**LAST)


def assert_near(name, mine, exact, tolerance):
    rms = lambda t: t.double().square().mean().sqrt().item()  # noqa: E731
    assert mine.shape == exact.shape, name
    error = rms(mine.detach().double() - exact.detach().double())
    assert error <= tolerance * (rms(exact) + 1e-3), f"{name}: {error:.3g} of {rms(exact):.3g}"


def assert_same_state(ours, stock, tolerance=1e-5):
    for (name, mine), (other, exact) in zip(ours.state_dict().items(), stock.state_dict().items(), strict=True):
        assert name == other and mine.dtype == exact.dtype
        assert_near(name, mine, exact, 0 if "num_batches" in name else tolerance)


def gradients(model, x, dy):
    model.zero_grad()
    y = model(x.clone().requires_grad_())
    (y.float() * dy).sum().backward()
    return y, {name: p.grad for name, p in model.named_parameters()}


def watch(called):
    return lambda module, *_: called.append(type(module).__name__) and None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_chain_is_the_stock_modules(training, bfloat16):
    ours, stock = pair()
    ours.train(training), stock.train(training)
    x, dy = torch.randn(16, 20, 1, 1, 1), torch.randn(16, 3, 16, 16, 16)
    for _ in range(2):  # the running statistics move on from those of the first
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y, grads = gradients(ours, x, dy)
        exact, wanted = gradients(stock, x, dy)
        assert y.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
        assert_near("y", y, exact, 0.02 if bfloat16 else 1e-5)
        for name, grad in grads.items():
            assert grad.dtype == torch.float32
            assert_near(name, grad, wanted[name], 0.1 if bfloat16 else 1e-3)
        assert_same_state(ours, stock, 0.02 if bfloat16 else 1e-5)
    assert ours.a.norm.num_batches_tracked == (2 if training else 0)


def rows(kind):
    """A stock network, and the shape of its input."""
    if kind == "norm":  # large enough for our own operation
        return nn.Sequential(nn.BatchNorm3d(8), nn.ReLU()), (8, 8, 32, 32, 32)
    up = nn.ConvTranspose3d(20, 18, 4), nn.BatchNorm3d(18), nn.ReLU(), nn.ConvTranspose3d(18, 17, 4, 2, 1)
    return nn.Sequential(*up), (4, 20, 1, 1, 1)


@pytest.mark.parametrize(
    "kind, impl", [("norm", "auto"), *itertools.product(("norm", "row"), ["reference"] + ["cpp"] * COMPILED)]
)
def test_an_evaluation_goes_backward_after_a_call_in_training(kind, impl):
    """The gradients are those of two networks: one stock network would read the changed running statistics.

    So do the small norms that auto leaves to stock PyTorch.
    """
    stock, shape = rows(kind)
    ours, other = fuse(copy.deepcopy(stock), impl=impl), copy.deepcopy(stock)
    x = torch.randn(shape)
    loss = lambda first, second: (first.eval()(x).square() + second.train()(x).square()).mean()  # noqa: E731
    loss(ours, ours).backward()
    loss(stock, other).backward()
    for p, first, second in zip(ours.parameters(), stock.parameters(), other.parameters(), strict=True):
        assert_near("gradient", p.grad, first.grad + second.grad, 1e-3)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_between_compiled_convolutions_the_norm_is_pending(bfloat16):
    ours, _ = pair()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for count in (1, 2):
            waiting = chain([ours.a, ours.b][:count], torch.randn(16, 20, 1, 1, 1))
            assert isinstance(waiting, Pending) == COMPILED
    assert resolve(waiting).min() < 0  # of leaky ReLU
    if COMPILED:
        assert waiting.norm.training and waiting.norm.activation == "leaky_relu"


def test_under_autocast_the_choice_is_that_for_its_dtype():
    """For contiguous tensors the choice differs between bfloat16 and float32."""
    layer, x = ConvTransposeNormAct3d(64, 64, 4), torch.randn(16, 64, 1, 1, 1)
    assert not isinstance(chain([layer], x), Pending)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(chain([layer], x), Pending) == COMPILED


def test_what_is_not_compiled_is_not_pending():
    """Deferring gains nothing for contiguous tensors, other implementations, or under a compiler."""
    layer, x = ConvTransposeNormAct3d(20, 18, 4), torch.randn(16, 20, 1, 1, 1)
    assert not isinstance(chain([layer], x), Pending)
    layer = ConvTransposeNormAct3d(20, 18, 4, impl="reference").to(**LAST)
    assert not isinstance(chain([layer], x), Pending)
    layer = ConvTransposeNormAct3d(20, 18, 4).to(**LAST).double()
    assert not isinstance(chain([layer], x.double()), Pending)


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
HOOKS += ["register_full_backward_pre_hook"]


@pytest.mark.parametrize("place", ["a", "a.conv", "a.norm", "b", "b.conv", "b.norm", "c"])
@pytest.mark.parametrize("kind", HOOKS)
def test_a_module_that_is_watched_by_a_hook_is_called(place, kind):
    ours, _ = pair()
    plain, called = copy.deepcopy(ours), []
    getattr(ours.get_submodule(place), kind)(watch(called))
    x, dy = torch.randn(16, 20, 1, 1, 1), torch.randn(16, 3, 16, 16, 16)
    y, grads = gradients(ours, x, dy)
    assert called == [type(ours.get_submodule(place)).__name__]
    exact, wanted = gradients(plain, x, dy)
    assert_near("y", y, exact, 1e-5)
    for name, grad in grads.items():
        assert_near(name, grad, wanted[name], 1e-3)
    assert_same_state(ours, plain)


def test_a_hook_for_all_modules_sees_all():
    ours, _ = pair()
    called = []
    handle = torch_module.register_module_forward_hook(watch(called))
    try:
        ours(torch.randn(16, 20, 1, 1, 1))
    finally:
        handle.remove()
    layer = ["ConvTranspose3d", "BatchNormAct3d", "ConvTransposeNormAct3d"]
    assert called == [*layer, *layer, "ConvTranspose3d", "Generator"]


def test_a_forward_of_ones_own_is_called():
    class Doubled(ConvTranspose3d):
        def forward(self, input):
            return 2 * super().forward(input)

    class Shifted(BatchNormAct3d):
        def forward(self, input):
            return super().forward(input) + 1

    x = torch.randn(16, 20, 1, 1, 1)
    norm = BatchNormAct3d(3).eval()
    conv, doubled = (kind(20, 3, 4).to(**LAST) for kind in (ConvTranspose3d, Doubled))
    doubled.load_state_dict(conv.state_dict())
    torch.testing.assert_close(resolve(conv_norm(doubled, norm, x)), norm(2 * conv(x)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resolve(conv_norm(conv, Shifted(3).eval(), x)), norm(conv(x)) + 1, rtol=1e-4, atol=1e-5)
    conv.forward = lambda input: torch.full((16, 3, 4, 4, 4), 7.0)
    torch.testing.assert_close(resolve(conv_norm(conv, norm, x)), norm(torch.full((16, 3, 4, 4, 4), 7.0)))


@pytest.mark.parametrize("impl", ["reference"] + ["cpp"] * COMPILED)
def test_a_single_value_a_channel_is_refused_as_batch_norm_refuses_it(impl):
    layer, x = ConvNormAct3d(2, 3, 2, impl=impl).to(**LAST), torch.randn(1, 2, 2, 2, 2)
    stock = nn.BatchNorm3d(3)
    for norm, call in ((layer.norm, lambda: layer(x)), (stock, lambda: stock(torch.randn(1, 3, 1, 1, 1)))):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            call()
        assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    layer.eval()(x)


@pytest.mark.parametrize("impl", ["reference"] + ["cpp"] * COMPILED)
@pytest.mark.parametrize(
    "kind, options, shape, message",
    [
        (ConvNormAct3d, {}, (2, 5, 4, 4, 4), "to have 3 channels, but got 5"),
        (ConvNormAct3d, {}, (2, 3, 2, 4, 4), "smaller than the kernel"),
        (ConvNormAct3d, {}, (2, 3, 2, 2, 2), "smaller than the kernel"),
        (ConvTransposeNormAct3d, {"padding": 4}, (2, 3, 2, 2, 2), "leaves no output"),
        (ConvTransposeNormAct3d, {"output_padding": 5}, (2, 3, 2, 2, 2), "output_padding 5 must be smaller"),
    ],
)
def test_what_a_convolution_refuses_a_fused_one_refuses(kind, options, shape, message, impl):
    with pytest.raises(ValueError, match=message):
        kind(3, 4, 3, impl=impl, **options)(torch.randn(shape))


def test_tracking_may_be_switched_on_for_a_norm_that_keeps_nothing():
    """torch.nn then still uses the batch's statistics, and keeps none."""
    conv, norm = (
        Conv3d(3, 4, 3, bias=False, impl="cpp" if COMPILED else "auto"),
        BatchNormAct3d(4, track_running_stats=False),
    )
    norm.track_running_stats = True
    x = torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(resolve(conv_norm(conv, norm, x)), norm(conv(x)), rtol=1e-4, atol=1e-4)


STATISTICS = [{"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}, {"affine": False}, {"eps": 0.1}]


@pytest.mark.parametrize("options", STATISTICS, ids=str)
@pytest.mark.parametrize("switched_off", [False, True])
def test_the_statistics_are_those_of_batch_norm(options, switched_off):
    """switched_off: torch.nn keeps and uses existing statistics without updates once track_running_stats is False."""
    conv, norm = ConvTranspose3d(20, 18, 4, bias=False).to(**LAST), BatchNormAct3d(18, activation="tanh", **options)
    stock_conv, stock = nn.ConvTranspose3d(20, 18, 4, bias=False), nn.BatchNorm3d(18, **options)
    stock_conv.load_state_dict(conv.state_dict())
    stock_conv.to(**LAST)
    following = ConvTranspose3d(18, 3, 4, 2, 1).to(**LAST)
    for i, training in enumerate((True, True, False, True, False)):
        if i == 2 and switched_off:
            norm.track_running_stats = stock.track_running_stats = False
        norm.train(training), stock.train(training)
        x = torch.randn(16, 20, 1, 1, 1) + i
        y = conv_norm(conv, norm, x)
        assert isinstance(y, Pending) == COMPILED
        exact = stock(stock_conv(x)).tanh()
        assert_near("y", resolve(y), exact, 1e-5)
        assert_near("next", conv_act(following, y, "tanh"), following(exact).tanh(), 1e-4)
        assert_same_state(norm, stock)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("training", [True, False])
def test_an_activation_that_no_convolution_computes_does_not_wait(activation, training):
    """Neither the norm's own activation, nor a container's, nor that of a layer within a chain."""
    conv, norm = Conv3d(20, 18, 3, bias=False).to(**LAST), BatchNormAct3d(18, activation=activation)
    stock = nn.Sequential(nn.Conv3d(20, 18, 3, bias=False), nn.BatchNorm3d(18)).to(**LAST)
    stock[0].load_state_dict(conv.state_dict())
    plain, following = BatchNormAct3d(18), Conv3d(18, 4, 1).to(**LAST)
    for module in (norm, plain, stock):
        module.train(training)
    x = torch.randn(4, 20, 5, 6, 7)
    act = getattr(nn.functional, activation)
    exact = act(stock(x))
    for y in (conv_norm(conv, norm, x), conv_norm(conv, plain, x, (activation, 0.0))):
        assert not isinstance(y, Pending)
        assert_near("y", y, exact, 1e-5)
        assert_near("next", conv_act(following, y, activation), act(following(exact)), 1e-4)
    assert_same_state(norm, stock[1]), assert_same_state(plain, stock[1])
    layer = ConvNormAct3d(20, 18, 3, activation=activation).to(**LAST).train(training)
    layer.conv, layer.norm = conv, norm
    assert_near("chain", resolve(chain([layer], x)), act(stock(x)), 1e-5)


def test_an_empty_batch_passes():
    impl = "cpp" if COMPILED else "auto"
    layer = ConvTransposeNormAct3d(20, 18, 4, impl=impl).to(**LAST)
    assert layer(torch.randn(0, 20, 1, 1, 1)).shape == (0, 18, 4, 4, 4)
    assert layer.norm.running_mean.eq(0).all()


@pytest.mark.parametrize("kind", [ConvNormAct3d, ConvTransposeNormAct3d])
@pytest.mark.parametrize("training", [True, False])
def test_layers_compile_without_a_graph_break(kind, training):
    layer = kind(20, 18, 4, 2, 1, activation="leaky_relu").to(**LAST).train(training)
    other, x = copy.deepcopy(layer), torch.randn(16, 20, 4, 4, 4).contiguous(**LAST)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    exact = other(x)
    assert_near("y", y, exact, 1e-5)
    for output in (y, exact):
        output.square().sum().backward()
    for (name, mine), wanted in zip(layer.named_parameters(), other.parameters(), strict=True):
        assert_near(name, mine.grad, wanted.grad, 1e-3)
    assert_same_state(layer, other)


@pytest.mark.parametrize("impl", ["reference"] + ["cpp"] * COMPILED)
@pytest.mark.parametrize("activation, slope", [("tanh", 0.0), ("leaky_relu", 0.2), ("leaky_relu", 0.0)])
def test_a_convolution_and_an_activation(impl, activation, slope):
    """Also for padding that fused_conv does not support and the module adds itself."""
    act = {"tanh": torch.tanh, "leaky_relu": lambda y: nn.functional.leaky_relu(y, slope)}[activation]
    x = torch.randn(2, 3, 4, 4, 4)
    for options in ({"padding": 1}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        conv, stock = Conv3d(3, 5, 3, impl=impl, **options), nn.Conv3d(3, 5, 3, **options)
        stock.load_state_dict(conv.state_dict())
        torch.testing.assert_close(conv_act(conv, x, activation, slope), act(stock(x)), rtol=1e-4, atol=1e-5)


def test_a_gradient_of_a_gradient_goes_through_what_is_pending():
    """R1 and the gradient penalty need it."""
    ours, stock = pair()

    def penalty(model, x):
        x = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), list(model.parameters()))

    x = torch.randn(16, 20, 1, 1, 1)
    for mine, exact in zip(penalty(ours, x), penalty(stock.double(), x.double()), strict=True):
        assert_near("second", mine, exact, 1e-2)


def test_every_mixture_of_layers_that_wait_and_layers_that_do_not():
    impls = ["reference"] + ["cpp"] * COMPILED
    x, results = torch.randn(2, 3, 4, 4, 4).contiguous(**LAST), []
    for a, b, c in itertools.product(impls, repeat=3):
        torch.manual_seed(0)
        layers = nn.ModuleList(
            [
                ConvNormAct3d(3, 4, 3, 1, 1, impl=a, activation="tanh"),
                ConvNormAct3d(4, 5, 3, 1, 1, impl=b, activation="leaky_relu"),
                ConvTransposeNormAct3d(5, 2, 3, 2, 1, 1, impl=c),
            ]
        ).to(**LAST)
        y = resolve(chain(layers, x))
        y.square().sum().backward()
        results.append([y, *(p.grad for p in layers.parameters()), *layers.buffers()])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-3)


def test_sizes_that_do_not_fit_are_one_clear_error_fused_or_not():
    last = {"memory_format": torch.channels_last_3d}
    layer = ConvNormAct3d(64, 128, 4, 2, 0).to(**last)
    for size in ((3, 3, 3), (5, 5, 3)):
        with pytest.raises(ValueError, match="smaller than the kernel"):
            layer(torch.randn(16, 64, *size).contiguous(**last))
    with pytest.raises(ValueError, match="to have 64 channels, but got 63"):
        layer(torch.randn(16, 63, 8, 8, 8).contiguous(**last))
    layer.norm = BatchNormAct3d(5)
    with pytest.raises((ValueError, RuntimeError), match="5"):
        layer(torch.randn(16, 64, 8, 8, 8).contiguous(**last))
    with pytest.raises(ValueError, match="not 'swish'"):
        deferred.conv_act(layer.conv, torch.randn(16, 64, 8, 8, 8), "swish")


@pytest.mark.extension
def test_a_norm_that_names_another_implementation_is_not_fused():
    layer = ConvNormAct3d(64, 128, 4, 2, 1).to(memory_format=torch.channels_last_3d)
    x = torch.randn(16, 64, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    assert isinstance(conv_norm(layer.conv, layer.norm, x), Pending)
    layer.norm.impl = "reference"
    assert isinstance(conv_norm(layer.conv, layer.norm, x), torch.Tensor)


@pytest.mark.extension
def test_autocast_converts_the_input_once(monkeypatch):
    layer = ConvNormAct3d(64, 128, 4, 2, 1).to(memory_format=torch.channels_last_3d)
    x, made = torch.randn(16, 64, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d), []
    cast = deferred._cast
    monkeypatch.setattr(deferred, "_cast", lambda x: made.append(x) or cast(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert len(made) == 1
