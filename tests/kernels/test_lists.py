"""Operations on lists of tensors against the same one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan_kernels import choice, lists
from fastvgan_kernels.measured.capture import launches_are_captured

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=5).map(tuple), min_size=1, max_size=8)
LONG = [(70, 33), (1,), (), (5000,), (0,), (2, 3, 4, 4, 4), (1024,)]


@pytest.fixture(params=["reference", "lists of a GPU", pytest.param("triton", marks=pytest.mark.triton)])
def implementation(request, prefer, monkeypatch):
    if request.param == "lists of a GPU":
        monkeypatch.setattr(lists.reference, "lists_are_fast", lambda device: True)
    prefer("triton" if request.param == "triton" else "reference")


def formats(x):
    """A tensor in each memory layout that weights have, and one that is not dense."""
    moved = [x.movedim(i, -1).contiguous().movedim(-1, i) for i in range(min(x.dim(), 2))]
    return [x, *moved, torch.stack([x, x], -1)[..., 0]]


def buffers():
    return [torch.randn(5), torch.tensor(7), torch.randn(3).double(), torch.rand(4).half(), torch.tensor([True, False])]


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_tensors_are_brought_back_or_not_to_the_bit(implementation, bad):
    tensors = [*buffers(), torch.randn(3000), torch.empty(0)]
    old = [x.clone() for x in tensors]
    before = lists.copy_bytes(tensors)
    for x, new in zip(tensors, [*buffers(), torch.randn(3000), torch.empty(0)], strict=True):
        x.copy_(new)
    tensors[0][1], tensors[0][2], tensors[2][0] = torch.nan, -torch.inf, torch.nan
    tensors[1].fill_(-(2**62))
    now = [x.clone() for x in tensors]
    lists.restore_where(torch.tensor(bad), tensors, before)
    for x, expected in zip(tensors, old if bad else now, strict=True):
        assert torch.equal(x.view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))


def test_no_tensors_are_no_trouble(implementation):
    lists.restore_where(torch.tensor(1.0), [], lists.copy_bytes([]))
    lists.average_into([], [], torch.tensor(0.5))
    lists.copy_into([], [])
    assert torch.linalg.vector_norm(lists.norms([torch.empty(0), torch.empty(2, 0)])) == 0


@given(SHAPES)
def check_means(shapes):
    means, new = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    expected = [m.double().lerp(n.double(), 0.125) for m, n in zip(means, new, strict=True)]
    lists.average_into(means, new, torch.tensor(0.125))
    for mean, right in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.double(), right, rtol=1e-6, atol=1e-7)


def test_means_move_as_by_lerp(implementation):
    check_means()
    check_means.hypothesis.inner_test(LONG * 12)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("other", range(4))
def test_means_of_any_layout_move(implementation, kind, other):
    mean, new = formats(torch.randn(4, 3, 2, 2, 2))[kind], formats(torch.randn(4, 3, 2, 2, 2))[other]
    expected = mean.double().lerp(new.double(), 0.25)
    lists.average_into([mean, torch.randn(3)], [new, torch.randn(3)], torch.tensor(0.25))
    torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=1e-7)


@given(SHAPES)
def check_norms(shapes):
    tensors = [100 * torch.randn(shape) for shape in shapes]
    parts = lists.norms(tensors)
    expected = sum(x.double().square().sum() for x in tensors).sqrt()
    torch.testing.assert_close(torch.linalg.vector_norm(parts).double(), expected, rtol=1e-5, atol=0)
    assert parts.dtype == torch.float32 and parts.dim() == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_norms_are_those_of_all_values(implementation, bad):
    check_norms()
    check_norms.hypothesis.inner_test(LONG * 12)
    for x in [torch.randn(5000), torch.randn(3, 2)], [torch.randn(3).half(), torch.randn(4)]:
        x[0].view(-1)[-1] = bad
        assert not torch.isfinite(lists.norms(x)).all()


def test_norms_of_tensors_that_are_not_dense(implementation):
    for x in formats(torch.randn(4, 3, 2, 2, 2)):
        parts = lists.norms([x, torch.zeros(3)])
        torch.testing.assert_close(torch.linalg.vector_norm(parts), x.double().norm().float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(4, 3, 2, 2, 2), (20, 17, 3, 1, 2), (1, 1, 4, 4, 4), (64, 3, 4, 4, 4), (5, 1), (7,)])
def test_copies_have_the_values_of_tensors_of_any_layout(implementation, shape):
    count = len(formats(torch.empty(shape)))
    for mine in range(count):
        for its in range(count):
            copies = [formats(torch.full(shape, torch.nan).half())[mine], torch.full((3,), torch.nan).half()]
            tensors = [formats(torch.randn(shape))[its], torch.randn(3)]
            lists.copy_into(copies, tensors)
            for copy, x in zip(copies, tensors, strict=True):
                assert torch.equal(copy, x.half())


def test_copies_of_long_lists(implementation):
    tensors = [torch.randn(shape) for shape in LONG * 12]
    copies = [torch.full_like(x, torch.nan) for x in tensors]
    lists.copy_into(copies, tensors)
    assert all(torch.equal(copy, x) for copy, x in zip(copies, tensors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("each", [1, 3])
def test_mean_sigmoids_of_groups(implementation, dtype, each):
    sizes = [(5, 3), (1,), (2, 700), (4, 1, 2), (3000,), (1, 1)]
    tensors = [10 * torch.randn(size).to(dtype) for size in sizes]
    tensors[3] = torch.stack([tensors[3]] * 2, -1)[..., 0]
    groups = [tensors[i : i + each] for i in range(0, len(tensors), each)]
    expected = [torch.stack([x.double().sigmoid().mean() for x in group]).mean() for group in groups]
    found = lists.mean_sigmoids(groups)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=tolerance, atol=0)
    assert found.dtype == torch.float32


def test_mean_sigmoids_of_extremes_and_of_what_is_not_finite(implementation):
    extremes, bad = torch.tensor([-1e30, 1e30, -torch.inf, torch.inf]), torch.tensor([0.0, torch.nan])
    found = lists.mean_sigmoids([[extremes], [bad]])
    assert found[0] == 0.5 and found[1].isnan()


@pytest.mark.triton
def test_a_launch_has_shares_of_all_tensors():
    from fastvgan_kernels.lists.triton import _shares

    shares, programs = _shares([torch.empty(0), torch.empty(1024), torch.empty(1025), torch.empty(3)])
    assert (shares, programs) == (((0, 0, 1, 3), (0, 1024, 1025, 3), 1024), 4)
    many, programs = _shares([torch.empty(3_000_000, device="meta"), torch.empty(5)])
    assert many.each == 2048 and programs == 1465 + 1


def test_triton_is_for_lists_where_launches_are_captured():
    slower = choice._registry["lists"]["triton"].slower
    assert "outside a CUDA graph" in slower(torch.empty(1))
    with launches_are_captured():
        assert slower(torch.empty(1)) is None


@pytest.mark.parametrize("operation", ["lists", "projection", "diversity"])
def test_auto_leaves_to_pytorch_what_has_not_run_on_a_gpu(operation):
    assert "has not been measured on a GPU" in choice._registry[operation]["triton"].held_back["cuda"]
