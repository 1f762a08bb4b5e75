"""The arithmetic of a convolution's sizes, with one integer per spatial dimension.

The large side is a convolution's input or a transposed convolution's output; the small side is the other one.
"""

from collections.abc import Sequence

from torch import Tensor

_Integers = Sequence[int]


def small(large: _Integers, kernel: _Integers, stride: _Integers, padding: _Integers, dilation: _Integers) -> list[int]:
    """Return the output size of a convolution whose input has size `large`."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(large, kernel, stride, padding, dilation, strict=True)
    ]


def large(
    small: _Integers,
    kernel: _Integers,
    stride: _Integers,
    padding: _Integers,
    output_padding: _Integers,
    dilation: _Integers,
) -> list[int]:
    """Return the output size of a transposed convolution whose input has size `small`."""
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, k, s, p, e, d in zip(small, kernel, stride, padding, output_padding, dilation, strict=True)
    ]


def output_padding(
    large_size: _Integers,
    small_size: _Integers,
    kernel: _Integers,
    stride: _Integers,
    padding: _Integers,
    dilation: _Integers,
) -> list[int]:
    """Return the output_padding with which conv_up turns `small_size` into `large_size`."""
    least = large(small_size, kernel, stride, padding, [0] * len(stride), dilation)
    return [n - m for n, m in zip(large_size, least, strict=True)]


def trim(x: Tensor, size: _Integers) -> Tensor:
    """Cut x (N, C, *space) to (N, C, *size): conv_down returns too much where output_padding ≥ stride."""
    for dim, n in enumerate(size, start=2):
        if x.shape[dim] != n:
            x = x.narrow(dim, 0, n)
    return x
