"""Tensors with channels innermost, against torch's own strides."""

import itertools

import pytest
import torch

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels import layout

SHAPES = [
    *itertools.product((0, 1, 3), (0, 1, 4), (0, 1, 5)),
    *itertools.product((0, 2), (1, 4), (1, 5), (1, 3), (2, 0)),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_empty_is_laid_out_as_a_contiguous_tensor_with_channels_last(shape):
    n, channels, *space = shape
    right = torch.empty((n, *space, channels)).movedim(-1, 1)
    like = torch.empty(1, dtype=torch.float64)
    made = layout.empty_with_channels_innermost(like, shape, torch.float32)
    assert made.shape == right.shape and made.stride() == right.stride() and made.dtype == torch.float32
    assert layout.empty_with_channels_innermost(like, shape).dtype == torch.float64
    assert not made._is_view()


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6), (2, 1, 4, 5)])
def test_a_tensor_is_copied_only_where_its_channels_are_not_innermost(shape):
    x = torch.randn(shape)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    assert layout.with_channels_innermost(last) is last
    assert layout.with_channels_innermost(last[:, :, 1:]).data_ptr() == last[:, :, 1:].data_ptr()
    made = layout.with_channels_innermost(x)
    assert torch.equal(made, x) and (made is x if shape[1] == 1 else made.stride() == last.stride())


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 2, 3, 4), (1, 3, 4, 2), (2, 1, 3, 4), (2, 3, 1, 4, 5)])
def test_the_format_is_torchs_for_every_order_of_dimensions(shape):
    """Stock PyTorch's batch norm gives its output the format that torch sees in the input's strides."""
    for order in itertools.permutations(range(len(shape))):
        x = torch.empty([shape[d] for d in order]).permute([order.index(d) for d in range(len(shape))])
        y = torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)
        assert y.is_contiguous(memory_format=layout.format_of(x)), x.stride()


def test_a_slice_has_the_format_of_the_whole_and_one_that_repeats_values_is_contiguous():
    x = torch.empty(4, 6, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    for part in (x[:, 1:4], x[1:3, :, :4:2], x[..., 2:5], x[:, :, 1:2, 3:, 2:3], x[:1]):
        assert layout.format_of(part) is torch.channels_last_3d
    assert layout.format_of(x[:, :, :, :1].expand(-1, -1, -1, 6, -1)) is torch.contiguous_format
