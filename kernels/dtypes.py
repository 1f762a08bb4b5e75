"""Dtypes of compiled and Triton kernels, and of statistics."""

import torch

COMPILED = (torch.float32, torch.bfloat16, torch.float16)


def refusal(dtype: torch.dtype) -> str | None:
    """Return why no compiled kernel takes the dtype, or None if they do."""
    return None if dtype in COMPILED else f"{dtype} is not one of float32, bfloat16 and float16"


def statistics_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of statistics of x, of any shape: float32, or float64 for float64 input."""
    return torch.promote_types(x.dtype, torch.float32)
