"""group_norm_act against torch.nn.functional.group_norm and an activation, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan_kernels import choice, extension, group_norm_act

ACTIVATE = {
    "none": lambda y: y,
    "relu": functional.relu,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "tanh": torch.tanh,
}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
EPS = 1e-5


@pytest.fixture(params=["auto", "reference", pytest.param("cpp", marks=pytest.mark.extension)])
def impl(request):
    return request.param


@pytest.fixture(params=["amx", "avx512bf16", "avx512", "avx2", "portable"])
def instruction_set(request):
    if extension.load() is None:
        pytest.skip(extension.reason())
    facts = extension.facts()
    if request.param not in facts["cpu_instruction_sets"]:
        pytest.skip(f"this processor or build has no {request.param}")
    extension.load().use_instruction_set(request.param)
    yield
    extension.load().use_instruction_set(facts["cpu_instruction_set"])


def lay_out(x, layout):
    """x's values in that layout; "gaps" is neither of the dense ones."""
    if layout == "channels_last" and x.dim() in FORMATS:
        return x.contiguous(memory_format=FORMATS[x.dim()])
    if layout == "gaps":
        return torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    return x.contiguous()


def compute(function, x, weight, bias, dy):
    """y, dx and, where there are such, dweight and dbias."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    padded = iter(inputs)
    y = function(*(None if t is None else next(padded) for t in (x, weight, bias)))
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


def ours(x, groups, weight, bias, dy, activation, impl, eps=EPS):
    """Compute into memory that was NaN, so that a value that is never written is seen."""
    for _ in range(2):
        blocks = [torch.full_like(x, math.nan) for _ in range(2)]
        del blocks
    return compute(lambda x, w, b: group_norm_act(x, groups, w, b, eps, activation, 0.2, impl), x, weight, bias, dy)


def stock(x, groups, weight, bias, dy, activation, dtype, eps=EPS, keep_layout=False):
    """Compute by PyTorch, x in that dtype and contiguous, parameters in float32 at least.

    In channels-last it errs by more.
    """
    wide = torch.promote_types(dtype, torch.float32)
    # Parameters of float32 make its statistics float32 too.
    affine = [
        torch.full((x.shape[1],), value, dtype=wide) if t is None else t.to(wide)
        for value, t in ((1.0, weight), (0.0, bias))
    ]
    x, dy = (t.to(dtype) if keep_layout else t.to(dtype).contiguous() for t in (x, dy))
    function = lambda x, w, b: ACTIVATE[activation](functional.group_norm(x, groups, w, b, eps))  # noqa: E731
    results = compute(function, x, *affine, dy)
    given = [True, True, weight is not None, bias is not None]
    return [result for result, wanted in zip(results, given, strict=True) if wanted]


def assert_accurate(mine, theirs, exact, scale_of_terms):
    """By the rule that an error is at most twice (gradients: three times) stock's, plus a few roundings."""
    for i, (a, b, right) in enumerate(zip(mine, theirs, exact, strict=True)):
        assert a.shape == right.shape and torch.isfinite(a).all()
        error, allowed = ((t.double() - right).abs().max().item() if t.numel() else 0.0 for t in (a, b))
        floor = 2 * torch.finfo(a.dtype).eps * (right.abs().max().item() if right.numel() else 0.0) + 1e-6
        if i > 0:  # differences or sums of many terms of this size
            floor += 4 * torch.finfo(torch.float32).eps * scale_of_terms * (1 if i == 1 else math.sqrt(mine[0].numel()))
            floor += torch.finfo(a.dtype).eps * math.sqrt(mine[0].numel() / max(a.numel(), 1)) if i > 1 else 0.0
        assert error <= (2 if i == 0 else 3) * allowed + floor, f"result {i}: {error} against {allowed} of stock"


def problem(shape, groups, dtype, layout, affine, seed=0, offset=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 2 + offset).to(dtype)
    dy = torch.randn(shape, generator=generator).to(dtype)
    parameters = [torch.randn(shape[1], generator=generator) for _ in range(2)] if affine else [None, None]
    return lay_out(x, layout), groups, *parameters, lay_out(dy, layout)


def near_a_kink(x, groups, weight, bias, activation):
    """Whether a value that an activation treats one way might be rounded to one that it treats the other way."""
    if activation not in ("relu", "leaky_relu"):
        return False
    wide = [None if t is None else t.double() for t in (weight, bias)]
    z = functional.group_norm(x.double(), groups, *wide)
    return bool((z.abs() < 1e-5).any())


def largest_term(x, groups, weight, dy):
    """Of those whose difference dx is."""
    var = x.double().reshape(x.shape[0], groups, -1).var(-1, correction=0)
    return (1 if weight is None else weight.abs().max().item()) * dy.abs().max().item() / math.sqrt(var.min() + EPS)


