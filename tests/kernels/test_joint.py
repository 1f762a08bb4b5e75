"""Both gradients of a convolution in one call of stock PyTorch, as on a GPU, against float64."""

import pytest
import torch

from fastvgan_kernels import conv, conv_down, conv_up

CASES = {
    # Channels, size, kernel, stride, padding, output_padding, dilation, groups.
    "strided": (4, 6, (7, 6, 5), (3, 4, 2), (2, 2, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1), 1),
    "groups and dilation": (4, 6, (5, 4, 3), (2, 2, 1), (1, 2, 1), (0, 1, 0), (0, 1, 0), (2, 1, 1), 2),
    "one of all": (1, 1, (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_both_gradients_are_those_of_float64(monkeypatch, case, transposed, dtype):
    inputs, outputs, size, kernel, stride, padding, extra, dilation, groups = CASES[case]
    torch.manual_seed(0)
    joined = []
    real = torch.ops.aten.convolution_backward
    monkeypatch.setattr(conv, "is_joinable", lambda *tensors: not torch.is_grad_enabled())
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", lambda *given: joined.append(1) or real(*given))
    shape = (inputs, outputs // groups, *kernel) if transposed else (outputs, inputs // groups, *kernel)
    x = torch.randn(2, inputs, *size, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    leaves = x.requires_grad_(), torch.randn(shape, dtype=dtype, requires_grad=True)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    if transposed:
        options = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
        y = conv_up(*leaves, None, **options, groups=groups, impl="reference")
        right = torch.nn.functional.conv_transpose3d(*exact, **options, groups=groups)
    else:
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        y = conv_down(*leaves, None, **options, groups=groups, impl="reference")
        right = torch.nn.functional.conv3d(*exact, **options, groups=groups)
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, leaves, dy)
    assert joined
    for leaf, mine, theirs in zip(leaves, found, torch.autograd.grad(right, exact, dy.double()), strict=True):
        assert mine.dtype == dtype and mine.shape == leaf.shape
        allowed = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        assert (mine.double() - theirs).norm() <= allowed * theirs.norm()
