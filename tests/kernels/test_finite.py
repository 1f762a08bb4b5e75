"""The checks for infinite and NaN values against PyTorch's isfinite."""

import pytest
import torch

from fastvgan_kernels.finite import add_finite, check_norms


@pytest.mark.parametrize("bad", [None, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["norms", "loss"])
def test_norms_are_checked(implementation, bad, where):
    norms, loss, found = torch.rand(37) * 100, torch.tensor(-2.0), torch.tensor(torch.nan)
    in_a_row, steps = torch.tensor(4, dtype=torch.int32), torch.arange(50.0)
    if bad is not None:
        (norms if where == "norms" else loss).view(-1)[-1] = bad
    norm = check_norms(norms, loss, found, in_a_row, steps)
    torch.testing.assert_close(norm.double(), norms.double().square().sum().sqrt(), equal_nan=True, rtol=1e-6, atol=0)
    is_bad = bad is not None
    assert found == is_bad and in_a_row == (5 if is_bad else 0)
    assert torch.equal(steps, torch.arange(50.0) + (not is_bad))
    assert found.shape == norm.shape == () and in_a_row.dtype == torch.int32


def test_a_norm_without_a_counter(implementation):
    found = torch.tensor(1.0)
    assert check_norms(torch.tensor([3.0, 4.0]), torch.tensor(0.0), found) == 5 and found == 0


def test_more_norms_and_steps_than_a_tile_has(implementation):
    norms, found, steps = torch.rand(3001), torch.tensor(torch.nan), torch.zeros(2050)
    norm = check_norms(norms, torch.tensor(0.0), found, None, steps)
    torch.testing.assert_close(norm.double(), norms.double().square().sum().sqrt(), rtol=1e-6, atol=0)
    assert found == 0 and (steps == 1).all()


def test_finite_values_are_added_up(implementation):
    totals, out = torch.tensor([[1.0, 2, 3, 4, 5], [1, 1, 1, 1, 1]]), torch.full((5,), 9.0)
    values = torch.tensor([0.5, torch.nan, torch.inf, -torch.inf, -7])
    add_finite(values.unbind(), out, totals)
    assert totals.tolist() == [[1.5, 2, 3, 4, -2], [2, 1, 1, 1, 2]]
    torch.testing.assert_close(out, values, rtol=0, atol=0, equal_nan=True)
