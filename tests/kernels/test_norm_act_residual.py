"""norm_act with a residual against stock PyTorch: batch norm, an addition and an activation."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_norm_act import ACTIVATE, FORMATS
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan.layers import BatchNormAct3d
from fastvgan_kernels import norm_act
from fastvgan_kernels.triton import support as triton_support

LAST = {"memory_format": torch.channels_last_3d}
compiled = pytest.mark.extension
interpreted = pytest.mark.skipif(not triton_support.is_interpreting(), reason="Triton does not interpret here")
IMPLS = [
    "auto",
    "reference",
    pytest.param("cpp", marks=compiled),
    pytest.param("triton", marks=[pytest.mark.triton, interpreted]),
]


def compute_expected(x, residual, weight, bias, mean, var, training, activation):
    return ACTIVATE[activation](functional.batch_norm(x, mean, var, weight, bias, training) + residual)


def compute_actual(x, residual, weight, bias, mean, var, training, activation, **options):
    how = {"activation": activation, "negative_slope": 0.2, "residual": residual, **options}
    return norm_act(x, weight, bias, mean, var, training, **how)


def lay_out(x, layout):
    if layout == "channels_last" and x.dim() in FORMATS:
        return x.contiguous(memory_format=FORMATS[x.dim()])
    if layout == "sliced":
        return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]
    return x


def passes(function, tensors, running, training, activation, dy=None):
    """y, the running statistics and all gradients, by copies of the tensors given."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    statistics = [t.clone() for t in running]
    y = function(*inputs, *[None] * (4 - len(inputs)), *statistics, training, activation)
    grads = () if dy is None else torch.autograd.grad(y, inputs, dy.to(y.dtype))
    return y.detach(), *statistics, *grads


@pytest.mark.parametrize("impl", IMPLS)
def test_any_shape(impl):
    @settings(max_examples=25 if impl == "triton" else 60, suppress_health_check=[HealthCheck.nested_given])
    @given(
        st.lists(st.integers(1, 4), max_size=3),
        st.integers(0, 4),
        st.sampled_from([1, 3, 18]),
        st.sampled_from(sorted(ACTIVATE)),
        st.booleans(),
        st.tuples(*[st.sampled_from(["contiguous", "channels_last", "sliced"])] * 2),
        st.booleans(),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    )
    def check(sizes, batch, channels, activation, training, layouts, affine, dtype):
        shape = batch, channels, *sizes
        x, residual = ((torch.randn(shape) * 2 + 1).to(dtype) for _ in range(2))
        if (training and x.numel() == channels) or (impl == "triton" and dtype is torch.bfloat16):
            return  # which is refused, the latter by Triton's interpreter
        if training and x.numel():
            # Close values lose digits in x - mean; test_norm_act_compiled.py tests two values per channel.
            var, mean = torch.var_mean(x.double(), [0, *range(2, x.dim())], correction=0)
            assume((var > 0.01 * mean.square()).all())
        vectors = [torch.randn(channels) for _ in range(2)] if affine else []
        running = torch.randn(channels), torch.rand(channels) + 0.5
        exact = [t.double() for t in (x, residual, *vectors)], [t.double() for t in running]
        z = compute_expected(*exact[0], *[None] * (2 - len(vectors)), *map(torch.clone, exact[1]), training, "none")
        dy = torch.randn(shape).to(dtype).masked_fill(z.abs() < 1e-2, 0)  # beside a kink a rounding decides
        ours = [lay_out(t, layout) for t, layout in zip((x, residual), layouts, strict=True)]
        options = training, activation, dy if x.numel() else None
        mine = passes(lambda *given: compute_actual(*given, impl=impl), [*ours, *vectors], running, *options)
        # On the same inputs: stock PyTorch's accuracy depends on memory formats, in bfloat16 by a factor of 100.
        theirs = passes(compute_expected, [*ours, *vectors], running, *options) if x.numel() else mine
        right = passes(compute_expected, *exact, *options) if x.numel() else (z, *exact[1])
        assert mine[0].dtype == dtype
        for i, (a, b, wanted) in enumerate(zip(mine, theirs, right, strict=True)):
            assert a.shape == wanted.shape
            if a.numel() == 0:
                continue
            error, allowed = ((t.double() - wanted).abs().max() for t in (a, b))
            # Of training, terms of dy's size cancel in dx, and few values' variance may be next to nothing.
            size = max(1, wanted.abs().max())
            floor = 16 * torch.finfo(a.dtype).eps * size * (10 if i > 2 else 1)
            # Gradients of parameters are float32, but of values that were rounded to dtype; stock's may cancel by luck.
            floor += torch.finfo(dtype).eps * size if i > 2 else 0
            assert error <= (3 if i > 2 else 2) * allowed + floor, f"{i}: {error:.3g}, stock {allowed:.3g}"

    check()


