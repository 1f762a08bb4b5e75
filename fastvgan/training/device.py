"""Which device, precision and implementations a command takes."""

from typing import Any

import torch

import fastvgan_kernels
from fastvgan.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`.

    Raises:
        UserError: cuda was asked for and this torch sees no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; take --device cpu, or install a CUDA torch")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of convolutions and matrix products for `auto`, `fp32` or `bf16`.

    `auto` takes bfloat16 where the device has instructions for it: without them it is emulated and slower.
    """
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Younger than the oldest torch that is supported; there float32 is taken, which is never wrong.
        has = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return torch.bfloat16 if fast else torch.float32


def pick_implementations() -> dict[str, Any]:
    """What `fastvgan_kernels.implementations` says.

    Raises:
        UserError: the environment variable FASTVGAN_IMPL names no implementation.
    """
    try:
        return fastvgan_kernels.implementations()
    except ValueError as error:
        raise UserError(str(error)) from None
