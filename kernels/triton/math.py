"""Device functions of several kernels: activations, their slopes, and the merging of statistics.

They compute in float32 and in plain arithmetic, because Triton's interpreter lacks the functions of libdevice.
"""

import triton.language as tl

from .jit import constexpr, jit

# The same numbers as in activations.CODES.
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)
TANH = tl.constexpr(3)
SILU = tl.constexpr(4)
GELU = tl.constexpr(5)


@jit
def tanh(x):
    """tanh to two units in the last place, by a polynomial near 0 and by exp elsewhere; after Cephes' tanhf."""
    size = tl.abs(x)
    square = x * x
    near = -5.70498872745e-3 * square + 2.06390887954e-2
    near = near * square - 5.37397155531e-2
    near = near * square + 1.33314422036e-1
    near = near * square - 3.33332819422e-1
    near = near * square * x + x
    small = tl.exp(-2.0 * size)
    far = (1.0 - small) / (1.0 + small)
    return tl.where(size < 0.625, near, tl.where(x < 0.0, -far, far))


@jit
def sigmoid(x):
    """The logistic function."""
    return 1.0 / (1.0 + tl.exp(-x))


@jit
def normal_distribution(x):
    """The normal distribution function at x, to a few units in the last place, and exp(-x²/2).

    The tail beyond u = |x| is exp(-u²/2) · t · P(t), t = 1 / (1 + 0.26375 u), as in Abramowitz and Stegun's formula
    26.2.17. P has degree 8 here and the least relative error over u up to 14, which is 1.5e-8.
    """
    bell = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.26375 * tl.abs(x))
    p = 3.078744560e-2 * t - 1.465174705e-1
    p = p * t + 2.261828631e-1
    p = p * t - 1.246793345e-1
    p = p * t + 1.433892250e-1
    p = p * t + 5.815467238e-2
    p = p * t + 1.027416810e-1
    p = p * t + 1.046953350e-1
    p = p * t + 1.052455753e-1
    tail = bell * (t * p)
    return tl.where(x < 0.0, tail, 1.0 - tail), bell


@jit
def activate(x, slope, ACTIVATION: constexpr):
    """The activation of x; NaN stays NaN."""
    if ACTIVATION == RELU:
        x = tl.where(x < 0.0, 0.0, x)
    if ACTIVATION == LEAKY_RELU:
        x = tl.where(x < 0.0, x * slope, x)
    if ACTIVATION == TANH:
        x = tanh(x)
    if ACTIVATION == SILU:
        x = x * sigmoid(x)
    if ACTIVATION == GELU:
        share, bell = normal_distribution(x)
        x = x * share
    return x


@jit
def slope_at(z, slope, ACTIVATION: constexpr):
    """The activation's derivative at z with torch's conventions: at 0 the negative side's, and 1 for relu at NaN."""
    result = tl.full(z.shape, 1.0, tl.float32)
    if ACTIVATION == RELU:
        result = tl.where(z <= 0.0, 0.0, 1.0)
    if ACTIVATION == LEAKY_RELU:
        result = tl.where(z > 0.0, 1.0, slope)
    if ACTIVATION == TANH:
        y = tanh(z)
        result = 1.0 - y * y
    if ACTIVATION == SILU:
        result = sigmoid(z) * (1.0 + z * sigmoid(-z))
    if ACTIVATION == GELU:
        share, bell = normal_distribution(z)
        result = share + z * bell * 0.3989422804014327  # 1 / √(2π)
    return result


@jit
def merge(count, mean, m2, other_count, other_mean, other_m2):
    """Count, mean and sum of squared deviations of the union of two sets; Chan, Golub and LeVeque, 1979."""
    total = count + other_count
    share = other_count / tl.maximum(total, 1.0)
    delta = other_mean - mean
    return total, mean + delta * share, m2 + other_m2 + delta * delta * count * share


@jit
def merge_rows(values, present):
    """Count, mean and sum of squared deviations of each column of (R, C), over the rows that are present (R, 1)."""
    count = tl.sum(present.to(tl.float32), 0)
    total = tl.sum(tl.where(present, values, 0.0), 0)
    mean = total / tl.maximum(count, 1.0)
    off = tl.where(present, values - mean[None, :], 0.0)
    return count, mean, tl.sum(off * off, 0)


@jit
def merge_tile(count, mean, m2):
    """The union of the sets in a tile's rows: counts (R, 1) or (R, C) to (1,) or (C,), the others (R, C) to (C,)."""
    total = tl.sum(count, 0)
    centre = tl.sum(count * mean, 0) / tl.maximum(total, 1.0)
    off = mean - centre[None, :]
    return total, centre, tl.sum(m2 + count * off * off, 0)
