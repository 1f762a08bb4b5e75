"""Tensors as the compiled C++ operations (csrc/) take them: device, dtype, layout, parameters in float32."""

import torch

from . import dtypes, extension, layout


def cpu_refusal(x: torch.Tensor) -> str | None:
    """Return why an operation that only csrc/cpu implements cannot take x, of any shape, or None if it can."""
    if extension.load() is None:
        return extension.reason()
    if not x.is_cpu:
        return f"it is for the CPU, not for {x.device.type}"
    return dtypes.refusal(x.dtype)


def empty(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return an empty tensor (N, C, *space) of like's dtype, channels innermost, on large pages where available."""
    y = layout.empty_with_channels_innermost(like, shape)
    module = extension.load()
    assert module is not None, "only compiled operations call this"
    module.prefer_large_pages(y.data_ptr(), y.nbytes)
    return y


def make_dense(x: torch.Tensor) -> torch.Tensor:
    """Return x (N, C, *space), copied if it is neither contiguous nor channels-last."""
    if x.is_contiguous() or _channels_last(x).is_contiguous():
        return x
    # The nearer layout: whichever dimension varies fastest in memory stays the fastest.
    return _from_channels_last(_channels_last(x).contiguous()) if x.stride(1) == 1 else x.contiguous()


def lay_out_like(other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `other` in x's dtype and layout.

    Args:
        other: (N, C, *space).
        x: (N, C, *space), dense.

    Raises:
        ValueError: the shapes differ.
    """
    if other.shape != x.shape:
        raise ValueError(f"dy and a residual must have x's shape {tuple(x.shape)}, not {tuple(other.shape)}")
    other = other.to(x.dtype)
    return other.contiguous() if x.is_contiguous() else _from_channels_last(_channels_last(other).contiguous())


def as_float32(vector: torch.Tensor | None) -> torch.Tensor | None:
    """Return a parameter (C,) as kernels read it: dense, float32, detached; None stays None."""
    if vector is None or (
        # Returned unchanged: three calls to torch take 2 µs per parameter.
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
