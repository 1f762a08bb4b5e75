"""fused_conv against float64 PyTorch: batch norm, activation, convolution, bias, activation, one after the other."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan_kernels import extension
from fastvgan_kernels.fused_conv import Geometry, Norm, fused_conv, pays

ACTIVATE = {
    "none": lambda y, slope: y,
    "relu": lambda y, slope: functional.relu(y),
    "leaky_relu": functional.leaky_relu,
    "tanh": lambda y, slope: torch.tanh(y),
}
EPS, IN_SLOPE, SLOPE = 1e-3, 0.2, 0.3
NORMS = (None, "batch", "running")  # none, by the statistics of x itself, or by given ones
compiled = pytest.mark.extension
IMPLS = ["reference", pytest.param("cpp", marks=compiled)]


@dataclass
class Case:
    """Inputs and the computation on them; the tensors are float64 leaves, exact in `dtype`."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    norm: str | None
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    running_mean: torch.Tensor
    running_var: torch.Tensor
    in_activation: str
    activation: str
    geometry: Geometry

    def _repr_pretty_(self, printer, cycle):  # what hypothesis prints of a failure
        values = {name: tuple(v.shape) if isinstance(v, torch.Tensor) else v for name, v in vars(self).items()}
        printer.text(f"Case({values}, strides={self.x.stride()})")

    @property
    def leaves(self):
        return {name: t for name, t in vars(self).items() if isinstance(t, torch.Tensor) and t.requires_grad}

    def plain(self, leaves):
        """(y, the convolution's output before the activation) by functions of torch.nn.functional."""
        x, weight, bias = leaves["x"], leaves["weight"], leaves.get("bias")
        if self.norm is not None:
            training = self.norm == "batch"
            statistics = (None, None) if training else (self.running_mean, self.running_var)
            affine = leaves.get("norm_weight"), leaves.get("norm_bias")
            x = ACTIVATE[self.in_activation](
                functional.batch_norm(x, *statistics, *affine, training, eps=EPS), IN_SLOPE
            )
        g = self.geometry
        if g.transposed:
            z = functional.conv_transpose3d(
                x, weight, bias, g.stride, g.padding, g.output_padding, g.groups, g.dilation
            )
        else:
            z = functional.conv3d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)
        return ACTIVATE[self.activation](z, SLOPE), z

    def run_fused(self, leaves, impl, statistics=False):
        norm = None
        if self.norm is not None:
            mean, var = self.running_mean, self.running_var
            if self.norm == "batch":
                var, mean = torch.var_mean(leaves["x"].detach().double(), [0, 2, 3, 4], correction=0)
            if leaves["x"].dtype != torch.float64:
                mean, var = mean.float(), var.float()
            affine = leaves.get("norm_weight"), leaves.get("norm_bias")
            norm = Norm(mean, var, *affine, self.norm == "batch", EPS, self.in_activation, IN_SLOPE)
        arguments = leaves["x"], leaves["weight"], leaves.get("bias"), self.geometry, norm
        return fused_conv(*arguments, self.activation, SLOPE, statistics, impl)

    def cast(self, dtype):
        """The leaves in that dtype and in the same memory formats; of the norm in float32 at least, as layers do it."""
        wide = torch.promote_types(dtype, torch.float32)
        return {
            name: t.detach().to(wide if name.startswith("norm_") else dtype).requires_grad_()
            for name, t in self.leaves.items()
        }


def make(
    transposed,
    activation="none",
    norm="batch",
    in_activation="relu",
    *,
    batch=2,
    channels=(3, 2),
    size=(2, 3, 2),
    kernel=(3, 2, 3),
    stride=(2, 2, 2),
    padding=(1, 0, 1),
    output_padding=(0, 0, 0),
    dilation=(1, 1, 1),
    groups=1,
    layout="contiguous",
    with_bias=True,
    affine=True,
    dtype=torch.float64,
):
    """A case of random values. What a padding leaves nothing of is made larger."""
    size = [
        max(n, (2 * p - e - d * (k - 1)) // s + 2) if transposed else max(n, d * (k - 1) + 1 - 2 * p, 1)
        for n, k, s, p, e, d in zip(size, kernel, stride, padding, output_padding, dilation, strict=True)
    ]
    inputs, outputs = (groups * c for c in channels)
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    fan_in = inputs // groups * torch.tensor(kernel).prod().item()
    exact = lambda t: t.to(dtype).double()  # noqa: E731
    x, weight = exact(torch.randn(batch, inputs, *size) * 2 + 1), exact(torch.randn(*shape, *kernel) / fan_in**0.5)
    if layout == "channels_last":
        x, weight = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, weight))
    has_affine = affine and norm is not None
    leaf = lambda wanted, t: t.requires_grad_() if wanted else None  # noqa: E731
    return Case(
        x.requires_grad_(),
        weight.requires_grad_(),
        leaf(with_bias, exact(torch.randn(outputs))),
        norm,
        leaf(has_affine, torch.randn(inputs).double()),
        leaf(has_affine, torch.randn(inputs).double()),
        torch.randn(inputs).double(),
        torch.rand(inputs).double() + 0.5,
        in_activation,
        activation,
        Geometry(transposed, stride, padding, output_padding if transposed else (0, 0, 0), dilation, groups),
    )


