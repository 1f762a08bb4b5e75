"""The Triton convolutions under Triton's interpreter against float64 PyTorch."""

import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conv import DOWN, UP, Case, arrange, cases
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is not installed")

from fastvgan_kernels import conv_down, conv_up, conv_weight_grad
from fastvgan_kernels.conv import triton
from fastvgan_kernels.triton import tuning
from fastvgan_kernels.triton.tuning import Config

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("interpreted")]
DTYPES = [torch.float32, torch.float16]
TILES = [None, Config(16, 16, 32), Config(32, 16, 64)]  # the rule's own, and some that cut small problems into many


def assert_accurate(ours, exact, dtype, terms):
    """Within a few roundings of the largest value, and those of a sum of so many terms in float32."""
    assert ours.dtype == dtype and ours.shape == exact.shape
    if exact.numel():
        allowed = 4 * torch.finfo(dtype).eps + math.sqrt(terms) * torch.finfo(torch.float32).eps
        off = (ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1)
        assert off <= allowed, f"off by {off:.2g}, allowed are {allowed:.2g}"


def as_leaves(tensors, dtype):
    """The tensors in the dtype, and the same values in float64."""
    ours = [t.detach().to(dtype).requires_grad_() for t in tensors]
    return ours, [t.detach().double().requires_grad_() for t in ours]


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases(), st.sampled_from(DTYPES), st.sampled_from(TILES), st.booleans())
def test_any_shape_forward_and_backward(tile, case, dtype, config, transposed):
    tile(config)
    small, large, weight = (t / 4 for t in case.tensors())
    x, dy = (small, large) if transposed else (large, small)
    bias = [torch.randn(dy.shape[1])] if case.bias else []
    inputs, exact = as_leaves([x, weight, *bias], dtype)
    dims = len(case.kernel)
    ours_op, stock, options = (
        (conv_up, UP[dims - 1], case.up_args) if transposed else (conv_down, DOWN[dims - 1], case.down_args)
    )
    y, wanted = ours_op(*inputs, **options, impl="triton"), stock(*exact, **options)
    assert_accurate(y, wanted, dtype, 100)
    dy = arrange(torch.randn(wanted.shape).to(dtype), case.layout)
    grads = torch.autograd.grad(y, inputs, dy)
    for grad, right in zip(grads, torch.autograd.grad(wanted, exact, dy.double()), strict=True):
        assert_accurate(grad, right, dtype, 1000)


