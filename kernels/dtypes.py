"""The dtypes that compiled and Triton kernels take, and the dtype of statistics."""

import torch

COMPILED = (torch.float32, torch.bfloat16, torch.float16)


def refusal(dtype: torch.dtype) -> str | None:
    """Why no compiled kernel takes that dtype, in one sentence, or None."""
    return None if dtype in COMPILED else f"{dtype} is not one of float32, bfloat16 and float16"


def statistics_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the statistics of x: float32, or float64 for float64 input."""
    return torch.promote_types(x.dtype, torch.float32)