@st.composite
def cases(draw, transposed, activation, dtype):
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(3))  # noqa: E731
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    stride, dilation = each(1, 2), each(1, 2)
    return make(
        transposed,
        activation,
        draw(st.sampled_from(NORMS)),
        draw(st.sampled_from(sorted(ACTIVATE))),
        batch=draw(st.sampled_from([1, 20])),
        channels=(draw(st.sampled_from([1, 3, 17])), draw(st.sampled_from([1, 3, 17]))),
        size=each(1, 3),
        kernel=each(1, 4),
        stride=stride,
        padding=each(0, 2),
        output_padding=tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        dilation=dilation,
        groups=draw(st.sampled_from([1, 2])),
        layout=draw(st.sampled_from(["contiguous", "channels_last"])),
        with_bias=draw(st.booleans()),
        affine=draw(st.booleans()),
        dtype=dtype,
    )


def assert_near(name, mine, exact, tolerance, floor=0.0):
    """By the root of the mean square, which a single value beside an activation's kink does not decide."""
    assert mine.shape == exact.shape, name
    rms = lambda t: t.square().mean().sqrt().item()  # noqa: E731
    error, scale = rms(mine.detach().double() - exact), rms(exact) + floor
    assert error <= tolerance * scale, f"{name}: {error:.3g} of {scale:.3g}"


# Of outputs, of gradients.
TOLERANCE = {torch.float32: (1e-5, 1e-3), torch.float16: (3e-3, 0.02), torch.bfloat16: (0.02, 0.1)}


def check(case, impl, dtype):
    """Output, statistics and all gradients of a case."""
    # Of few values the batch's own variance is so small that nothing is left of a gradient.
    if case.norm == "batch" and case.x.numel() // case.x.shape[1] < 16:
        case.norm = "running"
    leaves = case.cast(dtype)
    y, mean, var = case.run_fused(leaves, impl, statistics=True)
    exact, raw = case.plain(case.leaves)
    tolerance, of_gradients = TOLERANCE[dtype]
    assert y.dtype == dtype and mean.dtype == var.dtype == torch.float32
    assert not mean.requires_grad and not var.requires_grad
    assert_near("y", y, exact, tolerance, floor=0.3)  # of what is added up, which may leave little
    exact_var, exact_mean = torch.var_mean(raw, [0, 2, 3, 4], correction=0)
    assert_near("mean", mean, exact_mean, tolerance, floor=0.3 + exact_var.mean().sqrt().item())
    assert_near("var", var, exact_var, 2 * tolerance, floor=0.1 + tolerance * exact_mean.square().mean().item())
    # Beside a kink of the activation a rounding decides which slope it has.
    dy = (torch.randn(exact.shape) * (raw.abs() > 2 * tolerance * raw.abs().max())).to(dtype)
    grads = torch.autograd.grad(y, list(leaves.values()), dy)
    wanted = torch.autograd.grad(exact, list(case.leaves.values()), dy.double())
    for name, grad, other in zip(leaves, grads, wanted, strict=True):
        assert grad.dtype == leaves[name].dtype
        # A parameter's gradient may be next to nothing where the many values that it is the sum of are not.
        terms = (case.x if name.startswith("norm_") else exact)[:, 0].numel()
        assert_near(name, grad, other, of_gradients, floor=0.5 if name == "x" else 0.25 * terms**0.5 + 0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATE))
def test_output_statistics_and_gradients_are_those_of_the_functions_one_by_one(activation, transposed, impl, dtype):
    @settings(max_examples=12, deadline=None)
    @given(cases(transposed, activation, dtype))
    def any_case(case):
        check(case, impl, dtype)

    any_case()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("activation, in_activation", [("none", "relu"), ("tanh", "leaky_relu"), ("relu", "tanh")])
