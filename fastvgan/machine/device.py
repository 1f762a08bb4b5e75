"""Choose the device, precision and implementations of a command."""

from typing import Any

import torch

import fastvgan_kernels
from fastvgan.errors import UserError
from fastvgan_kernels import choice

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, index: int = 0) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; `index` selects one of several GPUs.

    Raises:
        UserError: `cuda` is requested without a GPU that torch can use, or `index` exceeds the number of GPUs.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device; use --device cpu, or install torch with CUDA")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise UserError(
            f"local rank {index} has no GPU, since this machine has {torch.cuda.device_count()}; "
            "start at most one process per GPU, or use --device cpu"
        )
    return torch.device("cuda", index)


def parse_device(name: str | torch.device) -> torch.device:
    """Return the device of this name, such as "cuda:1".

    Raises:
        UserError: torch does not know the device or cannot use it.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{name!r} is not a device; pass cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{device}: torch sees no CUDA device; use cpu, or install torch with CUDA")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # which one depends on the kind of device
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise UserError(f"{device}: torch cannot use this device ({reason}); use cpu, or another one") from error
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return the precision, with `auto` resolved to bf16 if the device has instructions for it, else to fp32.

    Raises:
        UserError: tf32 is requested and the device does not support it.
    """
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise UserError(f"--precision tf32 is for NVIDIA GPUs from sm_80 on, not for {device}; use fp32 or auto")
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # The oldest supported torch lacks get_capabilities; fp32 is always correct.
        has = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return "bf16" if fast else "fp32"


def use_precision(name: str) -> torch.dtype:
    """Configure this process for fp32, tf32, bf16 or fp16, and return the autocast dtype (float32: no autocast)."""
    multiplied = "tf32" if name == "tf32" else "ieee"
    cudnn: Any = torch.backends.cudnn  # torch does not declare these attributes
    cudnn.conv.fp32_precision = multiplied
    cudnn.rnn.fp32_precision = multiplied  # torch.export fails if the two differ
    torch.backends.cuda.matmul.fp32_precision = multiplied
    return _DTYPES[name]


def time_algorithms(device: torch.device) -> None:
    """Enable cuDNN's autotuner (torch.backends.cudnn.benchmark) if `device` is a GPU.

    A run has few convolution shapes and computes each in every step. On an H100, a step of the preset `reference` took
    4.9 ms without the autotuner, and 2.4 ms in a benchmark with it (bench/results/command-h100.json,
    breakdown-h100.json, commit b44c2df).
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def pick_implementations() -> dict[str, Any]:
    """Return `fastvgan_kernels.implementations()`.

    Raises:
        UserError: the environment variable FASTVGAN_IMPL names no implementation.
    """
    try:
        return fastvgan_kernels.implementations()
    except ValueError as error:
        raise UserError(str(error)) from None


def check_preference() -> None:
    """Check the environment variable FASTVGAN_IMPL, faster than `pick_implementations`, which imports Triton.

    Raises:
        UserError: it names no implementation.
    """
    try:
        choice.preference()
    except ValueError as error:
        raise UserError(str(error)) from None