ONES, TWOS = [1] * 3, [2] * 3
PROBLEMS = {
    # Few channels on either side, with phases side by side in the columns; many; odd; groups; one voxel; a dilation
    # that has a divisor in common with the stride; an output_padding that no tap reaches.
    "last layer": Case(2, (17, 3), [2, 2, 3], [3, 2, 3], TWOS, [1, 0, 1], [1, 0, 0], ONES, 1, "channels_last", True),
    "first layer": Case(2, (18, 3), [2, 1, 3], [3, 2, 3], TWOS, [1, 0, 1], [0] * 3, ONES, 1, "contiguous", True),
    "middle": Case(1, (33, 20), [3, 2], [4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1, "channels_last", False),
    "grouped": Case(2, (34, 6), [3, 2], [3, 4], [2, 3], [1, 0], [1, 2], [1, 1], 2, "sliced", True),
    "depthwise": Case(2, (6, 6), [5], [3], [2], [1], [1], [1], 6, "contiguous", True),
    "one voxel": Case(3, (20, 18), ONES, [2, 3, 2], ONES, [0] * 3, [0] * 3, ONES, 1, "contiguous", False),
    "to one voxel": Case(3, (1, 18), ONES, [2, 3, 2], ONES, [0] * 3, [0] * 3, ONES, 1, "channels_last", False),
    "dilated": Case(1, (17, 5), [2, 3], [2, 3], [2, 4], [1, 2], [1, 1], [4, 2], 1, "sliced", False),
    "gaps": Case(1, (16, 17), [3, 2], [2, 1], [3, 4], [0, 0], [2, 3], [1, 1], 1, "contiguous", True),
}


@pytest.mark.parametrize("config, dtype", [(None, torch.float32), (TILES[1], torch.float16)])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_both_orders_of_backward(tile, problem, config, dtype):
    """Gradients of every operation, and gradients of those gradients."""
    tile(config)
    case = PROBLEMS[problem]
    small, large, weight = (t / 4 for t in case.tensors())
    up = functools.partial(conv_up, **case.up_args, impl="triton")
    down = functools.partial(conv_down, **case.down_args, impl="triton")
    grad = functools.partial(conv_weight_grad, kernel_size=case.kernel, **case.down_args, impl="triton")
    for ours, pair in ((up, (small, weight)), (down, (large, weight)), (grad, (large, small))):
        stock = functools.partial(ours.func, **{**ours.keywords, "impl": "reference"})
        inputs, exact = as_leaves(pair, dtype)
        for result, right in zip(slopes(ours, inputs), slopes(stock, exact), strict=True):
            assert_accurate(result, right, dtype, 10_000)


def slopes(function, inputs):
    """The value, its gradients for some dy, and the gradients of these."""
    torch.manual_seed(0)
    value = function(*inputs)
    dy = torch.randn(value.shape).to(torch.float16).to(value.dtype).requires_grad_()
    first = torch.autograd.grad(value, inputs, dy, create_graph=True)
    along = [torch.randn(g.shape).to(torch.float16).to(g.dtype) for g in first]
    return [value, *first, *torch.autograd.grad(first, [*inputs, dy], along)]


def test_sums_are_split_and_added_up(tile, monkeypatch):
    monkeypatch.setattr(tuning, "processors", lambda device: 7)
    tile(Config(16, 16, 64))
    large, small = torch.randn(3, 5, 20, 21), torch.randn(3, 18, 20, 21)
    ours = conv_weight_grad(large, small, 3, 1, 1, impl="triton")
    exact = conv_weight_grad(large.double(), small.double(), 3, 1, 1)
    assert_accurate(ours, exact, torch.float32, 10_000)
    assert torch.equal(ours, conv_weight_grad(large, small, 3, 1, 1, impl="triton"))
    large, small = large.half(), small.half()
    exact = conv_weight_grad(large.double(), small.double(), 3, 1, 1)
    assert_accurate(conv_weight_grad(large, small, 3, 1, 1, impl="triton"), exact, torch.float16, 10_000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(24, 40), (40, 24)])
@pytest.mark.parametrize("stride, innermost", [(1, 0), (2, 1)])
def test_dense_operands_by_tensor_descriptors(tile, monkeypatch, channels, stride, innermost, dtype):
    tile(Config(16, 16, 16 * dtype.itemsize, tma=True))
    described, make = [], triton.descriptor
    monkeypatch.setattr(triton, "descriptor", lambda *args: described.append(make(*args)) or described[-1])
    case = Case(2, channels, [3, 2], [3, 4], [stride] * 2, [1, 1], [0] * 2, [1, 1], 1, "channels_last", False)
    small, large, weight = (t.to(dtype) / 4 for t in case.tensors())
    weight = weight.contiguous(memory_format=torch.channels_last)
    if innermost == 0:
        weight = weight.movedim(0, 1).contiguous(memory_format=torch.channels_last).movedim(1, 0)
    exact = [t.double() for t in (small, large, weight)]
    up = conv_up(small, weight, **case.up_args, impl="triton")
    assert_accurate(up, conv_up(exact[0], exact[2], **case.up_args), dtype, 1000)
    down = conv_down(large, weight, **case.down_args, impl="triton")
    assert_accurate(down, conv_down(exact[1], exact[2], **case.down_args), dtype, 1000)
    grad = conv_weight_grad(large, small, case.kernel, **case.down_args, impl="triton")
    assert_accurate(grad, conv_weight_grad(exact[1], exact[0], case.kernel, **case.down_args), dtype, 1000)
    assert len(described) == 3
    for one in described:
        one.__post_init__()  # Triton's own check, which is made once for all of one size
        assert one.base.numel() == math.prod(one.shape) and one.base.dtype == dtype