def test_in_the_networks_geometry_on_a_batch(transposed, impl, activation, in_activation):
    """Kernel 4, stride 2, padding 1, more channels than fit one block, in float32."""
    size = (4, 4, 4) if transposed else (8, 8, 8)
    case = make(
        *(transposed, activation, "batch", in_activation),
        **{"batch": 20, "channels": (18, 34), "size": size, "kernel": (4, 4, 4), "padding": (1, 1, 1)},
        **{"layout": "channels_last", "dtype": torch.float32},
    )
    leaves = case.cast(torch.float32)
    y, mean, var = case.run_fused(leaves, impl, statistics=True)
    exact, raw = case.plain(case.leaves)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert_near("y", y, exact, 1e-5)
    assert_near("mean", mean, raw.mean([0, 2, 3, 4]), 1e-5)
    assert_near("var", var, raw.var([0, 2, 3, 4], correction=0), 1e-5)
    grads = torch.autograd.grad(y.square().sum(), list(leaves.values()))
    wanted = torch.autograd.grad(exact.square().sum(), list(case.leaves.values()))
    for name, grad, other in zip(leaves, grads, wanted, strict=True):
        assert_near(name, grad, other, 1e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_without_statistics_there_are_none(impl):
    case = make(True, dtype=torch.float32)
    y, mean, var = case.run_fused(case.cast(torch.float32), impl)
    assert mean is None and var is None
    assert_near("y", y, case.plain(case.leaves)[0], 1e-5)


def test_statistics_of_an_output_far_from_zero_do_not_cancel():
    for impl in ["reference"] + ["cpp"] * (extension.load() is not None):
        case = make(False, batch=20, dtype=torch.float32)
        leaves = case.cast(torch.float32) | {"bias": torch.full((2,), 1e3)}
        _, mean, var = case.run_fused(leaves, impl, statistics=True)
        _, raw = case.plain({k: v.double() for k, v in leaves.items()})
        assert_near("mean", mean, raw.mean([0, 2, 3, 4]), 1e-5)
        assert_near("var", var, raw.var([0, 2, 3, 4], correction=0), 1e-3)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("norm", [None, "running"])
@pytest.mark.parametrize(
    "activation, in_activation", [("tanh", "leaky_relu"), ("leaky_relu", "tanh"), ("relu", "none")]
)
def test_derivatives_of_first_and_second_order(transposed, norm, activation, in_activation):
    # An output_padding of a stride or more gives the data gradient one value too many, which is cut off.
    more = {"output_padding": (2, 0, 1), "dilation": (3, 1, 1)} if transposed else {}
    case = make(
        *(transposed, activation, norm, in_activation),
        **{"batch": 1, "channels": (2, 2), "size": (2, 2, 1), "kernel": (2, 1, 2), "padding": (1, 0, 0), "groups": 2},
        **more,
    )
    names = list(case.leaves)

    def function(*leaves):
        return case.run_fused(dict(zip(names, leaves, strict=True)), "auto")[0]

    assert gradcheck(function, tuple(case.leaves.values()))
    assert gradgradcheck(function, tuple(case.leaves.values()))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "impl, dtype", [("reference", torch.float64), pytest.param("cpp", torch.float32, marks=compiled)]
)
@pytest.mark.parametrize("in_activation, activation", [("tanh", "none"), ("leaky_relu", "tanh")])
def test_a_gradient_of_a_gradient_goes_through_the_batch_statistics(transposed, impl, dtype, in_activation, activation):
    """Which gradcheck cannot see: mean and var are given as constants, but stand for functions of x."""
    case = make(transposed, activation, "batch", in_activation, batch=6, dtype=dtype)

    def penalty(leaves, y):
        grads = torch.autograd.grad((y.square() * ramp).sum(), list(leaves.values()), create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), list(leaves.values()))

    exact = case.plain(case.leaves)[0]
    ramp = torch.linspace(-1, 1, exact[0].numel(), dtype=dtype).view(exact.shape[1:])  # or batch norm cancels much
    wanted = penalty(case.leaves, exact)
    leaves = case.cast(dtype)
    for name, mine, other in zip(leaves, penalty(leaves, case.run_fused(leaves, impl)[0]), wanted, strict=True):
        assert_near(name, mine, other, 1e-10 if dtype is torch.float64 else 1e-4)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_under_autocast_a_weights_gradient_is_float32_and_is_not_rounded(transposed, impl):
    case = make(
        transposed,
        "tanh",
        "batch",
        "relu",
        batch=20,
        channels=(17, 18),
        kernel=(4, 4, 4),
        size=(4, 4, 4),
        dtype=torch.float32,
    )
    leaves = case.cast(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, mean, _ = case.run_fused(leaves, impl, statistics=True)
    exact = case.plain(case.leaves)[0]
    assert y.dtype == torch.bfloat16 and mean.dtype == torch.float32
    assert_near("y", y, exact, 0.02)
    dy = torch.randn(y.shape).bfloat16()
    wanted = torch.autograd.grad(exact, list(case.leaves.values()), dy.double())
    grads = torch.autograd.grad(y, list(leaves.values()), dy)
    for name, grad, other in zip(leaves, grads, wanted, strict=True):
        assert grad.dtype == torch.float32
        assert_near(name, grad, other, 0.06)
    if impl == "cpp":  # the reference has stock PyTorch's, which computes it in bfloat16
        weight_grad = grads[list(leaves).index("weight")]
        assert not torch.equal(weight_grad.bfloat16().float(), weight_grad)


def test_the_layout_follows_x_or_the_weight():
    last = {"memory_format": torch.channels_last_3d}
    for impl in ["reference"] + ["cpp"] * (extension.load() is not None):
        for layout in ("contiguous", "channels_last"):
            case = make(False, size=(4, 4, 4), layout=layout, dtype=torch.float32)
            leaves = case.cast(torch.float32)
            y = case.run_fused(leaves, impl)[0]
            assert y.is_contiguous(**last) == (layout == "channels_last")
            (dx,) = torch.autograd.grad(y.sum(), leaves["x"])
            assert dx.is_contiguous(**last) == (layout == "channels_last")


@pytest.mark.parametrize("channels", [1, 2])
def test_the_fake_kernel_says_what_the_kernel_does(channels):
    """Strides, dtypes and sizes; of a single channel the stride is what tells the layout."""
    # Of a single voxel it is the weight that tells it.
    for layout, size in itertools.product(("contiguous", "channels_last"), ((4, 4, 4), (1, 1, 1))):
        case = make(True, channels=(3, channels), size=size, padding=(0, 0, 0), layout=layout, dtype=torch.float32)
        leaves, fakes = case.cast(torch.float32), {}
        mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
        real = case.run_fused(leaves, "auto", statistics=True)
        with mode:
            fakes = {name: mode.from_tensor(t) for name, t in leaves.items()}
            fake = case.run_fused(fakes, "auto", statistics=True)
        for mine, other in zip(real, fake, strict=True):
            assert (mine.shape, mine.stride(), mine.dtype) == (other.shape, other.stride(), other.dtype)


@pytest.mark.parametrize("norm", NORMS)
def test_compiles_without_a_graph_break(norm):
    case = make(True, "leaky_relu", norm, dtype=torch.float32)
    function = torch.compile(
        lambda leaves: case.run_fused(leaves, "auto", statistics=True), fullgraph=True, backend="aot_eager"
    )
    leaves = case.cast(torch.float32)
    y, mean, var = function(leaves)
    expected = case.run_fused(leaves, "auto", statistics=True)
    torch.testing.assert_close((y, mean, var), expected, rtol=1e-4, atol=1e-4)
    grads = torch.autograd.grad(y.square().sum(), list(leaves.values()))
    wanted = torch.autograd.grad(expected[0].square().sum(), list(leaves.values()))
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-4)


