"""What sizes a convolution takes to which: the one place for that arithmetic. One integer a spatial dimension."""


def small(large, kernel, stride, padding, dilation) -> list:
    """What a convolution makes of an input of size `large`."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(large, kernel, stride, padding, dilation, strict=True)
    ]


def large(small, kernel, stride, padding, output_padding, dilation) -> list:
    """What a transposed convolution makes of an input of size `small`."""
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, k, s, p, e, d in zip(small, kernel, stride, padding, output_padding, dilation, strict=True)
    ]


def extra(large_size, small_size, kernel, stride, padding, dilation) -> list:
    """The output_padding with which conv_up goes from `small_size` to `large_size`."""
    least = large(small_size, kernel, stride, padding, [0] * len(stride), dilation)
    return [n - m for n, m in zip(large_size, least, strict=True)]


def trim(x, size):
    """Cut off what lies beyond `size`: conv_down goes past the small side where output_padding ≥ stride."""
    for dim, n in enumerate(size, start=2):
        if x.shape[dim] != n:
            x = x.narrow(dim, 0, n)
    return x
