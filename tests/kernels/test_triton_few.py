"""The Triton kernels for few channels on one side, under Triton's interpreter, against float64 PyTorch."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conv import DOWN, UP
from test_fused_conv import assert_near, make
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is not installed")

from test_triton_conv import as_leaves, assert_accurate

from fastvgan_kernels import choice, conv_down, conv_up, conv_weight_grad
from fastvgan_kernels.conv import triton_few
from fastvgan_kernels.measured import rules
from fastvgan_kernels.triton import configs as triton_configs
from fastvgan_kernels.triton.tuning import Config, Problem

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("interpreted")]
DTYPES = [torch.float32, torch.float16]
TILES = [Config(16, 16, 32, cell=cell) for cell in (1, 2, 4)] + [Config(32, 64, 128, cell=2)]
KERNELS = ("up_few_kernel", "down_few_kernel", "grad_few_kernel")


class Launches:
    """Counts launches of a kernel, which it passes on."""

    def __init__(self, kernel):
        self.kernel, self.count = kernel, 0

    def __getitem__(self, grid):
        self.count += 1
        return self.kernel[grid]


@pytest.fixture
def launches(monkeypatch):
    """Kernel → its launches."""
    counters = {name: Launches(getattr(triton_few, name)) for name in KERNELS}
    for name, counter in counters.items():
        monkeypatch.setattr(triton_few, name, counter)
    return counters


@st.composite
def problems(draw):
    """A convolution in 1 to 3 dimensions, of few channels on either side, with some kernel that is not a single tap."""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    kernel = each(1, {1: 7, 2: 5, 3: 4}[dims])
    kernel[-1] += math.prod(kernel) == 1
    stride = each(1, 1) if draw(st.booleans()) else each(1, 3)
    small, extra = each(1, 5 if dims == 3 else 9), [draw(st.integers(0, s - 1)) for s in stride]
    whole = [(n - 1) * s + k + e for n, s, k, e in zip(small, stride, kernel, extra, strict=True)]
    padding = [draw(st.integers(0, min(4, (n - 1) // 2))) for n in whole]
    few, many = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 7, 18]))
    channels = (few, many) if draw(st.booleans()) else (many, few)
    layout = draw(st.sampled_from(["contiguous", "last", "cut", "aligned"]))
    return (
        channels,
        kernel,
        stride,
        padding,
        extra,
        small,
        [n - 2 * p for n, p in zip(whole, padding, strict=True)],
        layout,
    )


def lay_out(x, layout):
    """The same values in memory as asked for: cut is of every second position, aligned of lines of even length."""
    if layout == "contiguous":
        return x
    rows = x.movedim(1, -1).contiguous()
    if layout == "cut":
        rows = torch.stack([rows, torch.full_like(rows, math.nan)], -2).flatten(-3, -2)[..., ::2, :]
    if layout == "aligned":
        rows = functional.pad(rows, [0] * (2 * rows.dim() - 2) + [0, 1])[:-1]
    return rows.movedim(-1, 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(), st.sampled_from(DTYPES), st.sampled_from(TILES), st.booleans(), st.booleans())
def test_any_shape_forward_and_backward(tile, problem, dtype, config, transposed, biased):
    tile(config)
    (small_channels, large_channels), kernel, stride, padding, extra, small_size, large_size, layout = problem
    small = lay_out(torch.randn(2, small_channels, *small_size) / 4, layout)
    large = lay_out(torch.randn(2, large_channels, *large_size) / 4, layout)
    x, dy = (small, large) if transposed else (large, small)
    weight, bias = torch.randn(small_channels, large_channels, *kernel) / 4, [torch.randn(dy.shape[1])] * biased
    inputs, exact = as_leaves([x, weight, *bias], dtype)
    inputs[0].data, options = lay_out(inputs[0].data, layout), {"stride": stride, "padding": padding}
    ours, stock = (conv_up, UP) if transposed else (conv_down, DOWN)
    options |= {"output_padding": extra} if transposed else {}
    y = ours(*inputs, **options, impl="triton")
    wanted = stock[len(kernel) - 1](*exact, **options)
    assert_accurate(y, wanted, dtype, 1000)
    dy = lay_out(torch.randn(wanted.shape).to(dtype), layout)
    grads = torch.autograd.grad(y, inputs, dy)
    for grad, right in zip(grads, torch.autograd.grad(wanted, exact, dy.double()), strict=True):
        assert_accurate(grad, right, dtype, 1000)


# Operation, channels read and written, stride, and the kernel that is to compute it.
WHICH = [
    ("up", 18, 3, 2, "up_few_kernel"), ("up", 18, 8, 2, "up_few_kernel"), ("up", 18, 3, 1, "up_few_kernel"),
    ("up", 3, 18, 1, "down_few_kernel"), ("up", 18, 17, 2, None), ("up", 18, 5, 1, None),
    ("down", 3, 18, 2, "down_few_kernel"), ("down", 4, 18, 1, "down_few_kernel"), ("down", 18, 3, 1, "up_few_kernel"),
    ("down", 18, 3, 2, None), ("down", 5, 18, 2, None),
    ("grad", 3, 18, 2, "grad_few_kernel"), ("grad", 18, 3, 1, "grad_few_kernel"), ("grad", 18, 3, 2, None),
    ("grad", 5, 18, 1, None),
]  # fmt: skip


@pytest.mark.parametrize("operation, inputs, outputs, stride, kernel", WHICH)
def test_few_channels_have_kernels_of_their_own(tile, launches, operation, inputs, outputs, stride, kernel):
    tile(TILES[0])
    x = torch.randn(1, inputs, 4, 5)
    if operation == "up":
        conv_up(x, torch.randn(inputs, outputs, 3, 3), None, stride, 1, impl="triton")
    elif operation == "down":
        conv_down(x, torch.randn(outputs, inputs, 3, 3), None, stride, 1, impl="triton")
    else:
        dy = torch.randn_like(functional.conv2d(x, torch.randn(outputs, inputs, 3, 3), None, stride, 1))
        conv_weight_grad(x, dy, 3, stride, 1, impl="triton")
    assert {name for name, counter in launches.items() if counter.count} == ({kernel} if kernel else set())


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"stride": 2, "dilation": (1, 3)}])
def test_groups_and_dilations_are_left_to_the_other_kernels(tile, launches, options):
    tile(TILES[0])
    groups = options.get("groups", 1)
    x, weight = torch.randn(1, 3 * groups, 7, 9), torch.randn(18, 3, 3, 3)
    exact = functional.conv2d(x.double(), weight.double(), None, padding=2, **options)
    y = conv_down(x, weight, None, padding=2, **options, impl="triton")
    assert_accurate(y, exact, torch.float32, 100)
    back = conv_up(y, weight, None, padding=2, **options, impl="triton")
    wanted = functional.conv_transpose2d(y.double(), weight.double(), None, padding=2, **options)
    assert_accurate(back, wanted, torch.float32, 1000)
    conv_weight_grad(x, y, 3, padding=2, **options, impl="triton")
    assert not any(counter.count for counter in launches.values())


@pytest.mark.parametrize("norm", [None, "running"])
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
@pytest.mark.parametrize("transposed, channels", [(True, (17, 3)), (False, (3, 17))])
def test_what_is_fused(tile, launches, transposed, channels, activation, norm):
    """Bias and activation of both, and of the last layer the norm before it; the first layer has none."""
    for config in TILES[:2]:
        tile(config)
        case = make(
            transposed, activation, norm, channels=channels, size=(2, 3, 2), kernel=(4, 3, 2), dtype=torch.float32
        )
        y, _, _ = case.run_fused(case.cast(torch.float32), "triton")
        assert_near("y", y, case.plain(case.leaves)[0], 1e-5)
    used = {name for name, counter in launches.items() if counter.count}
    assert used == ({"up_few_kernel"} if transposed else set() if norm else {"down_few_kernel"})


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6),
    st.sampled_from([1, 2, 4]), st.sampled_from(DTYPES), st.integers(0, 3),
)  # fmt: skip
def test_windows_begin_where_loads_are_aligned(channels, width, kernel, stride, padding, cell, dtype, offset):
    x = torch.empty(2 * 2 * 3 * width * channels + offset, dtype=dtype)[offset:]
    x = x.view(2, 2, 3, width, channels).movedim(-1, 1)
    window = triton_few.find_window(x, triton_few.Geometry((2, 3, kernel), (1, 2, stride), (0, 1, padding)), cell)
    assert window.first * window.align == -padding * channels - window.lead
    assert window.step * window.align == cell * stride * channels
    needed = ((cell - 1) * stride + kernel) * channels
    assert needed <= window.used - window.lead < needed + window.align and window.used <= window.line < 2 * needed + 2
    assert window.line & (window.line - 1) == 0 and window.align * x.element_size() <= 16
    for distance in (x.data_ptr() // x.element_size(), x.stride(0), x.stride(2), x.stride(3)):
        assert distance % window.align == 0


@pytest.mark.parametrize(
    "channels, cell, expected",
    [(3, 4, (1, 32, 32, 4)), (3, 2, (1, 20, 32, 4)), (3, 1, (1, 14, 16, 2)), (4, 1, (0, 16, 16, 4))],
)
def test_windows_of_the_first_layer(channels, cell, expected):
    """Lead, elements used, columns, elements loaded at once: of clips-64's, kernel 4 with stride 2 and padding 1."""
    x = torch.empty(2, 16, 64, 64, channels, dtype=torch.bfloat16).movedim(-1, 1)
    window = triton_few.find_window(x, triton_few.Geometry((4,) * 3, (2,) * 3, (1,) * 3), cell)
    assert (window.lead, window.used, window.line, window.align) == expected