def test_what_the_copy_engine_does_not_take_has_no_descriptor():
    x = torch.randn(2, 3, 4, 16).movedim(-1, 1)
    assert triton._is_dense(x) and triton._is_dense(x.half())
    assert not triton._is_dense(x[:, 1:]) and not triton._is_dense(x[:, :15]) and not triton._is_dense(x.contiguous())
    assert not triton._is_dense(x.half()[:, :12].contiguous(memory_format=torch.channels_last))  # rows of 24 bytes
    weight = torch.randn(32, 3, 3, 16).movedim(-1, 1)
    assert triton._is_describable(weight, 1) and not triton._is_describable(weight, 2)


def test_strided_biases_and_negative_views():
    x, w = torch.randn(2, 17, 3, 4), torch.randn(4, 17, 1, 2)
    for bias in (torch.randn(8)[::2], torch.randn(1).expand(4)):
        assert_accurate(
            conv_down(x, w, bias, impl="triton"), conv_down(x.double(), w.double(), bias.double()), x.dtype, 100
        )
    minus = torch._neg_view(x.contiguous(memory_format=torch.channels_last))
    assert_accurate(conv_down(minus, w, impl="triton"), conv_down(-x.double(), w.double()), x.dtype, 100)


@pytest.mark.parametrize("transposed", [False, True])
def test_offsets_past_two_to_the_31(transposed):
    """The third example lies that far from the first; memory that nobody touches costs nothing.

    Each stride alone fits 32 bits. Here the interpreter checks that no integer overflows.
    """
    torch.use_deterministic_algorithms(False)  # or all of it is filled
    storage = torch.empty(2**31 + 4096, dtype=torch.float16)
    x = storage.as_strided((3, 17, 3, 2, 3), (2**30, 1, 17 * 6, 17 * 3, 17))
    x.copy_(torch.randn(3, 17, 3, 2, 3))
    weight = torch.randn(17, 3, 4, 4, 4).half() if transposed else torch.randn(20, 17, 2, 2, 2).half()
    options = {"stride": 2, "padding": 1}
    operation = conv_up if transposed else conv_down
    y = operation(x, weight, **options, impl="triton")
    exact = operation(x.double(), weight.double(), **options)
    assert_accurate(y, exact, torch.float16, 1000)
    dy = torch.randn(y.shape).half()
    large, small = (dy, x) if transposed else (x, dy)
    kernel = list(weight.shape[2:])
    grad = conv_weight_grad(large, small, kernel, **options, impl="triton")
    assert_accurate(grad, conv_weight_grad(large.double(), small.double(), kernel, **options), torch.float16, 1000)


def test_what_it_does_not_take_is_refused_with_the_reason():
    x, w = torch.randn(1, 2, 4), torch.randn(2, 2, 3)
    with pytest.raises(ValueError, match="triton: torch.float64 is not one of float32, bfloat16 and float16"):
        conv_down(x.double(), w.double(), impl="triton")
    with pytest.raises(ValueError, match="triton: Triton's interpreter computes bfloat16 products incorrectly"):
        conv_down(x.bfloat16(), w.bfloat16(), impl="triton")


def test_registered_as_every_other_implementation():
    """Fake kernels, autograd registration and torch.compile are of the operation, whatever computes it."""
    x, w = torch.randn(1, 3, 4, 4, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    arguments = (x, w, None, [1, 1], [1, 1], [1, 1], 1, "triton")
    torch.library.opcheck(torch.ops.fastvgan.conv_down.default, arguments)
    compiled = torch.compile(lambda x, w: conv_down(x, w, padding=1, impl="triton").relu(), fullgraph=True)
    y, wanted = compiled(x, w), functional.conv2d(x, w, padding=1).relu()
    torch.testing.assert_close(y, wanted)
    for grad, right in zip(
        torch.autograd.grad(y.sum(), (x, w)), torch.autograd.grad(wanted.sum(), (x, w)), strict=True
    ):
        torch.testing.assert_close(grad, right)
