"""What the compiled C++ operations (csrc/) ask of their tensors: device, dtype, layout, parameters in float32."""

import torch

from . import dtypes, extension, layout


def cpu_refusal(x: torch.Tensor) -> str | None:
    """Why an operation that csrc/cpu alone implements cannot take `x`, in one sentence, or None when it can."""
    if extension.load() is None:
        return extension.reason()
    if not x.is_cpu:
        return f"it is for the CPU, not for {x.device.type}"
    return dtypes.refusal(x.dtype)


def empty(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An empty tensor (N, C, *space) of like's dtype with channels innermost, on large pages where there are any."""
    y = layout.empty_with_channels_innermost(like, shape)
    extension.load().prefer_large_pages(y.data_ptr(), y.nbytes)
    return y


def make_dense(x: torch.Tensor) -> torch.Tensor:
    """x (N, C, *space), copied where it is neither contiguous nor channels-last."""
    if x.is_contiguous() or _channels_last(x).is_contiguous():
        return x
    # The nearer layout: whichever dimension varies fastest in memory stays the fastest.
    return _from_channels_last(_channels_last(x).contiguous()) if x.stride(1) == 1 else x.contiguous()


def lay_out_like(other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`other` in x's dtype and layout, which is dense.

    Raises:
        ValueError: it is not of x's shape.
    """
    if other.shape != x.shape:
        raise ValueError(f"dy and a residual must be of x's shape {tuple(x.shape)}, not {tuple(other.shape)}")
    other = other.to(x.dtype)
    return other.contiguous() if x.is_contiguous() else _from_channels_last(_channels_last(other).contiguous())


def as_float32(vector: torch.Tensor | None) -> torch.Tensor | None:
    """A parameter (C,) as kernels read it: dense, float32, without a gradient; None stays None."""
    if vector is None or (
        # As it is: three calls to torch are 2 µs a parameter.
        vector.dtype is torch.float32
        and vector.is_contiguous()
        and not (vector.requires_grad and torch.is_grad_enabled())
    ):
        return vector
    return vector.detach().to(torch.float32).contiguous()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1)


def _from_channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 1)