def test_it_pays_where_the_convolution_is_compiled():
    last = {"memory_format": torch.channels_last_3d}
    geometry = Geometry(True, (2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1))
    x, weight = torch.randn(16, 32, 4, 4, 4).to(**last), torch.randn(32, 16, 4, 4, 4).to(**last)
    assert not pays(x, weight, geometry, "reference")
    assert pays(x, weight, geometry, "auto") == (extension.load() is not None)
    assert not pays(x.double(), weight.double(), geometry, "auto")


NORM = Norm(torch.zeros(2), torch.ones(2), None, None, False, 1e-5, "relu", 0.0)
DOWN = Geometry(False, (1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "gelu"}, ValueError, "activation must be one of none, relu, leaky_relu, tanh, not 'gelu'"),
        ({"norm": NORM._replace(activation="silu")}, ValueError, "the norm's activation must be one of .*, not 'silu'"),
        ({"activation": "leaky_relu", "negative_slope": -0.1}, ValueError, "negative_slope must be at least 0 .*-0.1"),
        ({"norm": NORM._replace(mean=torch.zeros(3))}, ValueError, r"must be of shape \(2,\)"),
        ({"norm": NORM._replace(var=torch.ones(1))}, ValueError, r"must be of shape \(2,\)"),
        ({"norm": NORM._replace(weight=torch.ones(2, 1))}, ValueError, r"must be of shape \(2,\)"),
        ({"norm": NORM._replace(bias=torch.ones(4))}, ValueError, r"must be of shape \(2,\)"),
        ({"impl": "magic"}, ValueError, "impl must be one of auto, reference"),
        ({"weight": torch.randn(2, 2, 3, 3, 3).double()}, TypeError, "weight is torch.float64 but x torch.float32"),
        ({"x": torch.ones(2, 2, 4, 4, 4).int()}, TypeError, "floating-point"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(options, error, message):
    arguments = {"x": torch.randn(2, 2, 4, 4, 4), "weight": torch.randn(2, 2, 3, 3, 3), "bias": None, "geometry": DOWN}
    with pytest.raises(error, match=message) as caught:
        fused_conv(**(arguments | options))
    assert "\n" not in str(caught.value)


def test_a_negative_slope_that_is_not_used_is_not_looked_at():
    x, weight = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 3, 3, 3)
    fused_conv(x, weight, None, DOWN, activation="relu", negative_slope=-1.0)
