"""conv_up, conv_down and conv_weight_grad against float64 PyTorch."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastvgan_kernels import conv_down, conv_up, conv_weight_grad

DOWN = [functional.conv1d, functional.conv2d, functional.conv3d]
UP = [functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d]
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded")


@dataclass
class Case:
    """A transposed convolution: `small` to `large`; read backwards, a convolution."""

    batch: int
    channels: tuple[int, int]  # of small, of large
    small: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    output_padding: list[int]
    dilation: list[int]
    groups: int
    layout: str
    bias: bool

    @property
    def large(self):
        sizes = zip(self.small, self.kernel, self.stride, self.padding, self.output_padding, self.dilation, strict=True)
        return [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, e, d in sizes]

    def tensors(self, dtype=torch.float64):
        small = arrange(torch.randn(self.batch, self.channels[0], *self.small, dtype=dtype), self.layout)
        large = arrange(torch.randn(self.batch, self.channels[1], *self.large, dtype=dtype), self.layout)
        weight = torch.randn(self.channels[0], self.channels[1] // self.groups, *self.kernel, dtype=dtype)
        return small, large, weight

    @property
    def down_args(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def up_args(self):
        return self.down_args | {"output_padding": self.output_padding}


def arrange(x, layout):
    """The same values in another memory layout."""
    if layout == "channels_last" and x.dim() > 3:
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "sliced":
        return torch.stack([x, torch.full_like(x, math.nan)], -1).flatten(-2)[..., ::2]
    if layout == "expanded":
        return x[:, :1].expand(x.shape)
    return x


@st.composite
def cases(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel_limit = {1: 7, 2: 5, 3: 3}[dims]
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    kernel, stride, dilation = each(1, kernel_limit), each(1, 4), each(1, 3)
    small = each(1, 4)
    output_padding = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    padding = [
        draw(st.integers(0, min(3, ((n - 1) * s + d * (k - 1) + e) // 2)))
        for n, s, d, k, e in zip(small, stride, dilation, kernel, output_padding, strict=True)
    ]
    return Case(
        batch=draw(st.integers(0, 2)),
        channels=(groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))),
        small=small,
        kernel=kernel,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
        layout=draw(st.sampled_from(LAYOUTS)),
        bias=draw(st.booleans()),
    )


def naive_weight_grad(large, small, case):
    """The definition in conv_weight_grad's docstring, one kernel tap at a time, with `large` padded by zeros."""
    dims = len(case.kernel)
    spare = [
        d * (k - 1) + s * n for d, k, s, n in zip(case.dilation, case.kernel, case.stride, case.small, strict=True)
    ]
    pads = [pad for p, extra in zip(case.padding[::-1], spare[::-1], strict=True) for pad in (p, extra)]
    large = functional.pad(large, pads)
    groups, n = case.groups, small.shape[0]
    grad = small.new_zeros(small.shape[1], large.shape[1] // groups, *case.kernel)
    for tap in torch.cartesian_prod(*[torch.arange(k) for k in case.kernel]).reshape(-1, dims).tolist():
        start = [j * d for j, d in zip(tap, case.dilation, strict=True)]
        window = large[(..., *(slice(a, a + s * m, s) for a, s, m in zip(start, case.stride, case.small, strict=True)))]
        product = torch.einsum(
            "ngal,ngbl->gab",
            small.reshape(n, groups, small.shape[1] // groups, math.prod(case.small)),
            window.reshape(n, groups, large.shape[1] // groups, math.prod(case.small)),
        )
        grad[(..., *tap)] = product.flatten(0, 1)
    return grad


@settings(max_examples=60)
@given(cases())
def test_conv_up_is_torchs_forward_and_backward(case):
    small, large, weight = case.tensors()
    dims, bias = len(case.kernel), torch.randn(case.channels[1], dtype=torch.float64) if case.bias else None
    inputs = [t.detach().requires_grad_() for t in (small, weight) + ((bias,) if case.bias else ())]
    expected = UP[dims - 1](*inputs, **case.up_args)
    actual = conv_up(*inputs, **case.up_args)
    torch.testing.assert_close(actual, expected)
    grads = torch.autograd.grad(actual, inputs, large, allow_unused=True)
    for grad, wanted in zip(grads, torch.autograd.grad(expected, inputs, large), strict=True):
        torch.testing.assert_close(grad, wanted)


@settings(max_examples=60)
@given(cases())
def test_conv_down_is_torchs_forward_and_backward(case):
    _, large, weight = case.tensors()
    dims, bias = len(case.kernel), torch.randn(case.channels[0], dtype=torch.float64) if case.bias else None
    inputs = [t.detach().requires_grad_() for t in (large, weight) + ((bias,) if case.bias else ())]
    expected = DOWN[dims - 1](*inputs, **case.down_args)
    actual = conv_down(*inputs, **case.down_args)
    torch.testing.assert_close(actual, expected)
    dy = torch.randn_like(expected)
    grads = torch.autograd.grad(actual, inputs, dy)
    for grad, wanted in zip(grads, torch.autograd.grad(expected, inputs, dy), strict=True):
        torch.testing.assert_close(grad, wanted)


@settings(max_examples=60)
@given(cases())
def test_conv_weight_grad_is_its_definition(case):
    small, large, _ = case.tensors()
    actual = conv_weight_grad(large, small, case.kernel, **case.down_args)
    torch.testing.assert_close(actual, naive_weight_grad(large, small, case))


@settings(max_examples=20)
@given(cases())
def test_derivatives_of_every_kind(case):
    case.batch, case.layout = min(case.batch, 1), "contiguous"  # gradcheck refuses overlapping memory
    small, large, weight = (t.detach().requires_grad_() for t in case.tensors())
    checks = [
        (lambda x, w: conv_up(x, w, **case.up_args), (small, weight)),
        (lambda x, w: conv_down(x, w, **case.down_args), (large, weight)),
        (lambda a, b: conv_weight_grad(a, b, case.kernel, **case.down_args), (large, small)),
    ]
    for function, inputs in checks:
        assert gradcheck(function, inputs, fast_mode=True)
        assert gradgradcheck(function, inputs, fast_mode=True)


def test_third_order():
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def slope(x, w):
        (dx,) = torch.autograd.grad(conv_down(x, w).square().sum(), x, create_graph=True)
        return dx.square().sum()

    assert gradgradcheck(slope, (x, w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [1, 4])
def test_error_is_at_most_twice_that_of_stock(dtype, layout, size):
    case = Case(2, (16, 8), [size] * 3, [4] * 3, [2] * 3, [1] * 3, [0] * 3, [1] * 3, 1, layout, False)
    small, large, weight = case.tensors(dtype)
    for ours, stock, x in (
        (lambda *a: conv_up(*a, **case.up_args), lambda *a: UP[2](*a, **case.up_args), small),
        (lambda *a: conv_down(*a, **case.down_args), lambda *a: DOWN[2](*a, **case.down_args), large),
    ):
        exact = stock(x.double(), weight.double())
        error = (ours(x, weight).double() - exact).abs().max()
        room = torch.finfo(dtype).eps * exact.abs().max()
        assert error <= 2 * (stock(x, weight).double() - exact).abs().max() + room
    exact = conv_weight_grad(large.double(), small.double(), 4, 2, 1)
    error = (conv_weight_grad(large, small, 4, 2, 1).double() - exact).abs().max()
    assert error <= 4 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_is_kept_also_through_one_channel(channels):
    last = {"memory_format": torch.channels_last_3d}
    x = torch.randn(2, 4, 4, 4, channels).permute(0, 4, 1, 2, 3)
    up = torch.randn(channels, 1, 2, 2, 2)
    one = conv_up(x, up, stride=2)
    assert one.stride(1) == 1 and one.is_contiguous(**last)
    y = conv_down(one, torch.randn(4, 1, 2, 2, 2))
    assert y.is_contiguous(**last) and not y.is_contiguous()
    noise = torch.randn(2, 4, 1, 1, 1)  # is both, so the weight decides
    assert conv_up(noise, torch.randn(4, 4, 4, 4, 4).to(**last)).is_contiguous(**last)
    assert conv_up(noise, torch.randn(4, 4, 4, 4, 4)).is_contiguous()


def test_no_gradient_is_computed_that_nobody_wants(monkeypatch):
    from fastvgan_kernels.conv import reference

    called = []
    for name in ("conv_up", "conv_down", "conv_weight_grad"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *args, _real=real, _name=name: called.append(_name) or _real(*args))
    x, w = torch.randn(1, 2, 4, requires_grad=True), torch.randn(2, 2, 3, requires_grad=True)
    conv_down(x, w.detach(), impl="reference").sum().backward()
    assert called == ["conv_down", "conv_up"]
    called.clear()
    conv_down(x.detach(), w, impl="reference").sum().backward()
    assert called == ["conv_down", "conv_weight_grad"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w: conv_down(x, w.double()), TypeError, "weight is torch.float64 but x torch.float32"),
        (lambda x, w: conv_down(x.int(), w), TypeError, "floating-point"),
        (lambda x, w: conv_down(x[:, :1], w), ValueError, "to have 2 channels, but got 1"),
        (
            lambda x, w: conv_down(x, w, groups=3),
            ValueError,
            "given groups=3 .* to have 6 channels, but got 2",
        ),
        (lambda x, w: conv_down(x, w[:, :1], groups=2, stride=2, impl="auto", bias=w), ValueError, "bias must be"),
        (lambda x, w: conv_up(x, w, groups=3), ValueError, "2 input channels are not divisible by groups=3"),
        (lambda x, w: conv_down(x, w, torch.zeros(9)), ValueError, "bias must be of shape"),
        (lambda x, w: conv_down(x, w, stride=0), ValueError, "stride must be"),
        (lambda x, w: conv_down(x, w, padding=(1, 1)), ValueError, "padding must be"),
        (lambda x, w: conv_down(x, w, dilation=9), ValueError, "smaller than the kernel"),
        (lambda x, w: conv_down(x, w[0]), ValueError, "spatial sizes"),
        (lambda x, w: conv_up(x, w, output_padding=1), ValueError, "output_padding 1 must be smaller"),
        (lambda x, w: conv_up(x, w, padding=9), ValueError, "leaves no output"),
        (lambda x, w: conv_weight_grad(x, x, 5), ValueError, "no convolution of kernel"),
        (lambda x, w: conv_down(x, w, impl="magic"), ValueError, "impl must be one of auto, reference"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 3, 3, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype):
    case = Case(2, (8, 4), [3] * 3, [4] * 3, [2] * 3, [1] * 3, [0] * 3, [1] * 3, 1, "channels_last", False)
    small, large, weight = case.tensors()
    on_gpu = [t.to("cuda", dtype) for t in (small, large, weight)]
    tolerance = {"rtol": 0.02, "atol": 0.5 if dtype is torch.bfloat16 else 0.1}
    for ours, exact in (
        (conv_up(on_gpu[0], on_gpu[2], **case.up_args), conv_up(small, weight, **case.up_args)),
        (conv_down(on_gpu[1], on_gpu[2], **case.down_args), conv_down(large, weight, **case.down_args)),
        (conv_weight_grad(on_gpu[1], on_gpu[0], 4, 2, 1), conv_weight_grad(large, small, 4, 2, 1)),
    ):
        assert ours.is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(ours.cpu().double(), exact, **tolerance)
