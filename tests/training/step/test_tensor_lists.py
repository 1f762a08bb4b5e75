"""Lists of tensors against the same one by one."""

import pytest
import torch

from fastvgan.training.step import tensor_lists
from fastvgan.training.step.tensor_lists import average_into, copy_bytes, restore_where


def buffers():
    return [torch.randn(5), torch.tensor(7), torch.randn(3).double(), torch.rand(4).half(), torch.tensor([True, False])]


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_tensors_are_brought_back_or_not_to_the_bit(bad):
    tensors = buffers()
    old = [x.clone() for x in tensors]
    before = copy_bytes(tensors)
    for x, new in zip(tensors, buffers(), strict=True):
        x.copy_(new)
    tensors[0][1], tensors[0][2], tensors[2][0] = torch.nan, -torch.inf, torch.nan
    tensors[1].fill_(-(2**62))
    now = [x.clone() for x in tensors]
    restore_where(torch.tensor(bad), tensors, before)
    for x, expected in zip(tensors, old if bad else now, strict=True):
        assert torch.equal(x.view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))


def test_no_tensors_are_no_trouble():
    restore_where(torch.tensor(1.0), [], copy_bytes([]))


@pytest.mark.parametrize("fast", [False, True])
def test_means_move_as_by_lerp(fast, monkeypatch):
    monkeypatch.setattr(tensor_lists, "lists_are_fast", lambda device: fast)
    means, new = [torch.randn(3, 2), torch.randn(50)], [torch.randn(3, 2), torch.randn(50)]
    expected = [m.double().lerp(n.double(), 0.125) for m, n in zip(means, new, strict=True)]
    average_into(means, new, torch.tensor(0.125))
    for mean, right in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.double(), right, rtol=1e-6, atol=1e-7)