def check(given, activation, impl):
    x, groups, weight, bias, dy = given
    mine = ours(*given, activation, impl)
    assert mine[0].dtype == mine[1].dtype == x.dtype
    if near_a_kink(x, groups, weight, bias, activation):
        exact = stock(*given, activation, torch.float64)
        torch.testing.assert_close(mine[0].double(), exact[0], rtol=0.05, atol=0.05)
        return
    theirs = stock(*given, activation, x.dtype, keep_layout=impl == "auto")
    exact = stock(*given, activation, torch.float64)
    if x.numel():
        assert_accurate(mine, theirs, exact, largest_term(x, groups, weight, dy))


def divisors(channels):
    return [g for g in range(1, channels + 1) if channels % g == 0]


@settings(max_examples=100)
@given(st.data())
def test_is_group_norm_and_activation(data):
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=3))
    batch, channels = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 6))
    groups = data.draw(st.sampled_from(divisors(channels)))
    shape = batch, channels, *sizes
    if batch * channels // groups * math.prod(sizes) == 1:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            group_norm_act(torch.randn(shape), groups)
        return
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    layout = data.draw(st.sampled_from(["contiguous", "channels_last", "gaps"]))
    activation, affine = data.draw(st.sampled_from(sorted(ACTIVATE))), data.draw(st.booleans())
    impls = ["auto", "reference", *(["cpp"] if extension.load() else [])]
    given = problem(shape, groups, dtype, layout, affine, data.draw(st.integers(0, 99)))
    check(given, activation, data.draw(st.sampled_from(impls)))


# Whole pieces, units of several groups and of one, rows and vectors with something left over, large enough for `auto`.
LARGE = [
    ((2, 32, 4, 16, 16), 8),
    ((2, 12, 5, 9, 17), 12),
    ((3, 10, 4, 40, 41), 5),
    ((1, 2, 8, 110, 90), 1),
    ((2, 70, 31, 33), 7),
    ((5, 48, 63), 16),
    ((300, 130), 13),
    ((1, 1, 3, 150, 149), 1),
]