@pytest.mark.parametrize("cell", [1, 2])
def test_sums_are_split_and_added_up(tile, monkeypatch, cell):
    monkeypatch.setattr(triton_few.tuning, "processors", lambda device: 40)
    tile(Config(16, 16, 64, cell=cell))
    large, small = torch.randn(2, 3, 18, 15), torch.randn(2, 18, 18, 15)
    ours = conv_weight_grad(large, small, 3, 1, 1, impl="triton")
    assert_accurate(ours, conv_weight_grad(large.double(), small.double(), 3, 1, 1), torch.float32, 10_000)
    assert torch.equal(ours, conv_weight_grad(large, small, 3, 1, 1, impl="triton"))


def test_offsets_past_two_to_the_31(tile):
    """The third example of the side of few channels lies that far from the first; nobody touches what is between."""
    tile(TILES[1])
    torch.use_deterministic_algorithms(False)  # or all of it is filled
    storage = torch.empty(2**31 + 4096, dtype=torch.float16)
    x = storage.as_strided((3, 3, 3, 2, 4), (2**30, 1, 24, 12, 3))
    x.copy_(torch.randn(3, 3, 3, 2, 4))
    weight, options = torch.randn(17, 3, 2, 2, 2).half(), {"stride": 1, "padding": 1}
    y = conv_down(x, weight, **options, impl="triton")
    assert_accurate(y, conv_down(x.double(), weight.double(), **options), torch.float16, 1000)
    grad = conv_weight_grad(x, y, 2, **options, impl="triton")
    assert_accurate(grad, conv_weight_grad(x.double(), y.double(), 2, **options), torch.float16, 1000)


