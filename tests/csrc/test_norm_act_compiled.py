"""The compiled norm_act on the CPU against float64 PyTorch, by the rule that its error is at most twice (gradients:
three times) that of stock PyTorch in the same dtype, plus a few roundings."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels.norm_act import compiled
from fastvgan_kernels.norm_act.protocol import Norm

pytestmark = pytest.mark.extension

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS = ["none", "relu", "leaky_relu", "tanh", "silu", "gelu"]
EPS, SLOPE = 1e-5, 0.2
NAMES = ("y", "mean", "var", "dx", "dweight", "dbias")


def poison(*tensors):
    """Fill freed memory, which the allocator reuses for results, with NaN, to find values that are never written."""
    for _ in range(2):
        blocks = [torch.full_like(tensor, math.nan) for tensor in tensors]
        del blocks


def activate(z, activation):
    if activation == "leaky_relu":
        return functional.leaky_relu(z, SLOPE)
    return z if activation == "none" else getattr(functional, activation)(z)


def stock(dy, x, weight, bias, mean, var, activation, dtype, residual=None):
    """y, mean, var, dx, dweight, dbias by PyTorch, computed in `dtype`; parameters in float32 at least.

    With a residual its gradient too.
    """
    wide = torch.promote_types(dtype, torch.float32)
    x = x.to(dtype).detach().requires_grad_()
    ones, zeros = torch.ones(x.shape[1], dtype=wide), torch.zeros(x.shape[1], dtype=wide)
    weight = (ones if weight is None else weight.to(wide)).clone().requires_grad_()
    bias = (zeros if bias is None else bias.to(wide)).clone().requires_grad_()
    training = mean is None
    count = x.numel() // x.shape[1]
    mean, var = (zeros.clone(), ones.clone()) if training else (mean.to(wide), var.to(wide))
    z = functional.batch_norm(x, mean, var, weight, bias, training, 1.0, EPS)
    leaves = x, weight, bias
    if residual is not None:
        residual = residual.to(dtype).detach().requires_grad_()
        z, leaves = z + residual, (*leaves, residual)
    y = activate(z, activation)
    grads = torch.autograd.grad(y, leaves, dy.to(dtype))
    biased = var * ((count - 1) / count)
    return (y.detach(), mean if training else None, biased if training else None, *grads)


def norm_act(x, weight, bias, mean, var, eps, activation, slope):
    return compiled.norm_act(x, Norm(mean, var, weight, bias, mean is None, eps, activation, slope))


def norm_act_backward(dy, x, weight, bias, mean, var, *how):
    return compiled.norm_act_backward(dy, x, Norm(mean, var, weight, bias, *how))


def norm_act_residual(x, residual, weight, bias, mean, var, eps, activation, slope):
    norm = Norm(mean, var, weight, bias, mean is None, eps, activation, slope)
    return compiled.norm_act_residual(x, residual, norm)


def norm_act_residual_backward(dy, x, residual, weight, bias, mean, var, *how):
    return compiled.norm_act_residual_backward(dy, x, residual, Norm(mean, var, weight, bias, *how))


def ours(dy, x, weight, bias, mean, var, activation):
    training = mean is None
    poison(x)
    y, batch_mean, batch_var = norm_act(x, weight, bias, mean, var, EPS, activation, SLOPE)
    assert batch_mean.numel() == batch_var.numel() == (x.shape[1] if training else 0)
    statistics = (batch_mean, batch_var) if training else (mean, var)
    poison(x)
    grads = norm_act_backward(dy, x, weight, bias, *statistics, training, EPS, activation, SLOPE)
    return (y, *(statistics if training else (None, None)), *grads)


def ours_with_residual(dy, x, weight, bias, mean, var, activation, residual):
    training = mean is None
    poison(x)
    y, *statistics = norm_act_residual(x, residual, weight, bias, mean, var, EPS, activation, SLOPE)
    statistics = statistics if training else (mean, var)
    poison(x, x)
    dx, d_residual, *rest = norm_act_residual_backward(
        dy, x, residual, weight, bias, *statistics, training, EPS, activation, SLOPE
    )
    return (y, *(statistics if training else (None, None)), dx, *rest, d_residual)


def assert_accurate(mine, theirs, exact, largest_term=0.0, typical_product=1.0):
    """`largest_term` of those whose difference dx is: where they cancel, their rounding remains."""
    for name, a, b, right in zip((*NAMES, "d_residual")[: len(mine)], mine, theirs, exact, strict=True):
        if right is None:
            assert a is None
            continue
        assert a.shape == right.shape, name
        assert torch.isfinite(a).all(), name
        scale = right.abs().max().item()
        error, allowed = ((t.double() - right).abs().max().item() for t in (a, b))
        unit = torch.finfo(a.dtype).eps
        times = 3 if name.startswith("d") else 2
        floor = 2 * unit * scale + 1e-6
        if name in ("dweight", "dbias"):
            # A sum of so many rounded terms of this size errs by this much; stock may be nearer by chance.
            # With a residual the terms are rounded to its gradient's dtype before, as stock's are.
            rounded = torch.finfo(mine[0].dtype).eps if len(mine) > len(NAMES) else 0.0
            floor += (unit + rounded) * math.sqrt(mine[0].numel() / right.numel()) * max(1.0, typical_product)
        if name == "dx":
            floor += torch.finfo(torch.float32).eps * largest_term
        assert error <= times * allowed + floor, f"{name}: {error} against {allowed} of stock"


def largest_term(dy, weight, bias, mean, var, batch_var):
    """The largest |dy * weight / √(var + eps)|: in training dx is the difference of three such terms."""
    factor = (batch_var if var is None else var).add(EPS).rsqrt() * (1 if weight is None else weight.abs())
    return (dy.abs() * factor.reshape(-1, *[1] * (dy.dim() - 2))).amax().item() if dy.numel() else 0.0


def typical_product(dy, x, mean, var, batch_mean, batch_var):
    """The root mean square of dy * (x - mean) / √(var + eps), whose sum is dweight, in its largest channel."""
    mean, var = (batch_mean, batch_var) if var is None else (mean, var)
    mean, factor = (t.reshape(-1, *[1] * (dy.dim() - 2)) for t in (mean, var.add(EPS).rsqrt()))
    products = (dy * (x - mean) * factor).transpose(0, 1).flatten(1)
    return products.square().mean(1).sqrt().amax().item() if dy.numel() else 0.0


def lay_out(x, layout):
    """x's values in that layout; "gaps" is neither of the dense ones."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "gaps":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), math.nan, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    return x.contiguous()


