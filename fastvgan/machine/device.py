"""Which device, precision and implementations a command takes."""

from typing import Any

import torch

import fastvgan_kernels
from fastvgan.errors import UserError

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, index: int = 0) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; of several GPUs that of this index.

    Raises:
        UserError: cuda was asked for and this torch sees no GPU, or not so many.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; take --device cpu, or install a CUDA torch")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise UserError(
            f"this is process {index} of its machine, which has {torch.cuda.device_count()} GPUs; "
            "start as many processes as there are GPUs, or take --device cpu"
        )
    return torch.device("cuda", index)


def pick_precision(name: str, device: torch.device) -> str:
    """`auto` resolved: bf16 where the device has instructions for it (else it is emulated and slower), or fp32.

    Raises:
        UserError: tf32 was asked for and the device has none.
    """
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise UserError(f"--precision tf32 is for NVIDIA GPUs from sm_80 on, not for {device}; take fp32 or auto")
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Younger than the oldest torch that is supported; there float32 is taken, which is never wrong.
        has = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return "bf16" if fast else "fp32"


def use_precision(name: str) -> torch.dtype:
    """Set this process up for fp32, tf32, bf16 or fp16; gives the dtype for autocast, float32 for none."""
    multiplied = "tf32" if name == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = multiplied
    torch.backends.cudnn.rnn.fp32_precision = multiplied  # torch.export refuses where the two differ
    torch.backends.cuda.matmul.fp32_precision = multiplied
    return _DTYPES[name]


def time_algorithms(device: torch.device) -> None:
    """Have cuDNN time its algorithms for each shape of convolution, once, and take the fastest, if `device` is a GPU.

    A run has few shapes and computes each in every step. On an H100 the command took 4.9 ms a step of the preset
    `reference` without this, and the same step 2.4 ms in a benchmark with it (bench/results/command-h100.json,
    breakdown-h100.json, commit b44c2df).
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def pick_implementations() -> dict[str, Any]:
    """What `fastvgan_kernels.implementations` says.

    Raises:
        UserError: the environment variable FASTVGAN_IMPL names no implementation.
    """
    try:
        return fastvgan_kernels.implementations()
    except ValueError as error:
        raise UserError(str(error)) from None