@pytest.mark.parametrize(("shape", "groups"), LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large(shape, groups, dtype, layout, impl):
    check(problem(shape, groups, dtype, layout, affine=dtype is torch.float32), "tanh", impl)
    check(problem(shape, groups, dtype, layout, affine=dtype is not torch.float32), "none", impl)


@pytest.mark.parametrize("activation", sorted(ACTIVATE))
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_instruction_set(activation, layout, instruction_set):
    for shape, groups in (((2, 6, 3, 9, 5), 3), ((2, 24, 4, 10, 12), 24), ((3, 8, 5), 2)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check(problem(shape, groups, dtype, layout, affine=True), activation, "cpp")


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_slopes_of_a_large_problem(activation, impl):
    """With values that are far enough from the kink for gradients to be compared."""
    x, groups, weight, bias, dy = problem((2, 32, 4, 16, 16), 8, torch.float32, "channels_last", affine=True)
    z = functional.group_norm(x.double(), groups, weight.double(), bias.double())
    dy = torch.where(z.abs() > 1e-4, dy, 0.0).contiguous(memory_format=torch.channels_last_3d)
    given = x, groups, weight, bias, dy
    theirs = stock(*given, activation, torch.float32, keep_layout=impl == "auto")
    exact = stock(*given, activation, torch.float64)
    assert (z.abs() > 1e-4).double().mean() > 0.99
    assert_accurate(ours(*given, activation, impl), theirs, exact, largest_term(x, groups, weight, dy))


@pytest.mark.extension
@pytest.mark.parametrize(("shape", "groups"), [*LARGE, ((16, 8, 2, 64, 64), 4)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_same_bits_for_any_number_of_threads(shape, groups, layout):
    given = problem(shape, groups, torch.float32, layout, affine=True)
    runs = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        runs.append(ours(*given, "relu", "cpp"))
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("groups", [4, 8])
@pytest.mark.parametrize("space", [(2, 3, 4), (8, 16, 17)])
def test_large_offset_does_not_cancel(layout, groups, space, impl):
    if layout == "channels_last" and impl == "auto" and groups == 4:
        pytest.skip("auto takes stock PyTorch's channels-last kernel, which cancels")
    given = problem((2, 8, *space), groups, torch.float32, layout, affine=False, offset=1e4)
    (y, _), (exact, _) = ours(*given, "none", impl), stock(*given, "none", torch.float64)
    torch.testing.assert_close(y.double(), exact, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_not_finite_stays_in_its_group(layout, impl):
    x, groups, weight, bias, _ = problem((2, 8, 8, 16, 17), 4, torch.float32, layout, affine=True)
    clean = group_norm_act(x, groups, weight, bias, activation="relu", impl=impl)
    for value in (math.nan, math.inf):
        spoilt = x.clone()
        spoilt[1, 3, 2, 2, 2] = value
        y = group_norm_act(spoilt, groups, weight, bias, activation="relu", impl=impl)
        assert y[1, 2:4].isnan().all()
        y[1, 2:4] = clean[1, 2:4]
        torch.testing.assert_close(y, clean, rtol=0, atol=0)


def test_a_weight_of_zero_has_a_gradient(impl):
    x, groups, weight, bias, dy = problem((2, 8, 5, 16, 17), 2, torch.float32, "contiguous", affine=True)
    weight[3:5] = 0
    given = x, groups, weight, bias, dy
    theirs, exact = (stock(*given, "tanh", dtype) for dtype in (torch.float32, torch.float64))
    assert_accurate(ours(*given, "tanh", impl), theirs, exact, largest_term(x, groups, weight, dy))


@pytest.mark.parametrize("activation", sorted(ACTIVATE))
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives(activation, groups, affine):
    double = {"dtype": torch.float64}
    x = torch.randn(2, 4, 3, 1, **double, requires_grad=True)
    parameters = [torch.randn(4, **double, requires_grad=True) for _ in range(2)] if affine else []

    def function(x, weight=None, bias=None):
        return group_norm_act(x, groups, weight, bias, 1e-2, activation, 0.2)

    assert gradcheck(function, (x, *parameters), check_forward_ad=True)
    assert gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", ["none", "leaky_relu", "tanh"])
def test_gradient_penalty_in_float32_is_the_stock_one(activation, layout, impl):
    x, groups, weight, bias, _ = problem((2, 4, 3, 4, 5), 2, torch.float32, layout, affine=True)

    def penalty(function, dtype):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x.clone(), weight.clone(), bias.clone())]
        (dx,) = torch.autograd.grad(function(*inputs).square().sum(), inputs[0], create_graph=True)
        dx.square().sum().backward()
        return [t.grad.double() for t in inputs]

    mine = penalty(lambda x, w, b: group_norm_act(x, groups, w, b, EPS, activation, 0.2, impl), torch.float32)
    exact = penalty(lambda x, w, b: ACTIVATE[activation](functional.group_norm(x, groups, w, b)), torch.float64)
    torch.testing.assert_close(mine, exact, rtol=1e-3, atol=1e-3)


def test_forward_mode_is_stocks():
    x, groups, weight, bias, tangent = problem((2, 4, 3, 4, 5), 2, torch.float32, "channels_last", affine=True)
    given = [t.double() for t in (x, weight, bias)]
    tangents = [tangent.double(), torch.randn(4).double(), torch.randn(4).double()]
    mine = torch.func.jvp(lambda x, w, b: group_norm_act(x, groups, w, b, activation="tanh"), (*given,), (*tangents,))
    # Stock PyTorch's own rule wants them contiguous.
    given[0], tangents[0] = given[0].contiguous(), tangents[0].contiguous()
    expected = torch.func.jvp(
        lambda x, w, b: torch.tanh(functional.group_norm(x, groups, w, b)), (*given,), (*tangents,)
    )
    torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [4, 32])
def test_half_precision_has_float32_statistics(dtype, size):
    x = (torch.randn(2, 4, 8, size, size) + 30).to(dtype)
    y = group_norm_act(x, 4, activation="relu")
    exact = functional.group_norm(x.double(), 4).relu()
    torch.testing.assert_close(y.double(), exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [4, 32])
def test_gradients_have_the_dtypes_of_what_they_are_of(parameters, size):
    x = torch.randn(2, 4, 8, size, size, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = (torch.ones(4, dtype=parameters, requires_grad=True) for _ in range(2))
    group_norm_act(x, 2, weight, bias, activation="tanh").sum().backward()
    assert x.grad.dtype == torch.bfloat16 and weight.grad.dtype == bias.grad.dtype == parameters


@pytest.mark.parametrize("size", [4, 32])
@pytest.mark.parametrize("groups", [2, 8])
def test_layout_is_kept(size, groups, impl):
    last = {"memory_format": torch.channels_last_3d}
    x = torch.randn(2, 8, 3, size, size).contiguous(**last).requires_grad_()
    y = group_norm_act(x, groups, activation="relu", impl=impl)
    assert y.is_contiguous(**last)
    (dx,) = torch.autograd.grad(y, x, torch.ones(y.shape))
    assert dx.is_contiguous(**last)


@pytest.mark.parametrize("size", [4, 32])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_the_result_may_be_changed_in_place(size, activation):
    x = torch.randn(2, 8, 3, size, size, requires_grad=True)
    y = group_norm_act(x, 4, activation=activation)
    (changed,) = torch.autograd.grad(y.add_(1).sum() + y.square().sum(), x)
    y = group_norm_act(x, 4, activation=activation) + 1
    torch.testing.assert_close(changed, torch.autograd.grad(y.sum() + y.square().sum(), x)[0])


@pytest.mark.parametrize("size", [4, 32])
def test_no_gradient_is_made_that_nobody_wants(size):
    x, weight = torch.randn(2, 8, 3, size, size), torch.ones(8, requires_grad=True)
    with torch.no_grad():
        assert not group_norm_act(x, 4, weight).requires_grad
    y = group_norm_act(x, 4, weight, activation="relu")
    (grad,) = torch.autograd.grad(y, weight, torch.ones_like(y))
    exact = weight.detach().double().requires_grad_()
    z = functional.group_norm(x.double(), 4, exact).relu()
    torch.testing.assert_close(
        grad.double(), torch.autograd.grad(z, exact, torch.ones_like(z))[0], rtol=1e-4, atol=1e-3
    )
    assert not group_norm_act(x, 4).requires_grad


@pytest.mark.extension
def test_auto_takes_the_extension_where_it_is_faster_and_stock_elsewhere(monkeypatch):
    monkeypatch.delenv(choice.ENVIRONMENT, raising=False)
    small, large, pixels = torch.randn(2, 8, 2, 4, 4), torch.randn(4, 64, 8, 16, 16), torch.randn(256, 512, 2, 2, 2)

    def choose(x, groups, activation):
        return choice.name_of("group_norm_act", choice.pick("group_norm_act", "auto", x, groups, activation))

    assert choose(small, 2, "relu") == choose(large, 2, "none") == choose(pixels, 2, "relu") == "reference"
    assert choose(large.double(), 2, "relu") == "reference"
    assert choose(large, 2, "relu") == choose(large.bfloat16(), 64, "relu") == "cpp"
    last = large.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    assert choose(last, 64, "none") == "cpp"


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(size, dynamic):
    torch._dynamo.reset()
    x, weight = torch.randn(2, 8, 8, size, size, requires_grad=True), torch.rand(8, requires_grad=True)

    def function(x, weight):
        return group_norm_act(x, 4, weight, activation="leaky_relu").sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = [(y, *torch.autograd.grad(y.sum(), (x, weight))) for y in (compiled(x, weight), function(x, weight))]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_vmap_is_a_loop():
    x, weight = torch.randn(3, 2, 4, 5, 6), torch.rand(3, 4)
    mapped = torch.vmap(lambda x, w: group_norm_act(x, 2, w, activation="relu"))(x, weight)
    each = [group_norm_act(a, 2, b, activation="relu") for a, b in zip(x, weight, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(each))


def test_autocast_leaves_the_dtype():
    x = torch.randn(2, 4, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            y = group_norm_act(given, 2, torch.ones(4))
            assert y.dtype == functional.group_norm(given, 2, torch.ones(4)).dtype == given.dtype


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "swish"}, ValueError, "activation must be one of none, relu"),
        ({"weight": torch.ones(5)}, ValueError, r"expected input \[2, 6, 2\] to have 5 channels"),
        ({"bias": torch.ones(6, 1)}, ValueError, r"bias must be of shape \(6,\)"),
        ({"groups": 4}, ValueError, r"expected input \[2, 6, 2\] to have a multiple of 4 channels"),
        ({"groups": 0}, ValueError, "groups must be greater than zero, not 0"),
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, TypeError, "floating-point dtype"),
        ({"x": torch.zeros(6)}, ValueError, r"x must be \(N, C\) and up to 3 sizes"),
        ({"x": None}, TypeError, "x must be a Tensor, not NoneType"),
        ({"impl": "magic"}, ValueError, "impl must be one of"),
        ({"impl": "triton"}, ValueError, "group_norm_act has no triton implementation"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        group_norm_act(**{"x": torch.randn(2, 6, 2), "groups": 2, **options})


@pytest.mark.gpu
@pytest.mark.parametrize("activation", sorted(ACTIVATE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(activation, dtype):
    x, groups, weight, bias, dy = problem((2, 8, 4, 6, 6), 4, dtype, "channels_last", affine=True)
    given = x.cuda(), groups, weight.cuda(), bias.cuda(), dy.cuda()
    exact = stock(x, groups, weight, bias, dy, activation, torch.float64)
    tolerance = 1e-3 if dtype is torch.float32 else 0.05
    for impl in ("auto", "reference"):
        mine = [t.cpu().double() for t in ours(*given, activation, impl)]
        torch.testing.assert_close(mine[0], exact[0], rtol=tolerance, atol=tolerance)
        if not near_a_kink(x, groups, weight, bias, activation):
            torch.testing.assert_close(mine[1:], exact[1:], rtol=tolerance, atol=10 * tolerance)