def test_cells_count_in_the_choice_of_tiles():
    """By the product that a cell makes of a problem: fewer rows and more columns, or more rows and a shorter sum."""
    wide = Config(128, 256, 64, cell=4)
    problem = Problem("down_few", torch.device("cpu"), torch.float16, 4096, 64, 192)
    assert problem.product(wide) == (1024, 256, 192) and problem.fills(wide) and problem.programs(wide) == 8
    turned = Problem("grad_few", *(problem.device, problem.dtype, 64, 192, 4096), splits=512, cells_in_rows=True)
    assert turned.product(wide) == (256, 192, 1024) and turned.programs(wide) == 2 * (1024 * 2 // 64 // 8)
    assert not problem.fills(Config(128, 256, 64)) and problem.fills(Config(128, 64, 64))
    for name in ("up_few", "down_few", "grad_few"):
        assert {config.cell for config in triton_configs.SHIPPED[name][90]} > {1}


def test_on_a_gpu_they_wait_for_their_measurement(monkeypatch):
    """What auto goes by are times of the general kernels until then; FASTVGAN_IMPL=triton asks for them."""
    gpu = torch.device("cuda")
    monkeypatch.delenv(choice.ENVIRONMENT, raising=False)
    monkeypatch.setattr(rules, "_MEASURED", [SimpleNamespace(TILES={("gather", 2, "down"): ()})])
    assert not triton_few._is_chosen("up_few", gpu)
    monkeypatch.setenv(choice.ENVIRONMENT, "triton")
    assert triton_few._is_chosen("up_few", gpu)
    monkeypatch.delenv(choice.ENVIRONMENT)
    monkeypatch.setattr(rules, "_MEASURED", [SimpleNamespace(TILES={("up_few", 2, "(4, 4, 4)(2, 2, 2)ieee"): ()})])
    assert triton_few._is_chosen("up_few", gpu) and not triton_few._is_chosen("down_few", gpu)
