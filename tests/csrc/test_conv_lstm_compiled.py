"""The compiled ConvLSTM on the CPU against float64, by the rule that its error is at most twice (gradients: three
times) that of the reference in the same dtype, plus a few roundings."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels import conv_lstm
from fastvgan_kernels.conv_lstm import compiled, reference
from fastvgan_kernels.conv_lstm.protocol import Inputs

pytestmark = pytest.mark.extension

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ("output", "h", "c", "dx", "dh0", "dc0", "dweight_ih", "dweight_hh", "dbias")


def poison(*sizes):
    """Fill freed memory, which the allocator reuses for results, with NaN, to find values that are never written."""
    for _ in range(2):
        blocks = [torch.full((size,), math.nan) for size in sizes]
        del blocks


def problem(n, inputs, hidden, steps, size, dtype, wide_cell=False, layout="channels_last"):
    x = torch.randn(n, inputs, steps, *size).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif layout == "sliced":
        x = torch.stack([x, torch.full_like(x, math.nan)], -1).flatten(-2)[..., ::2]
    h, c = (
        torch.randn(n, hidden, *size).to(dtype),
        torch.randn(n, hidden, *size).to(torch.float32 if wide_cell else dtype),
    )
    weights = [torch.randn(4 * hidden, count, 3, 3).to(dtype) / (3 * count**0.5) for count in (inputs, hidden)]
    return [x, h, c, *weights, torch.randn(4 * hidden).to(dtype)]


def run(tensors, grads, impl):
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = conv_lstm(*leaves, impl=impl)
    used = [(y, g.to(y.dtype)) for y, g in zip(outputs, grads, strict=True) if g is not None]
    ys, gs = zip(*used, strict=True)
    return (*outputs, *torch.autograd.grad(ys, leaves, gs, allow_unused=True))


def is_cancelled(tensors):
    """Whether the largest output is small beside the terms of the cells, as with one or two values.

    Its error is that of the terms then, which is large beside the output on both sides, and which is larger is chance.
    """
    output, _, gates, cells = reference.forward(Inputs(*(t.double() for t in tensors)), torch.contiguous_format)
    i, f, g, _ = gates.chunk(4, 1)
    before = torch.cat([tensors[2].double().unsqueeze(2), cells[:, :, :-1]], 2)
    return max((i * g).abs().max(), (f * before).abs().max()) > 8 * output.abs().max()


def assert_accurate(mine, theirs, exact):
    for name, a, b, right in zip(NAMES, mine, theirs, exact, strict=True):
        if right is None:
            assert a is None
            continue
        assert a.shape == right.shape and a.dtype == b.dtype, name
        if right.numel() == 0:
            continue
        # The dtype of the gates, also if the cell has a wider one.
        rounding = torch.finfo(mine[0].dtype).eps * right.abs().max()
        error, allowed = (a.double() - right).abs().max(), (b.double() - right).abs().max()
        # The convolutions of small batches are stock's on both sides, but oneDNN's float32 sums are several times worse
        # in one layout than in the other.
        factor, roundings = (3, 16) if name.startswith("d") else (2, 4)
        assert error <= factor * allowed + roundings * rounding, (name, error, allowed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_is_near_that_of_the_reference(instruction_set, dtype):
    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(0, 3),
        st.integers(1, 3),
        st.sampled_from([1, 3, 16, 21]),
        st.integers(1, 4),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        st.booleans(),
        st.sampled_from(["channels_last", "contiguous", "sliced"]),
        st.sampled_from(["all", "output", "cell"]),
        st.integers(0, 2**32 - 1),
    )
    def check(n, inputs, hidden, steps, size, wide_cell, layout, used, seed):
        torch.manual_seed(seed)
        tensors = problem(n, inputs, hidden, steps, size, dtype, wide_cell, layout)
        assume(n == 0 or not is_cancelled(tensors))
        shapes = [(n, hidden, steps, *size), (n, hidden, *size), (n, hidden, *size)]
        wanted = {"all": (1, 1, 1), "output": (1, 0, 0), "cell": (0, 0, 1)}[used]
        grads = [torch.randn(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)]
        exact = run([t.double() for t in tensors], grads, "reference")
        poison(*(t.numel() for t in exact[:1]), 4 * exact[0].numel())
        assert_accurate(run(tensors, grads, "cpp"), run(tensors, grads, "reference"), exact)

    check()


def test_gates_saturate_and_nan_spreads(instruction_set):
    x, h, c, *weights = problem(1, 1, 17, 2, (2, 2), torch.float32)
    weights = [weight * 1e4 for weight in weights]
    c *= 1e4
    torch.testing.assert_close(
        conv_lstm(x, h, c, *weights, impl="cpp"), conv_lstm(x, h, c, *weights, impl="reference"), rtol=1e-5, atol=1e-6
    )
    c[0, 4, 1, 1] = math.nan
    mine, right = (conv_lstm(x, h, c, *weights, impl=impl) for impl in ("cpp", "reference"))
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(mine, right, strict=True))


def test_gates_are_exact_to_a_few_roundings_over_their_range(instruction_set):
    pre = torch.linspace(-95, 95, 1901)
    zeros = torch.zeros(1, 1901, 1, 1)
    bias = torch.cat([pre, pre, pre.flip(0), torch.full_like(pre, 90.0)])
    weight = torch.zeros(4 * 1901, 1901, 1, 1)
    c = torch.full_like(zeros, 1e3)
    mine = conv_lstm(zeros.unsqueeze(2), zeros, c, weight, weight, bias, impl="cpp")[2].flatten()
    pre = pre.double()
    right = pre.sigmoid() * 1e3 + pre.sigmoid() * pre.flip(0).tanh()
    torch.testing.assert_close(mine.double(), right, rtol=1e-6, atol=1e-30)


def test_a_cell_of_another_dtype_keeps_it():
    x, h, c, *weights = problem(2, 2, 3, 2, (3, 3), torch.bfloat16)
    for dtype in (torch.float64, torch.float16):
        mine, right = (conv_lstm(x, h, c.to(dtype), *weights, impl=impl) for impl in ("cpp", "reference"))
        assert mine[2].dtype == dtype
        torch.testing.assert_close(mine[0], right[0], rtol=2e-2, atol=2e-2)


def test_the_same_bits_whatever_the_threads(instruction_set):
    torch.manual_seed(0)
    tensors = problem(17, 3, 21, 3, (9, 14), torch.float32)
    grads = [torch.randn(17, 21, 3, 9, 14), torch.randn(17, 21, 9, 14), torch.randn(17, 21, 9, 14)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            poison(*(t.numel() for t in tensors[:3]), 4 * grads[0].numel())
            results.append(run(tensors, grads, "cpp")[:6])  # the sums over all positions may be cut otherwise
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kernels", [((1, 1), (3, 3)), ((5, 3), (1, 1)), ((1, 3), (7, 5)), ((3, 3), (3, 1))])
def test_kernels_of_other_sizes_than_three(instruction_set, kernels):
    torch.manual_seed(0)
    tensors = problem(3, 2, 18, 3, (4, 19), torch.float32)
    for place, size in zip((3, 4), kernels, strict=True):
        tensors[place] = torch.randn(*tensors[place].shape[:2], *size) / 10
    grads = [torch.randn(3, 18, 3, 4, 19), torch.randn(3, 18, 4, 19), torch.randn(3, 18, 4, 19)]
    exact = run([t.double() for t in tensors], grads, "reference")
    assert_accurate(run(tensors, grads, "cpp"), run(tensors, grads, "reference"), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [1, 2, 3, 100])
@pytest.mark.parametrize("batch", [2, 17])  # below and above what the compiled convolutions are for
def test_backward_by_stretches_of_steps(monkeypatch, batch, held, dtype):
    torch.manual_seed(0)
    steps, size = 7, (5, 4)
    tensors = problem(batch, 3, 4, steps, size, dtype, wide_cell=True)
    monkeypatch.setattr(compiled, "_MAX_BYTES", held * batch * 4 * 4 * math.prod(size) * tensors[0].element_size())
    grads = [torch.randn(batch, 4, steps, *size), torch.randn(batch, 4, *size), torch.randn(batch, 4, *size)]
    exact = run([t.double() for t in tensors], grads, "reference")
    for name, mine, right in zip(NAMES, run(tensors, grads, "cpp"), exact, strict=True):
        allowed = {torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype] * right.abs().max()
        assert (mine.double() - right).abs().max() <= allowed, name
