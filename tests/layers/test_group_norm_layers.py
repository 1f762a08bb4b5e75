"""GroupNormAct and the InstanceNormActs against torch.nn's layers and an activation."""

import copy
import inspect
import pickle
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastvgan.layers import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d, deferred, fuse

ACT = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
INSTANCE = {4: (InstanceNormAct2d, nn.InstanceNorm2d), 5: (InstanceNormAct3d, nn.InstanceNorm3d)}
# Those that auto leaves to stock PyTorch, and those that it does not.
SIZES = {5: [(3, 4, 2, 3, 5), (2, 20, 7, 32, 33)], 4: [(3, 4, 7, 5), (2, 20, 90, 91)], 3: [(3, 4, 17)], 2: [(3, 20)]}
SHAPES = [shape for shapes in SIZES.values() for shape in shapes]
NORMALISED = [shape for shape in SHAPES if len(shape) > 3]


def make_group_norm(kind, *args, bias=True, **options):
    """Make a layer; torch 2.11's have no option `bias`, but work without the parameter."""
    if "bias" in inspect.signature(nn.GroupNorm).parameters:
        return kind(*args, bias=bias, **options)
    module = kind(*args, **options)
    if not bias:
        module.bias = None
    return module


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def lay_out(x, last):
    return x.contiguous(memory_format=FORMATS[x.dim()]) if last and x.dim() in FORMATS else x


