"""norm_act in Triton under Triton's interpreter against float64 PyTorch, in programs that share its reductions.

tests/kernels/test_norm_act.py also runs in the interpreter, with FASTVGAN_IMPL=triton, as in .ci/run.
"""

import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_norm_act import ACTIVATE, FORMATS, compute_actual, compute_expected

pytest.importorskip("triton", reason="Triton is not installed")

from fastvgan_kernels import norm_act
from fastvgan_kernels.norm_act import triton
from fastvgan_kernels.norm_act.protocol import Norm
from fastvgan_kernels.triton import parts as triton_parts
from fastvgan_kernels.triton import tuning
from fastvgan_kernels.triton.tuning import Config

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("interpreted")]
FACTORS = 2, 3  # of stock PyTorch's error, of outputs and of gradients


def as_accurate(ours, stock, exact, factor, dtype):
    """Stock PyTorch computes in float32 here, so that a rounding to the dtype is allowed beside its error."""
    mine, theirs = ((value.double() - exact).abs().max() for value in (ours, stock))
    allowed = factor * theirs + 16 * torch.finfo(dtype).eps * exact.abs().max().clamp(min=1)
    assert mine <= allowed, f"off by {mine:.2g}, stock by {theirs:.2g}"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(2, 9),
    st.sampled_from([1, 3, 18, 33]),
    st.sampled_from(sorted(ACTIVATE)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float16]),
    st.sampled_from([None, Config(16, 16), Config(4, 2)]),
)
def test_any_shape_forward_and_backward(
    tile, sizes, batch, channels, activation, training, channels_last, affine, dtype, config
):
    tile(config)
    x = (torch.randn(batch, channels, *sizes) * 2 + 5).to(dtype)
    if channels_last and x.dim() in FORMATS:
        x = x.contiguous(memory_format=FORMATS[x.dim()])
    parameters = [torch.randn(channels) for _ in range(2)] if affine else []
    running = [torch.randn(channels), torch.rand(channels) + 0.5]
    pad = [] if affine else [None, None]

    def passes(function, compute, dy=None):
        """The output, the running statistics and all gradients for dy, or for a random one."""
        inputs = [t.detach().to(torch.promote_types(t.dtype, compute)).requires_grad_() for t in (x, *parameters)]
        statistics = [t.to(torch.promote_types(t.dtype, compute), copy=True) for t in running]
        y = function(*inputs, *pad, *statistics, training, activation)
        if dy is None:  # 0 beside a kink, where a rounding decides which slope there is
            dy = torch.randn(y.shape).to(dtype) * (y.detach().abs() > 1e-2)
        return [y, *statistics, *torch.autograd.grad(y, inputs, dy.to(y.dtype))], dy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "processors", lambda device: 3)  # twelve parts of each reduction
        ours, dy = passes(functools.partial(compute_actual, impl="triton"), dtype)
    stock, _ = passes(compute_expected, torch.float32, dy)
    exact, _ = passes(compute_expected, torch.float64, dy)
    for i, (mine, theirs, right) in enumerate(zip(ours, stock, exact, strict=True)):
        wide = i in (1, 2) or (i > 3 and affine)
        as_accurate(mine, theirs, right, FACTORS[i > 2], torch.float32 if wide else dtype)


@pytest.mark.parametrize("last", [True, False])
def test_offsets_past_two_to_the_31(last, monkeypatch):
    """With 64-bit addresses results are the same bits; the interpreter checks that no integer overflows."""
    x, dy = torch.randn(2, 3, 18, 2, 3).unbind()
    if last:
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    arguments = torch.rand(18), torch.rand(18)

    def both():
        norm = Norm(None, None, *arguments, True, 1e-5, "tanh", 0.0)
        y, mean, var = triton.norm_act(x, norm)
        return y, mean, var, *triton.norm_act_backward(dy, x, norm._replace(mean=mean, var=var))

    narrow = both()
    monkeypatch.setattr(triton, "_LARGE", 1)
    assert all(map(torch.equal, both(), narrow))


def test_channels_whose_offsets_are_past_two_to_the_31():
    """A few rows of a volume of 2³⁰ positions; memory that nobody touches costs nothing."""
    torch.use_deterministic_algorithms(False)  # or all of it is filled
    x = torch.empty(3 * 2**30, dtype=torch.float16).view(1, 3, 2**30)
    x[:, :, :4] = torch.arange(12.0).view(1, 3, 4)
    mean, var = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 4, 16])
    sizes = 4, 3, 2**30
    norm, plan = triton.Affine(None, None, mean, var, 0.0, 0.0), triton.Plan(False, True, 16, 1)
    triton.forward_kernel[(3,)](x, x, None, norm, triton.Sizes(*sizes), plan)
    assert x[0, :, :4].tolist() == [[-1, 0, 1, 2], [1, 1.5, 2, 2.5], [1.25, 1.5, 1.75, 2]]


def test_many_parts_are_added_up():
    for parts in (torch.randn(137, 2, 50), torch.randn(3, 1, 129)):
        outs = [torch.empty(parts.shape[2]) for _ in range(parts.shape[1])]
        triton_parts.add_parts(parts, *outs)
        torch.testing.assert_close(torch.stack(outs), parts.double().sum(0).float())


def test_rows_and_channels_of_any_number_are_one_axis_of_the_grid():
    """CUDA takes no more than 65,535 programs along the others."""
    x = torch.randn(2, 70_000, 1)
    assert triton._Launch(x.expand(2, 70_000, 3).contiguous()).blocks(Config(256, 1)) == (70_000,)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_silu_and_gelu_where_they_are_next_to_nothing_and_at_extremes(activation):
    """Against the functions in float64, gelu by erfc: torch's is by 1 + erf, which has no digits left there."""
    z = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-6, 6, 2001), torch.tensor([3e38, -3e38])])
    z = torch.cat([z, torch.tensor([float("inf"), -float("inf"), float("nan")])]).reshape(-1, 1).requires_grad_()
    y = norm_act(z, None, None, torch.zeros(1), torch.ones(1), False, 0.1, 0.0, activation, impl="triton")
    (dx,) = torch.autograd.grad(y.sum(), z)
    exact = z.detach().double().requires_grad_()
    right = exact * (torch.sigmoid(exact) if activation == "silu" else 0.5 * torch.erfc(exact * -math.sqrt(0.5)))
    (slope,) = torch.autograd.grad(right.sum(), exact)
    # z²/2 is rounded before its exponential is taken.
    growth = torch.where(exact.abs() < 14, exact.square() / 8, 0) if activation == "gelu" else 0
    beyond = 6e-7 * right.abs() * (1 + growth) + 1e-36
    finite = torch.isfinite(exact)
    assert ((y.double() - right).abs() <= beyond)[finite].all()
    assert ((dx.double() - slope).abs() <= 6e-7)[finite & (exact.abs() < 1e30)].all()
    torch.testing.assert_close(y[~finite].double(), right[~finite], equal_nan=True)