def problem(shape, dtype, seed=0, affine=True, training=True, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]

    def normal(*size):
        return torch.randn(size, generator=generator)

    x = (normal(*shape) * (1 + torch.arange(channels).reshape(-1, *[1] * (len(shape) - 2)) % 3) + offset).to(dtype)
    dy = normal(*shape).to(dtype)
    weight, bias = (normal(channels), normal(channels)) if affine else (None, None)
    mean, var = (None, None) if training else (normal(channels) + offset, normal(channels).square() + 0.1)
    return dy, x, weight, bias, mean, var


def near_kink(exact_problem, offset):
    """Where z is so small that rounding (of the mean, too) may put it on either side of an activation's kink."""
    z = stock(*exact_problem, "none", torch.float64)[0]
    return z.abs() < 1e-5 + 1e-6 * offset


def check(shape, dtype, activation, layout, seed=0, offset=0.0, **options):
    """Compare all results for one problem; `options` are problem's."""
    dy, x, *parameters = problem(shape, dtype, seed, offset=offset, **options)
    # At the kink the derivative jumps; no gradient is passed in there, so that both sides are right.
    dy = dy.masked_fill(near_kink((dy, x, *parameters), offset), 0)
    exact = stock(dy, x, *parameters, activation, torch.float64)
    x, dy = lay_out(x, layout), lay_out(dy, layout)
    theirs = stock(dy, x, *parameters, activation, dtype)
    mine = ours(dy, x, *parameters, activation)
    product = typical_product(dy, x, *parameters[2:], *exact[1:3])
    assert_accurate(mine, theirs, exact, largest_term(dy, *parameters, exact[2]), product)
    for result in (mine[0], mine[3]):
        assert result.dtype == dtype
        assert result.is_contiguous() == (layout == "gaps" or x.is_contiguous()) or x.numel() == 0


def check_residual(shape, dtype, activation, layout, residual_layout, seed=0, **options):
    """check, with a residual added before the activation."""
    dy, x, *parameters = problem(shape, dtype, seed, **options)
    residual = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    z = stock(dy, x, *parameters, "none", torch.float64, residual)[0]
    dy = dy.masked_fill(z.abs() < 1e-5, 0)
    exact = stock(dy, x, *parameters, activation, torch.float64, residual)
    x, dy, residual = lay_out(x, layout), lay_out(dy, layout), lay_out(residual, residual_layout)
    theirs = stock(dy, x, *parameters, activation, dtype, residual)
    mine = ours_with_residual(dy, x, *parameters, activation, residual)
    product = typical_product(dy, x, *parameters[2:], *exact[1:3])
    assert_accurate(mine, theirs, exact, largest_term(dy, *parameters, exact[2]), product)
    for result in (mine[0], mine[3], mine[-1]):
        assert result.dtype == dtype and (result.stride() == mine[0].stride() or x.numel() == 0)


SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17])


@settings(max_examples=120, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3, 5, 33]),
    channels=st.sampled_from([1, 2, 3, 4, 7, 16, 17, 33, 64, 100, 128]),
    space=st.lists(SIZES, max_size=3),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    layout=st.sampled_from(["contiguous", "channels_last", "gaps"]),
    affine=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_shape(batch, channels, space, dtype, activation, layout, affine, training, seed):
    count = batch * math.prod(space)
    if count == 1 and training:
        batch = 2
    check((batch, channels, *space), dtype, activation, layout, seed, affine=affine, training=training)


@settings(max_examples=80, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3, 5, 33]),
    channels=st.sampled_from([1, 2, 3, 7, 16, 33, 100]),
    space=st.lists(SIZES, max_size=3),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    layouts=st.tuples(*[st.sampled_from(["contiguous", "channels_last", "gaps"])] * 2),
    affine=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_shape_with_a_residual(batch, channels, space, dtype, activation, layouts, affine, training, seed):
    if batch * math.prod(space) == 1 and training:
        batch = 2
    check_residual((batch, channels, *space), dtype, activation, *layouts, seed, affine=affine, training=training)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets(instruction_set, dtype, activation, layout):
    for shape in [(5, 35, 3, 7, 5), (3, 3, 4, 5, 6), (2, 70, 70)]:
        for training in (True, False):
            check(shape, dtype, activation, layout, training=training)
            check_residual(shape, dtype, activation, layout, "contiguous", training=training)


