"""What is fused into the Triton convolutions, under Triton's interpreter: prologue, epilogue and statistics."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_fused_conv import ACTIVATE, assert_near, cases, check, make
from test_fused_conv import test_a_gradient_of_a_gradient_goes_through_the_batch_statistics as check_second_order

from fastvgan_kernels import triton_parts
from fastvgan_kernels.tuning import Config

pytestmark = pytest.mark.usefixtures("interpreted")


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
        y, _, _ = case.fused(case.cast(torch.float32), "triton")
        assert_near("y", y, case.plain(case.leaves)[0], 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_statistics_of_an_output_far_from_zero_do_not_cancel(tile, transposed):
    tile(Config(16, 16, 64))
    case = make(transposed, batch=5, dtype=torch.float32)
    leaves = case.cast(torch.float32) | {"bias": torch.full((2,), 1e3)}
    _, mean, var = case.fused(leaves, "triton", statistics=True)
    _, raw = case.plain({k: v.double() for k, v in leaves.items()})
    assert_near("mean", mean, raw.mean([0, 2, 3, 4]), 1e-6)
    assert_near("var", var, raw.var([0, 2, 3, 4], correction=0), 1e-3)


def test_statistics_of_very_many_parts_are_joined_in_turns(monkeypatch):
    monkeypatch.setattr(triton_parts, "_AT_ONCE", 5)
    counts, means, m2s = torch.randint(0, 9, (137,)), torch.randn(137, 18) + 40, torch.rand(137, 18)
    counts[3] = 0
    mean, var = triton_parts.joined(counts.float(), means, torch.where(counts[:, None] > 0, m2s, 0))
    n, m, s = counts.double()[:, None], means.double(), torch.where(counts[:, None] > 0, m2s, 0).double()
    exact = (n * m).sum(0) / n.sum()
    assert_near("mean", mean, exact, 1e-6)
    assert_near("var", var, (s + n * (m - exact) ** 2).sum(0) / n.sum(), 1e-5)


def test_an_empty_batch_has_no_statistics():
    case = make(True, "none", None, batch=1, dtype=torch.float32)
    leaves = case.cast(torch.float32)
    leaves["x"] = leaves["x"][:0]
    y, mean, var = case.fused(leaves, "triton", statistics=True)
    assert y.shape[0] == 0 and mean.isnan().all() and var.isnan().all()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gradient_of_a_gradient(transposed):
    check_second_order(transposed, "triton", torch.float32, "leaky_relu", "tanh")