def assert_same(ours, stock, act, x):
    """Check for equal outputs, gradients and buffers, in x's memory format; the stock layer computes in float64."""
    exact = copy.deepcopy(stock).double()
    mine, theirs = x.clone().requires_grad_(), x.double().contiguous().requires_grad_()
    y, expected = ours(mine), act(exact(theirs))
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    dy = torch.randn_like(expected)
    if isinstance(act, nn.ReLU | nn.LeakyReLU):
        dy[expected.abs() < 1e-4] = 0  # where a rounding decides which slope it is
    grads = [
        torch.autograd.grad(output, [given, *module.parameters()], dy.to(output.dtype))
        for output, given, module in ((y, mine, ours), (expected, theirs, exact))
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=2e-3)
    for a, b in zip(ours.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(a.to(b.dtype), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("activation", "options"),
    [("none", {}), ("relu", {"bias": False}), ("leaky_relu", {"affine": False, "eps": 1e-2}), ("tanh", {})],
)
def test_group_norm_act_is_torchs(shape, last, activation, options):
    ours = make_group_norm(GroupNormAct, 2, shape[1], activation=activation, negative_slope=0.2, **options)
    stock = randomise(make_group_norm(nn.GroupNorm, 2, shape[1], **options))
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    assert_same(ours, stock, ACT[activation], lay_out(torch.randn(shape) * 3 + 1, last))
    copy.deepcopy(stock).load_state_dict(ours.state_dict())


@pytest.mark.parametrize("shape", NORMALISED)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("leaky_relu", {}),
        ("none", {"affine": True, "eps": 1e-2}),
        ("relu", {"affine": True}),
        ("tanh", {"affine": True, "track_running_stats": True}),
        ("none", {"momentum": None, "track_running_stats": True}),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_instance_norm_act_is_torchs(shape, last, activation, options, batched):
    kind, torchs = INSTANCE[len(shape)]
    ours = kind(shape[1], activation=activation, negative_slope=0.2, **options)
    stock = randomise(torchs(shape[1], **options))
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    for training in (True, False, True):
        ours.train(training), stock.train(training)
        x = lay_out(torch.randn(shape) * 3 + 1, last)
        assert_same(ours, stock, ACT[activation], x if batched else x[0])
        stock.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_one_sample_has_right_gradients_whatever_the_format_of_the_next(dims, batched):
    """Stock PyTorch's are wrong: against the same in float64 and contiguous."""
    kind = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
    norm, x = fuse(kind(4, eps=0.01, affine=True, track_running_stats=True)), torch.randn(1, 4, *(5, 4, 6)[:dims])
    grad, results = torch.randn_like(x), []
    for dtype, layout in ((torch.float32, FORMATS[dims + 2]), (torch.float64, torch.contiguous_format)):
        module, leaf = copy.deepcopy(norm).to(dtype), x.to(dtype, copy=True).requires_grad_()
        given = grad.to(dtype).contiguous(memory_format=layout)
        module(leaf if batched else leaf[0]).backward(given if batched else given[0])
        results.append([t.double() for t in (leaf.grad, module.weight.grad, module.bias.grad)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tracks", [True, False])
def test_tracking_switched_over_after_construction(tracks):
    ours, stock = (kind(4, track_running_stats=not tracks) for kind in INSTANCE[5])
    ours.track_running_stats = stock.track_running_stats = tracks
    x = torch.randn(2, 4, 3, 5, 5) + 1
    for training in (True, False):
        ours.train(training), stock.train(training)
        if tracks and not training:
            for module in (ours, stock):
                with pytest.raises(RuntimeError, match="Expected running_mean and running_var to be defined"):
                    module(x)
            continue
        torch.testing.assert_close(ours(x), stock(x))
        torch.testing.assert_close(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda k: k(4), (1, 4, 1, 1, 1), ValueError, "Expected more than 1 spatial element when training"),
        (lambda k: k(4), (1, 4, 3, 3, 3, 3), ValueError, "expected 4D or 5D input"),
        (
            lambda k: k(4, affine=True),
            (1, 5, 3, 3, 3),
            ValueError,
            r"expected input's size at dim=1 to match num_features",
        ),
        (
            lambda k: k(4, affine=True),
            (5, 3, 3, 3),
            ValueError,
            r"expected input's size at dim=0 to match num_features",
        ),
        (lambda k: k(4)(None), None, AttributeError, "dim"),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_instance_norm_act_refuses_what_instance_norm_refuses(make, shape, error, message, ours):
    with pytest.raises(error, match=message):
        module = make(INSTANCE[5][not ours])
        module(torch.randn(shape))


def test_other_channels_than_announced_are_warned_of_without_parameters():
    x = torch.randn(2, 5, 3, 4, 4)
    ours, stock = INSTANCE[5][0](4, activation="relu"), nn.InstanceNorm3d(4)
    with pytest.warns(UserWarning, match="does not match num_features"):
        y = ours(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(y, stock(x).relu())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda k: k(3, 4), ValueError, "num_channels .* must be divisible by num_groups"),
        (lambda k: k(4, 4)(torch.randn(1, 4)), ValueError, "Expected more than 1 value per channel when training"),
        (lambda k: k(2, 4)(torch.randn(4)), RuntimeError, "Expected at least 2 dimensions"),
    ],
)
@pytest.mark.parametrize("kind", [GroupNormAct, nn.GroupNorm])
def test_group_norm_act_refuses_what_group_norm_refuses(make, error, message, kind):
    with pytest.raises(error, match=message):
        make(kind)


def test_more_dimensions_than_the_operation_takes():
    ours, stock, x = GroupNormAct(2, 4, activation="relu"), nn.GroupNorm(2, 4), torch.randn(2, 4, 2, 3, 2, 3)
    torch.testing.assert_close(ours(x), stock(x).relu())


@pytest.mark.parametrize("shape", [(0, 4, 3, 4, 4), (2, 4, 0, 4, 4)])
def test_of_no_values_there_are_none(shape):
    for ours, stock in ((GroupNormAct(2, 4), nn.GroupNorm(2, 4)), tuple(kind(4) for kind in INSTANCE[5])):
        assert ours(torch.zeros(shape)).shape == stock(torch.zeros(shape)).shape == shape


def modules():
    yield GroupNormAct(4, 20, activation="relu")
    yield InstanceNormAct3d(20, affine=True, activation="tanh")
    yield InstanceNormAct3d(20, track_running_stats=True, activation="leaky_relu")


@pytest.mark.parametrize("shape", SIZES[5])
def test_copies_compute_the_same(shape):
    shape = shape[0], 20, *shape[2:]
    for module in modules():
        x = torch.randn(shape)
        module(x)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert repr(other) == repr(module) and "activation=" in repr(module)
            torch.testing.assert_close(other.eval()(x), module.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("shape", [(2, 20, 3, 5, 5), (2, 20, 7, 32, 33)])
@pytest.mark.parametrize("last", [False, True])
def test_memory_format_is_kept(impl, shape, last):
    for module in (GroupNormAct(4, 20, impl=impl), InstanceNormAct3d(20, impl=impl, activation="relu")):
        x = lay_out(torch.randn(shape), last).requires_grad_()
        y = module(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x)
        assert y.stride() == dx.stride() == x.stride()


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("frozen", [None, "weight", "bias"])
@pytest.mark.parametrize("groups", [1, 8, 64])
@pytest.mark.parametrize("space", [(1, 1), (1, 4), (16, 16), (40, 40), (1, 1, 1), (4, 8, 8), (4, 16, 16)])
def test_parameters_alone_have_gradients(space, groups, frozen, activation):
    """Stock PyTorch 2.13 ends the process for a channels-last input: its backward writes a gradient that is missing.

    The shapes are on both sides of the sizes from which our own operation computes the norm.
    """
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[len(space)]
    x = torch.randn(2, 64, *space)
    ours, stock = fuse(nn.Sequential(nn.GroupNorm(groups, 64)))[0], nn.GroupNorm(groups, 64)
    if frozen is not None:
        getattr(ours, frozen).requires_grad_(False)
    if space[-1] == 1:  # torch's own call leaves the strides of one position
        channels_last = x.as_strided(x.shape, (64, 1, *[64] * len(space)))
    else:
        channels_last = x.to(memory_format=last)
    dy = torch.randn_like(x)
    for _ in range(2):
        ours.zero_grad()
        y = ours.normalise(channels_last, activation, 0.0)
        y.backward(dy)
        assert y.stride() == channels_last.stride() or space[-1] == 1
    expected = deferred.activate(stock(x), activation, 0.0)
    expected.backward(dy)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert (mine.grad is None) == (name == frozen)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    for module, stock in (
        (GroupNormAct(4, 20), nn.GroupNorm(4, 20)),
        (InstanceNormAct3d(20), nn.InstanceNorm3d(20)),
    ):
        for shape in ((2, 20, 3, 5, 5), (2, 20, 7, 32, 33)):
            x = torch.randn(shape, dtype=dtype)
            y = module.to(dtype)(x)
            assert y.dtype == dtype
            torch.testing.assert_close(y.double(), stock.double()(x.double()), rtol=0.02, atol=0.02)


def test_autocast_gives_stocks_dtypes():
    x = torch.randn(2, 20, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        for module, stock in (
            (GroupNormAct(4, 20), nn.GroupNorm(4, 20)),
            (InstanceNormAct3d(20), nn.InstanceNorm3d(20)),
        ):
            for given in (x, x.bfloat16()):
                assert module(given).dtype == stock(given).dtype
                torch.testing.assert_close(module(given), stock(given), rtol=0.02, atol=0.02)


def test_normalise_computes_another_activation_than_the_modules_own():
    x = torch.randn(2, 20, 3, 5, 5)
    for module in (GroupNormAct(4, 20), InstanceNormAct3d(20)):
        torch.testing.assert_close(
            module.normalise(x, "leaky_relu", 0.3), functional.leaky_relu(module(x), 0.3), rtol=1e-4, atol=1e-5
        )


@pytest.mark.extension
def test_large_inputs_go_through_the_extension(monkeypatch):
    compiled = sys.modules["fastvgan_kernels.group_norm_act.compiled"]
    calls, original = [], compiled.group_norm_act
    monkeypatch.setattr(compiled, "group_norm_act", lambda *args: calls.append(args[1].groups) or original(*args))
    for module in (GroupNormAct(4, 20, activation="relu"), InstanceNormAct3d(20, activation="relu")):
        module(torch.randn(2, 20, 16, 32, 32))
    assert calls == [4, 20]


@pytest.mark.gpu
def test_on_a_gpu_as_torchs_under_autocast_too():
    x = torch.randn(2, 20, 3, 8, 8, device="cuda")
    for module, stock in (
        (GroupNormAct(4, 20), nn.GroupNorm(4, 20)),
        (InstanceNormAct3d(20), nn.InstanceNorm3d(20)),
    ):
        module.cuda(), stock.cuda()
        torch.testing.assert_close(module(x), stock(x), rtol=1e-4, atol=1e-4)
        with torch.autocast("cuda", torch.bfloat16):
            for given in (x, x.bfloat16()):
                assert module(given).dtype == stock(given).dtype
                torch.testing.assert_close(module(given), stock(given), rtol=0.02, atol=0.02)
