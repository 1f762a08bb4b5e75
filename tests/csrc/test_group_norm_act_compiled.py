"""The compiled group_norm_act on the CPU, called as kernels/group_norm_act calls it: odd shapes, and what it refuses.

tests/kernels/test_group_norm_act.py compares its numbers further; these are few, for the sanitizers too.
"""

import pytest
import torch
from torch.nn import functional

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels.group_norm_act import compiled

pytestmark = pytest.mark.extension

EPS = 1e-5
# (N, C, *space), groups: one channel, one value a channel, runs shorter than a vector and longer than a piece, units of
# several groups of which the last one has fewer, rows that fill no vector.
PROBLEMS = [
    ((1, 1, 5), 1),
    ((3, 6), 2),
    ((2, 4, 1, 1, 1), 2),
    ((5, 6, 3, 3), 6),
    ((70, 33, 9), 11),
    ((3, 5, 7, 11, 13), 5),
    ((2, 3, 70, 1000), 1),
    ((3, 17, 100), 17),
    ((1, 16, 8, 160, 160), 4),  # so large that results go past the caches
    ((0, 4, 3), 2),
    ((2, 4, 0), 2),
]


def lay_out(x, last):
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x


@pytest.mark.parametrize(("shape", "groups"), PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_odd_shapes(shape, groups, dtype, last):
    x, dy = (lay_out(torch.randn(shape).to(dtype), last) for _ in range(2))
    weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
    y, mean, inverse = compiled.group_norm_act(x, groups, weight, bias, EPS, "tanh", 0.0)
    grads = compiled.group_norm_act_backward(dy, x, groups, weight, bias, mean, inverse, EPS, "tanh", 0.0)
    assert y.stride() == grads[0].stride() == x.stride() and y.dtype == grads[0].dtype == dtype
    assert mean.shape == inverse.shape == (shape[0], groups)
    inputs = [t.double().contiguous().requires_grad_() for t in (x, weight, bias)]
    if not x.numel():
        assert not mean.any() and not grads[1].any() and not grads[2].any()
        return
    exact = torch.tanh(functional.group_norm(inputs[0], groups, *inputs[1:], EPS))
    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)
    for mine, right in zip(grads, torch.autograd.grad(exact, inputs, dy.double()), strict=True):
        scale = max(right.abs().max().item(), 1.0)
        # Where a group has two values its gradients are differences of terms as large as 1 / √eps.
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=10 * tolerance * scale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups must divide the channels"),
        ({"groups": 0}, "groups must divide the channels"),
        ({"weight": torch.ones(3)}, "weight must be a dense float32 tensor"),
        ({"bias": torch.ones(4, dtype=torch.float64)}, "bias must be a dense float32 tensor"),
        ({"x": torch.randn(2, 4, 3, 3).double()}, "x must be float32, bfloat16 or float16"),
        ({"x": torch.randn(2, 4, 3, 6)[..., ::2]}, "x must be dense"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    given = {"x": torch.randn(2, 4, 3, 3), "groups": 2, "weight": None, "bias": None, **changes}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastvgan_compiled.group_norm_act(*given.values(), EPS, 0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": torch.zeros(2, 4)}, "mean and inverse must be dense float32 tensors"),
        ({"inverse": torch.zeros(2, 2).double()}, "mean and inverse must be dense float32 tensors"),
        ({"dy": torch.randn(2, 4, 3, 2)}, "norm_act: dy must"),
        ({"dy": lay_out(torch.randn(2, 4, 3, 3), True)}, "dy must have x's memory layout"),
    ],
)
def test_wrong_arguments_of_backward_are_refused(changes, message):
    x = torch.randn(2, 4, 3, 3)
    given = {"dy": x, "x": x, "groups": 2, "weight": None, "bias": None}
    given |= {"mean": torch.zeros(2, 2), "inverse": torch.ones(2, 2)} | changes
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastvgan_compiled.group_norm_act_backward(*given.values(), 0, 0.0)
