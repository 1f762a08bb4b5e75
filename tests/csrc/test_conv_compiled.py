"""The compiled convolutions on the CPU against float64 PyTorch, by the rule that their error is at most twice
(weight gradients: three times) that of stock PyTorch in the same dtype, plus a few roundings.

For stock PyTorch stands its own float32 result without oneDNN, rounded. That is at least as accurate in half precision,
and oneDNN's convolutions are wrong or crash for some of these shapes on processors with AMX (torch 2.13).
"""

import math
import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels.conv import compiled, reference
from fastvgan_kernels.conv.fusion import Fusion
from fastvgan_kernels.conv.geometry import Geometry
from fastvgan_kernels.conv.stock import faults

pytestmark = pytest.mark.extension

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAST = Geometry(True, [2] * 3, [1] * 3, [0] * 3, [1] * 3)


class Case:
    """A transposed convolution from `small` to `large`, or read backwards a convolution, drawn from a seed."""

    def __init__(self, seed, dtype):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.dims = draw.randint(1, 3)
        self.groups = draw.choice([1, 1, 2, 3])
        each = lambda low, high: [draw.randint(low, high) for _ in range(self.dims)]  # noqa: E731
        self.kernel = each(1, {1: 7, 2: 5, 3: 4}[self.dims])
        self.stride, self.dilation, small = each(1, 4), each(1, 3), each(1, 5)
        self.extra = [draw.randint(0, max(s, d) - 1) for s, d in zip(self.stride, self.dilation, strict=True)]
        least = [
            (n - 1) * s + d * (k - 1) + e
            for n, s, d, k, e in zip(small, self.stride, self.dilation, self.kernel, self.extra, strict=True)
        ]
        self.padding = [draw.randint(0, min(3, n // 2)) for n in least]
        large = [n + 1 - 2 * p for n, p in zip(least, self.padding, strict=True)]
        batch = draw.choice([0, 1, 2, 3, 7, 9, 14, 33])
        channels = [self.groups * draw.choice([1, 2, 3, 5, 8, 17, 33]) for _ in range(2)]
        layout = draw.choice(["channels_last", "contiguous", "sliced"])
        self.small = arrange(torch.randn(batch, channels[0], *small).to(dtype), layout)
        self.large = arrange(torch.randn(batch, channels[1], *large).to(dtype), layout)
        weight = torch.randn(channels[0], channels[1] // self.groups, *self.kernel).to(dtype)
        self.weight = arrange(weight, draw.choice(["channels_last", "contiguous", "swapped"]))
        self.up_bias, self.down_bias = (
            draw.choice([None, torch.randn(count).to(dtype)]) for count in (channels[1], channels[0])
        )

    @property
    def terms(self):
        return max(self.weight[0].numel(), self.weight[:, 0].numel(), self.small[:, 0].numel())

    def up(self, functions, cast):
        arguments = (self.stride, self.padding, self.extra, self.dilation, self.groups)
        return functions.conv_up(cast(self.small), cast(self.weight), cast(self.up_bias), *arguments)

    def down(self, functions, cast):
        arguments = (self.stride, self.padding, self.dilation, self.groups)
        return functions.conv_down(cast(self.large), cast(self.weight), cast(self.down_bias), *arguments)

    def weight_grad(self, functions, cast):
        arguments = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return functions.conv_weight_grad(cast(self.large), cast(self.small), *arguments)


def arrange(x, layout):
    """Return the same values in another memory layout."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "swapped":  # the first dimension innermost
        return x.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "sliced":
        return torch.stack([x, torch.full_like(x, math.nan)], -1).flatten(-2)[..., ::2]
    return x


def poison(*sizes):
    """Fill freed memory, which the allocator reuses for results, with NaN, to find values that are never written."""
    for _ in range(2):
        blocks = [torch.full((size,), math.nan) for size in sizes]
        del blocks


def double(x):
    return None if x is None else x.double()


def single(x):
    return None if x is None else x.float()


def stock(operation, case, dtype):
    """As accurate as stock PyTorch can be in the dtype."""
    names = "conv_up_fails", "conv_down_fails", "conv_weight_grad_fails"
    never = {name: lambda *_: False for name in names}  # without oneDNN
    with torch.backends.mkldnn.flags(enabled=False), mock.patch.multiple(faults, **never):
        return operation(case, reference, single).to(dtype)


def assert_accurate(mine, theirs, exact, factor, terms=0):
    """Error at most `factor` times stock's and a few roundings, each as a root mean square and at its largest.

    Each value is a sum of at most so many terms.
    """
    assert mine.shape == exact.shape and mine.dtype == theirs.dtype
    if exact.numel() == 0:
        return
    rounding = torch.finfo(mine.dtype).eps * exact.abs().max()
    # The error of a float32 sum grows with the root of its length; which order of summation is best is chance.
    roundings = 4 + (terms**0.5 if mine.dtype == torch.float32 else 0)
    for norm in (lambda e: e.square().mean().sqrt(), lambda e: e.abs().max()):
        error, allowed = norm(mine.double() - exact), norm(theirs.double() - exact)
        assert error <= factor * allowed + roundings * rounding, f"{error:.3g}, stock {allowed:.3g}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation, factor", [(Case.up, 2), (Case.down, 2), (Case.weight_grad, 3)])
def test_error_is_near_that_of_stock_pytorch(instruction_set, operation, factor, dtype):
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        case = Case(seed, dtype)
        exact = operation(case, reference, double)
        poison(exact.numel(), 2 * exact.numel())
        assert_accurate(
            operation(case, compiled, lambda x: x), stock(operation, case, dtype), exact, factor, case.terms
        )

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "batch, small_channels, large_channels, size",
    [(64, 40, 3, 3), (64, 3, 40, 3), (65, 1, 1, 2), (1, 70, 66, 3), (9, 256, 1, 1), (30, 34, 65, 4)],
)
def test_the_networks_shapes(instruction_set, dtype, batch, small_channels, large_channels, size):
    """Kernel 4, stride 2, padding 1, with the first and last layers' few channels and single voxels."""
    case = Case(0, dtype)
    case.kernel, case.stride, case.padding, case.extra, case.dilation = [4] * 3, [2] * 3, [1] * 3, [0] * 3, [1] * 3
    case.groups, case.up_bias, case.down_bias = 1, torch.randn(large_channels).to(dtype), None
    case.small = arrange(torch.randn(batch, small_channels, *[size] * 3).to(dtype), "channels_last")
    case.large = arrange(torch.randn(batch, large_channels, *[2 * size] * 3).to(dtype), "channels_last")
    case.weight = torch.randn(small_channels, large_channels, 4, 4, 4).to(dtype)
    for operation, factor in ((Case.up, 2), (Case.down, 2), (Case.weight_grad, 3)):
        exact = operation(case, reference, double)
        assert_accurate(
            operation(case, compiled, lambda x: x), stock(operation, case, dtype), exact, factor, case.terms
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_gradient_whose_rows_outgrow_the_cache(instruction_set, dtype):
    torch.manual_seed(0)
    case = Case(0, dtype)
    case.kernel, case.stride, case.padding, case.dilation, case.groups = [1, 3, 3], [1] * 3, [0, 1, 1], [1] * 3, 1
    case.large = arrange(torch.randn(33, 40, 2, 9, 16).to(dtype), "channels_last")
    case.small = arrange(torch.randn(33, 300, 2, 9, 16).to(dtype), "channels_last")
    exact, terms = Case.weight_grad(case, reference, double), case.small[:, 0].numel()
    mine = Case.weight_grad(case, compiled, lambda x: x)
    assert_accurate(mine, stock(Case.weight_grad, case, dtype), exact, 3, terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_gradient_of_whole_tiles_in_float32(instruction_set, groups, dtype):
    """Such a gradient is added up in place."""
    torch.manual_seed(0)
    large = arrange(torch.randn(17, 64 * groups, 4, 4, 4).to(dtype), "channels_last")
    small = arrange(torch.randn(17, 96 * groups, 2, 2, 2).to(dtype), "channels_last")
    arguments = [4] * 3, [2] * 3, [1] * 3, [1] * 3, groups
    exact = reference.conv_weight_grad(large.double(), small.double(), *arguments)
    poison(exact.numel(), 2 * exact.numel())
    mine = compiled.conv_weight_grad(large, small, *arguments, in_float32=True)
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4)


def fused_in_float64(x, weight, bias, fusion):
    if fusion.scale is not None:
        shape = (1, -1, 1, 1, 1)
        x = x * fusion.scale.double().view(shape) + fusion.shift.double().view(shape)
    x = activate(x, fusion.in_activation, fusion.in_slope)
    y = functional.conv_transpose3d(x, weight, bias, stride=2, padding=1)
    mean, var = y.mean([0, 2, 3, 4]), y.var([0, 2, 3, 4], unbiased=False)
    return activate(y, fusion.activation, fusion.slope), mean, var


def activate(x, name, slope):
    if name == "leaky_relu":
        return functional.leaky_relu(x, slope)
    return x if name == "none" else getattr(torch, name)(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, channels", [(20, (17, 40)), (3, (34, 5)), (16, (20, 3))])
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(
    "in_activation, activation", [("relu", "none"), ("leaky_relu", "tanh"), ("none", "leaky_relu"), ("tanh", "relu")]
)
def test_what_is_fused(instruction_set, dtype, batch, channels, statistics, in_activation, activation):
    torch.manual_seed(0)
    x = arrange(torch.randn(batch, channels[0], 3, 2, 4).to(dtype), "channels_last")
    weight, bias = (torch.randn(*channels, 4, 4, 4) / 8).to(dtype), torch.randn(channels[1]) + 50.0 * statistics
    fusion = Fusion(
        torch.rand(channels[0]) + 0.5, torch.randn(channels[0]), in_activation, 0.2, activation, 0.1, statistics
    )
    y, mean, var = compiled.conv_fused(x, weight, bias, LAST, fusion)
    exact, exact_mean, exact_var = fused_in_float64(double(x), double(weight), double(bias), fusion)
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    scale = exact.abs().max()
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance * scale.item())
    assert (mean is None) == (not statistics)
    if statistics:
        torch.testing.assert_close(mean.double(), exact_mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(var.double(), exact_var, rtol=20 * tolerance, atol=tolerance)


def test_the_convolution_fuses_as_the_transposed_one_does(instruction_set):
    torch.manual_seed(0)
    x, weight = torch.randn(18, 3, 9, 8), torch.randn(40, 3, 4, 3)
    fusion = Fusion(torch.rand(3), torch.randn(3), "relu", 0.0, "tanh", 0.0, True)
    y, mean, var = compiled.conv_fused(x, weight, None, Geometry(False, [2, 1], [1, 2], [0, 0], [1, 1]), fusion)
    into = torch.relu(x.double() * fusion.scale.view(1, 3, 1, 1) + fusion.shift.view(1, 3, 1, 1))
    z = functional.conv2d(into, weight.double(), stride=(2, 1), padding=(1, 2))
    torch.testing.assert_close(y.double(), z.tanh(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean.double(), z.mean([0, 2, 3]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var.double(), z.var([0, 2, 3], unbiased=False), rtol=1e-5, atol=1e-5)


def test_statistics_of_an_empty_batch_are_nan():
    geometry = Geometry(True, [1], [0], [0], [1])
    y, mean, var = compiled.conv_fused(
        torch.randn(0, 2, 3), torch.randn(2, 4, 3), None, geometry, Fusion(statistics=True)
    )
    assert y.shape == (0, 4, 5) and mean.isnan().all() and var.isnan().all()


@pytest.mark.parametrize("operation", [Case.up, Case.down, Case.weight_grad])
def test_the_same_bits_whatever_the_threads(operation):
    threads = torch.get_num_threads()
    try:
        for seed in range(40):
            case, results = Case(seed, DTYPES[seed % 3]), []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(operation(case, compiled, lambda x: x))
            assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(threads)


def test_statistics_do_not_depend_on_the_threads():
    torch.manual_seed(0)
    x, weight = torch.randn(33, 8, 4, 4, 4), torch.randn(8, 40, 4, 4, 4)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(compiled.conv_fused(x, weight, None, LAST, Fusion(statistics=True)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_a_nan_reaches_what_it_touches_and_nothing_else():
    for channels in (3, 5):
        large = torch.zeros(9, channels, 8, 8, 8).to(torch.bfloat16)
        large[4, 1, 3, 3, 3] = math.nan
        for weight_channels in (2, 40):
            weight = torch.ones(weight_channels, channels, 4, 4, 4).to(torch.bfloat16)
            mine = compiled.conv_down(large, weight, None, [2] * 3, [1] * 3, [1] * 3, 1)
            exact = functional.conv3d(large.float(), weight.float(), stride=2, padding=1)
            assert torch.equal(mine.isnan(), exact.isnan())
            back = compiled.conv_up(
                large, weight.transpose(0, 1).contiguous(), None, *[[n] * 3 for n in (2, 1, 0, 1)], 1
            )
            exact = functional.conv_transpose3d(large.float(), weight.transpose(0, 1).float(), stride=2, padding=1)
            assert torch.equal(back.isnan(), exact.isnan())


def test_refusals_name_the_reason():
    assert "float64 is not one of" in compiled.refusal(torch.zeros(1, dtype=torch.float64))
    assert "for the CPU, not for meta" in compiled.refusal(torch.zeros(1, device="meta"))
    with pytest.raises(RuntimeError, match="the dtypes differ"):
        compiled.conv_down(torch.randn(1, 2, 4), torch.randn(2, 2, 3).half(), None, [1], [0], [1], 1)
    with pytest.raises(RuntimeError, match="the weight does not fit the channels"):
        compiled.conv_down(torch.randn(1, 2, 4), torch.randn(2, 3, 3), None, [1], [0], [1], 1)