@pytest.mark.parametrize("activation", sorted(ACTIVATE))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives(activation, training, affine):
    double = {"dtype": torch.float64}
    x, residual = (torch.randn(3, 2, 2, 1, 2, **double, requires_grad=True) for _ in range(2))
    parameters = [torch.randn(2, **double, requires_grad=True) for _ in range(2)] if affine else []
    mean, var = torch.randn(2, **double), torch.rand(2, **double) + 0.5

    def function(x, residual, weight=None, bias=None):
        return compute_actual(x, residual, weight, bias, mean.clone(), var.clone(), training, activation)

    assert gradcheck(function, (x, residual, *parameters))
    assert gradgradcheck(function, (x, residual, *parameters))


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_penalty_in_float32_is_the_stock_one(impl):
    x, residual, weight, bias = torch.randn(4, 3, 2, 2, 2), torch.randn(4, 3, 2, 2, 2), torch.rand(3), torch.randn(3)

    def penalty(function):
        inputs = [t.clone().requires_grad_() for t in (x, residual, weight, bias)]
        y = function(*inputs)
        dx, dr = torch.autograd.grad(y.square().sum(), inputs[:2], create_graph=True)
        (dx.square().sum() + dr.square().sum()).backward()
        return [t.grad for t in inputs]

    mine = penalty(lambda *given: compute_actual(*given, None, None, True, "gelu", impl=impl))
    theirs = penalty(lambda *given: compute_expected(*given, None, None, True, "gelu"))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("size", [2, 20])
def test_only_some_gradients_are_wanted(needed, size):
    x, residual = (torch.randn(2, 3, size, size, size, requires_grad=n) for n in needed)
    y, stock = (
        compute_actual(x, residual, *[None] * 4, True, "relu"),
        compute_expected(x, residual, *[None] * 4, True, "relu"),
    )
    assert y.requires_grad == any(needed)
    wanted = [t for t in (x, residual) if t.requires_grad]
    for mine, theirs in zip(*(torch.autograd.grad(t.sum(), wanted) if wanted else () for t in (y, stock)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [3, 20])
def test_the_residual_may_be_the_input_itself(size):
    """Also where the result overwrites nothing that backward needs: it is changed in place afterwards."""
    x = torch.randn(2, 3, size, size, size, requires_grad=True)
    y, stock = compute_actual(x, x, *[None] * 4, True, "relu"), compute_expected(x, x, *[None] * 4, True, "relu")
    torch.testing.assert_close(y, stock, rtol=1e-4, atol=1e-5)
    grads = [torch.autograd.grad(t.sum(), x)[0] for t in (y.mul_(2), stock * 2)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_the_layer_is_torchs(size, options):
    """Of small and of large inputs, which different implementations serve."""
    ours, stock = BatchNormAct3d(4, activation="silu", **options), nn.BatchNorm3d(4, **options)
    for training in (True, True, False, True):
        ours.train(training), stock.train(training)
        x, residual = torch.randn(2, 4, size, size, size) * 3 + 1, torch.randn(2, 4, size, size, size).to(**LAST)
        wanted = functional.silu(stock(x) + residual)
        torch.testing.assert_close(ours(x, residual), wanted, rtol=1e-4, atol=1e-4)
        plain = ours.normalise(x, "none", 0.0, residual)
        torch.testing.assert_close(plain, stock(x) + residual, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.state_dict(), stock.state_dict(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [3, 20])
def test_compiled_traced_and_copied(size):
    layer = BatchNormAct3d(4, activation="gelu")
    x, residual = torch.randn(2, 2, 4, size, size, size).unbind()
    y = copy.deepcopy(layer)(x, residual)
    whole = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")(x, residual)
    torch.testing.assert_close(whole, y)
    traced = torch.jit.trace(copy.deepcopy(layer).eval(), (x, residual))
    torch.testing.assert_close(traced(x, residual), copy.deepcopy(layer).eval()(x, residual))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(copy.deepcopy(layer)(x, residual), y)
    mapped = torch.vmap(lambda r: norm_act(x, activation="relu", residual=r))(torch.stack([residual, x]))
    torch.testing.assert_close(mapped[1], norm_act(x, activation="relu", residual=x))


def test_checkpointing_moves_the_statistics_as_stock_does():
    from torch.utils.checkpoint import checkpoint

    x, residual = torch.randn(2, 2, 4, 20, 20, 20).unbind()

    def passes(function):
        given, statistics = x.clone().requires_grad_(), (torch.zeros(4), torch.ones(4))
        run = lambda x: function(x, residual, None, None, *statistics, True, "relu")  # noqa: E731
        checkpoint(run, given, use_reentrant=False).sum().backward()
        return *statistics, given.grad

    torch.testing.assert_close(passes(compute_actual), passes(compute_expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("residual", "error", "message"),
    [
        (torch.randn(2, 3, 1), ValueError, r"residual must be of x's shape \(2, 3, 2\), not \(2, 3, 1\)"),
        (torch.randn(2, 3, 2).double(), TypeError, "residual must be of x's dtype torch.float32, not torch.float64"),
        (torch.empty(2, 3, 2, device="meta"), ValueError, "residual is on meta but x is on cpu"),
        (1.0, TypeError, "residual must be a Tensor, not float"),
    ],
)
def test_wrong_residuals_are_refused(residual, error, message):
    for _ in range(2):  # the second time the choice of an implementation is remembered
        with pytest.raises(error, match=message):
            norm_act(torch.randn(2, 3, 2), residual=residual)
    norm_act(torch.randn(2, 3, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("activation", sorted(ACTIVATE))
def test_on_a_gpu(activation):
    x, residual = torch.randn(2, 4, 3, 2, 4, 4).unbind()
    inputs = [t.requires_grad_() for t in (x, residual)]
    on_gpu = [t.detach().cuda().requires_grad_() for t in inputs]
    y, other = (compute_actual(*given, *[None] * 4, True, activation) for given in (inputs, on_gpu))
    torch.testing.assert_close(other.cpu(), y, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(t.square().sum(), given) for t, given in ((y, inputs), (other, on_gpu))]
    torch.testing.assert_close([g.cpu() for g in grads[1]], list(grads[0]), rtol=1e-3, atol=1e-3)