@pytest.mark.parametrize("shape", [(2, 1500), (1, 3, 40, 45, 50), (700, 520), (1, 1, 100003), (9, 24, 5, 5, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_several_pieces(shape, layout):
    """Sizes at which a channel, a row or a run is cut into pieces."""
    check(shape, torch.float32, "relu", layout)


# A pass that reads and writes at least 24 MB stores its results past the caches if rows are aligned. Aligned columns,
# with and without a shorter last row; aligned runs, whole and in parts; and rows that are not aligned.
STREAMED = [
    ((33, 32, 15, 15, 17), "channels_last"),
    ((7, 5, 50, 50, 47), "channels_last"),
    ((4, 3, 64, 64, 80), "contiguous"),
    ((31, 100, 11, 11, 11), "channels_last"),
    ((30, 101, 11, 11, 11), "contiguous"),
]


@pytest.mark.parametrize("shape,layout", STREAMED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_results(shape, layout, dtype):
    if dtype.itemsize == 2:
        shape = (2 * shape[0], *shape[1:])
    assert 2 * math.prod(shape) * dtype.itemsize >= 24 << 20
    check(shape, dtype, "leaky_relu", layout)
    check_residual(shape, dtype, "leaky_relu", layout, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_values_per_channel_with_a_residual(instruction_set, dtype):
    """dx is almost 0 then: the rest of terms that cancel only if all are rounded in the same way."""
    for seed in range(3):
        check_residual((2, 1, 1), dtype, "silu", "contiguous", "contiguous", seed)


def test_large_results_with_each_instruction_set(instruction_set):
    for dtype in (torch.bfloat16, torch.float16):
        check((66, 32, 15, 15, 17), dtype, "leaky_relu", "channels_last")


def test_large_input_at_an_odd_address():
    dy, x, *parameters = problem((33, 32, 15, 15, 17), torch.float32)
    shifted = [torch.empty(t.numel() + 1)[1:].view_as(t).copy_(t) for t in (dy, x)]
    for mine, same in zip(ours(*shifted, *parameters, "tanh"), ours(dy, x, *parameters, "tanh"), strict=True):
        assert torch.equal(mine, same)


def test_results_in_several_threads():
    """Concurrent calls do not share memory for their large results."""
    inputs = [torch.full((16, 64, 12, 12, 12), float(i)) for i in range(4)]
    zero, one = torch.zeros(64), torch.ones(64)

    def run(x):
        return [norm_act(x, None, None, zero, one, 0.0, "none", SLOPE)[0] for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, inputs))
    assert all(torch.equal(y, x) for x, ys in zip(inputs, results, strict=True) for y in ys)
    assert len({y.data_ptr() for ys in results for y in ys}) == 16


def test_large_results_are_ordinary_tensors():
    x = torch.randn(16, 64, 12, 12, 12)
    y = norm_act(x, None, None, None, None, EPS, "relu", SLOPE)[0]
    before = y.clone()
    y.share_memory_()
    assert torch.equal(y, before)
    y = norm_act(x, None, None, None, None, EPS, "relu", SLOPE)[0]
    assert torch.equal(y.resize_(32, *x.shape[1:])[:16], before)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages on this system")
def test_large_results_ask_for_large_pages():
    y = norm_act(torch.randn(64, 64, 12, 12, 12), None, None, None, None, EPS, "relu", SLOPE)[0]
    middle = y.data_ptr() + y.numel() * y.element_size() // 2
    flags, inside = None, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if (mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)) is not None:
            inside = int(mapping[1], 16) <= middle < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line.split()[1:]
    assert flags is not None and "hg" in flags


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(16, 24, 4, 8, 8), (64, 40, 2, 3, 3)])
def test_large_mean(shape, layout):
    check(shape, torch.float32, "leaky_relu", layout, offset=1e4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_outlier_first(layout):
    """A first value far from all others does not cost the variance its precision."""
    dy, x, *parameters = problem((32, 8, 4, 8, 8), torch.float32)
    x[0, :, 0, 0, 0] = 1e6
    mine = ours(lay_out(dy, layout), lay_out(x, layout), *parameters, "none")
    exact = x.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(mine[1].double(), exact.mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(mine[2].double(), exact.var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(64, 48, 6, 6, 6), (8, 3, 33, 32, 31), (128, 16, 3, 3, 3)])
def test_same_bits_for_any_number_of_threads(shape, layout):
    arguments = [t if t is None else lay_out(t, layout) if t.dim() > 1 else t for t in problem(shape, torch.float32)]
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            results.append(ours(*arguments, "tanh"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4, 4), (2, 3, 0, 4, 4), (2, 0, 4), (0, 5)])
def test_nothing_to_do(shape):
    x = torch.empty(shape)
    y, mean, var = norm_act(x, None, None, None, None, EPS, "relu", SLOPE)
    assert y.shape == x.shape and mean.eq(0).all() and var.eq(0).all() and mean.shape == (shape[1],)
    dx, dweight, dbias = norm_act_backward(x, x, None, None, mean, var, True, EPS, "relu", SLOPE)
    assert dx.shape == x.shape and dweight.eq(0).all() and dbias.eq(0).all() and dbias.shape == (shape[1],)
    y, mean, var = norm_act_residual(x, x, None, None, None, None, EPS, "relu", SLOPE)
    assert y.shape == x.shape and mean.eq(0).all() and var.eq(0).all()
    made = norm_act_residual_backward(x, x, x, None, None, mean, var, True, EPS, "relu", SLOPE)
    assert made[0].shape == made[1].shape == x.shape and made[2].eq(0).all() and made[3].eq(0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_stay_visible(activation):
    """As in PyTorch, activations do not hide NaN and infinity."""
    x = torch.tensor([[math.nan, 1.0], [2.0, math.inf], [0.5, -1.0]])
    y = norm_act(x, None, None, torch.zeros(2), torch.ones(2), EPS, activation, SLOPE)[0]
    z = functional.batch_norm(x, torch.zeros(2), torch.ones(2), None, None, False, 0, EPS)
    expected = activate(z.double(), activation).float()  # in float32 torch's gelu of infinity is a NaN
    torch.testing.assert_close(y, expected, equal_nan=True)
    y, mean, var = norm_act(x, None, None, None, None, EPS, activation, SLOPE)
    assert torch.isnan(y).all() and torch.isnan(var).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conversions(instruction_set, dtype):
    """Every number of a half-precision dtype is read exactly, and results are rounded to nearest even."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    # The bfloat16 instruction treats subnormal numbers as zero.
    smallest = torch.finfo(dtype).tiny if instruction_set in ("amx", "avx512bf16") and dtype == torch.bfloat16 else 0
    numbers = bits[torch.isfinite(bits) & ((bits.abs() >= 4 * smallest) | (bits == 0))].reshape(-1, 1)
    one, zero = torch.ones(1), torch.zeros(1)
    y = norm_act(numbers, None, None, zero, one, 0.0, "none", SLOPE)[0]
    assert torch.equal(y, numbers)
    scaled = norm_act(numbers, torch.full((1,), 1 / 3), None, zero, one, 0.0, "none", SLOPE)[0]
    assert torch.equal(scaled, (numbers.float() * torch.tensor(1 / 3)).to(dtype))


def test_tanh_is_accurate(instruction_set):
    x = torch.cat([torch.linspace(-12, 12, 100001), torch.logspace(-30, 2, 2001), torch.tensor([0.0, -0.0])])
    y = norm_act(x.reshape(-1, 1), None, None, torch.zeros(1), torch.ones(1), 0.0, "tanh", SLOPE)[0].flatten()
    right = torch.tanh(x.double())
    assert ((y.double() - right).abs() <= 2e-7 * right.abs()).all()


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_silu_and_gelu_are_accurate(instruction_set, activation):
    """Also where they are next to nothing, up to where float32 ends; and their slopes beside the largest, about 1."""
    z = torch.cat([torch.linspace(-100, 100, 400001), torch.linspace(-6, 6, 100001), torch.tensor([0.0, -0.0])])
    z = z.reshape(-1, 1).requires_grad_()
    affine = (None, None, torch.zeros(1), torch.ones(1))
    y = norm_act(z, *affine, 0.0, activation, SLOPE)[0]
    dx = norm_act_backward(torch.ones_like(z), z, *affine, False, 0.0, activation, SLOPE)[0]
    exact = z.detach().double().requires_grad_()
    # torch's gelu computes 1 + erf, which has no digits left for large negative z.
    right = activate(exact, activation) if activation == "silu" else exact * 0.5 * torch.erfc(-exact * math.sqrt(0.5))
    right.sum().backward()
    # z²/2 is rounded before its exponential is computed.
    allowed = 5e-7 * right.detach().abs() * (1 + (activation == "gelu") * exact.detach().square() / 8)
    assert ((y.double() - right).abs() <= allowed + 1e-36).all()
    assert ((dx.double() - exact.grad).abs() <= 5e-7).all()
    assert torch.equal(torch.signbit(y), torch.signbit(z + 0.0))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_extremes_are_as_in_torch(instruction_set, activation):
    z = torch.tensor([math.inf, -math.inf, math.nan, 3e38, -3e38, 1e-45, -1e-45, 100.0, -100.0]).reshape(-1, 1)
    affine = (None, None, torch.zeros(1), torch.ones(1))
    theirs = z.double().requires_grad_()  # in float32 torch's gelu of infinity is a NaN
    expected = activate(theirs, activation)
    (slopes,) = torch.autograd.grad(expected.sum(), theirs)
    y = norm_act(z, *affine, 0.0, activation, SLOPE)[0]
    dx = norm_act_backward(torch.ones_like(z), z, *affine, False, 0.0, activation, SLOPE)[0]
    torch.testing.assert_close(y, expected.detach().float(), equal_nan=True)
    torch.testing.assert_close(dx, slopes.float(), equal_nan=True)


def test_codes_without_an_activation_are_refused():
    ops, x, zero, one = torch.ops.fastvgan_compiled, torch.randn(2, 3), torch.zeros(3), torch.ones(3)
    for code in (-1, len(ACTIVATIONS)):
        with pytest.raises(RuntimeError, match="unknown activation"):
            ops.norm_act(x, None, None, zero, one, EPS, code, SLOPE)
        with pytest.raises(RuntimeError, match="unknown activation"):
            ops.norm_act_backward(x, x, None, None, zero, one, False, EPS, code, SLOPE)


def test_other_dtypes_are_refused_with_a_reason():
    x = torch.randn(2, 3, dtype=torch.float64)
    assert "float64" in compiled.refusal(x)
    with pytest.raises(TypeError, match="float64"):
        norm_act(x, None, None, None, None, EPS, "none", SLOPE)
    assert "meta" in compiled.refusal(torch.empty(2, 3, device="meta"))
    assert compiled.refusal(x.float()) is None


def test_wrong_sizes_are_refused():
    x = torch.randn(2, 3, 4)
    with pytest.raises(RuntimeError, match="weight"):
        norm_act(x, torch.ones(4), None, None, None, EPS, "none", SLOPE)
    with pytest.raises(ValueError, match="residual"):
        norm_act_residual(x, x[:1], None, None, None, None, EPS, "none", SLOPE)
    with pytest.raises(ValueError, match="dy"):
        norm_act_backward(x[:1], x, None, None, torch.zeros(3), torch.ones(3), False, EPS, "none", SLOPE)
