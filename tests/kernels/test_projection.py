"""The projection of weights against the orthogonal projection in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan_kernels.projection import UpsamplingKernel
from fastvgan_kernels.projection import project as project_all

SIZES = st.tuples(*[st.integers(1, 9)] * 2, *[st.integers(1, 5)] * 3)
DIMS = st.sets(st.sampled_from([2, 3, 4]))


def signs_of(weight, dim):
    """1, -1, 1, ... along a dimension."""
    signs = torch.tensor([(-1.0) ** i for i in range(weight.shape[dim])])
    return signs.view([-1 if i == dim else 1 for i in range(weight.dim())])


def project(weight, dims, unless=None):
    project_all([UpsamplingKernel(weight, {dim: signs_of(weight, dim) for dim in dims})], unless)


def onto(weight, dims):
    """The weight by matrices I - s s^T / k in float64."""
    for dim in dims:
        size = weight.shape[dim]
        signs = signs_of(weight, dim).flatten().double()
        matrix = torch.eye(size, dtype=torch.float64) - torch.outer(signs, signs) / size
        weight = torch.tensordot(weight.double(), matrix, ([dim], [0])).movedim(-1, dim)
    return weight


@given(SIZES, DIMS, st.sampled_from([None, 0.0]), st.integers(0, 4))
def check(size, dims, unless, innermost):
    weight = torch.randn(size).movedim(innermost, -1).contiguous().movedim(-1, innermost)
    expected = onto(weight.double(), dims)
    project(weight, sorted(dims), None if unless is None else torch.tensor(unless))
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_projection_is_the_orthogonal_one(implementation):
    check()
    check.hypothesis.inner_test((5, 3, 4, 4, 4), {2, 3, 4}, 0.0, 0)
    check.hypothesis.inner_test((70, 33, 1, 4, 4), {3, 4}, None, 4)


def test_a_part_of_a_tensor_is_projected_and_nothing_beside_it(implementation):
    whole = torch.randn(6, 4, 4, 4, 8)
    before, part = whole.clone(), whole[::2, :, :, :, 1::2]
    expected = onto(part, [2, 4])
    project(part, [2, 4])
    torch.testing.assert_close(part.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(whole[1::2], before[1::2]) and torch.equal(whole[..., ::2], before[..., ::2])


def test_a_weight_stays_to_the_bit_where_the_flag_is_set(implementation):
    weight = torch.randn(3, 2, 4, 4, 4)
    before = weight.clone()
    project(weight, [2, 3, 4], torch.tensor(1.0))
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4, 4), (2, 2, 1, 40, 40), (2, 2, 1, 70, 40)])
def test_no_weight_and_a_kernel_too_large_for_a_program(implementation, shape):
    weight = torch.randn(shape)
    expected = onto(weight, [3, 4])
    project(weight, [3, 4])
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_weights_of_several_shapes_and_dtypes_at_once(implementation):
    project_all([])
    weights = [torch.randn(3, 2, 4, 4, 4), torch.randn(5, 3, 1, 4, 4), torch.randn(2, 2, 4, 4, 4).double()]
    expected = [onto(weight, [3, 4]) for weight in weights]
    project_all([UpsamplingKernel(weight, {dim: signs_of(weight, dim) for dim in (3, 4)}) for weight in weights])
    for weight, right in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.double(), right, rtol=1e-5, atol=1e-6)
