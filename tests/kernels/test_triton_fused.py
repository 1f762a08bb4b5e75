"""What is fused into the Triton convolutions, under Triton's interpreter: prologue, epilogue and statistics."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_fused_conv import ACTIVATE, assert_near, cases, check, make
from test_fused_conv import test_a_gradient_of_a_gradient_goes_through_the_batch_statistics as check_second_order

pytest.importorskip("triton", reason="Triton is not installed")

from fastvgan_kernels.fused_conv import Geometry, conv_before_norm
from fastvgan_kernels.norm_act.following import Following
from fastvgan_kernels.triton import parts as triton_parts
from fastvgan_kernels.triton.tuning import Config

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("interpreted")]


@pytest.mark.parametrize("dtype, config", [(torch.float32, None), (torch.float16, Config(16, 16, 32))])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATE))
def test_any_case(tile, activation, transposed, dtype, config):
    tile(config)

    @settings(max_examples=4, suppress_health_check=list(HealthCheck))
    @given(cases(transposed, activation, dtype))
    def any_case(case):
        case.x.data = case.x.data[:3]  # a program more takes a second here, and says nothing new
        check(case, "triton", dtype)

    any_case()


@pytest.mark.parametrize("norm", [None, "running"])
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_the_last_layer_with_its_phases_in_one_tile(tile, activation, norm):
    for config in (None, Config(16, 16, 64)):
        tile(config)
        case = make(True, activation, norm, channels=(17, 3), size=(2, 3, 2), kernel=(4, 3, 2), dtype=torch.float32)
        y, _, _ = case.run_fused(case.cast(torch.float32), "triton")
        assert_near("y", y, case.plain(case.leaves)[0], 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_statistics_of_an_output_far_from_zero_do_not_cancel(tile, transposed):
    tile(Config(16, 16, 64))
    case = make(transposed, batch=5, dtype=torch.float32)
    leaves = case.cast(torch.float32) | {"bias": torch.full((2,), 1e3)}
    _, mean, var = case.run_fused(leaves, "triton", statistics=True)
    _, raw = case.plain({k: v.double() for k, v in leaves.items()})
    assert_near("mean", mean, raw.mean([0, 2, 3, 4]), 1e-6)
    assert_near("var", var, raw.var([0, 2, 3, 4], correction=0), 1e-3)


def test_statistics_of_very_many_parts_are_joined_in_turns(monkeypatch):
    monkeypatch.setattr(triton_parts, "_AT_ONCE", 5)
    counts, means, m2s = torch.randint(0, 9, (137,)), torch.randn(137, 18) + 40, torch.rand(137, 18)
    counts[3] = 0
    mean, var = triton_parts.join_parts(counts.float(), means, torch.where(counts[:, None] > 0, m2s, 0))
    n, m, s = counts.double()[:, None], means.double(), torch.where(counts[:, None] > 0, m2s, 0).double()
    exact = (n * m).sum(0) / n.sum()
    assert_near("mean", mean, exact, 1e-6)
    assert_near("var", var, (s + n * (m - exact) ** 2).sum(0) / n.sum(), 1e-5)


@pytest.mark.parametrize("count, size", [(1, 5), (3, 1500), (64, 33), (137, 1030), (300, 65)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_parts_are_added_up_whatever_their_number(outputs, count, size):
    parts = torch.randn(count, outputs, size)
    outs = [torch.empty(size) for _ in range(outputs)]
    triton_parts.add_parts(parts, *outs)
    for which, out in enumerate(outs):
        assert_near("sum", out, parts[:, which].double().sum(0), 1e-6)


def test_an_empty_batch_has_no_statistics():
    case = make(True, "none", None, batch=1, dtype=torch.float32)
    leaves = case.cast(torch.float32)
    leaves["x"] = leaves["x"][:0]
    y, mean, var = case.run_fused(leaves, "triton", statistics=True)
    assert y.shape[0] == 0 and mean.isnan().all() and var.isnan().all()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gradient_of_a_gradient(transposed):
    check_second_order(transposed, "triton", torch.float32, "leaky_relu", "tanh")


UP = Geometry(True, (2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1))
DOWN = UP._replace(transposed=False)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("geometry", [UP, DOWN])
@pytest.mark.parametrize("impl", ["triton", "cpp", "reference"])
def test_what_a_batch_norm_makes_of_the_statistics_is_torchs(tile, impl, geometry, affine):
    """Far from zero, where squares would cancel: scale and shift, both running statistics and the count."""
    tile(Config(16, 16, 64))
    x, weight, bias = torch.randn(3, 5, 4, 6, 4), torch.randn(5, 5, 4, 4, 4), torch.full((5,), 300.0)
    mine = torch.nn.BatchNorm3d(5, eps=5.0, affine=affine)  # an eps that shows beside variances of some 40
    if affine:
        torch.nn.init.normal_(mine.weight)
        torch.nn.init.normal_(mine.bias)
    torch.nn.init.normal_(mine.running_mean)
    exact = copy.deepcopy(mine).double()
    running = mine.running_mean, mine.running_var, mine.num_batches_tracked
    following = Following(mine.weight, mine.bias, mine.eps, *running, mine.momentum)
    y, mean, var, scale, shift = conv_before_norm(x, weight, bias, geometry, None, following, impl)
    convolution = torch.conv_transpose3d if geometry.transposed else torch.conv3d
    raw = convolution(x.double(), weight.double(), bias.double(), 2, 1)
    expected = exact(raw)
    assert_near("mean", mean, raw.mean([0, 2, 3, 4]), 1e-6)
    assert_near("running mean", mine.running_mean, exact.running_mean, 1e-6)
    assert_near("running var", mine.running_var, exact.running_var, 1e-3)
    assert mine.num_batches_tracked == 1
    applied = raw * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1)
    assert_near("norm", applied, expected.detach(), 1e-3)


@pytest.mark.parametrize("impl", ["triton", "cpp", "reference"])
@pytest.mark.parametrize("batch", [0, 1])
def test_too_few_values_leave_the_running_statistics_as_they_are(impl, batch):
    running = torch.ones(2), torch.ones(2), torch.tensor(7)
    following = Following(None, None, 1e-5, *running, 0.1)
    x, weight = torch.randn(batch, 2, 2, 2, 2), torch.randn(2, 2, 4, 4, 4)  # to a single value per channel, or none
    conv_before_norm(x, weight, None, DOWN, None, following, impl)
    assert [r.tolist() for r in running] == [[1, 1], [1, 1], 7]
