"""Whether Triton can be used, and for what: without it everything else works."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from .. import dtypes

FLOOR = (3, 6)
CAPABILITY = (8, 0)


@cache
def reason() -> str | None:
    """Why no Triton kernel can be used here, in one sentence, or None."""
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed (pip install triton): {error}"
    if tuple(map(int, triton.__version__.split(".")[:2])) < FLOOR:
        return f"Triton {triton.__version__} is older than {FLOOR[0]}.{FLOOR[1]}: pip install --upgrade triton"
    return None


@cache
def interpreting() -> bool:
    """Whether Triton runs kernels by its interpreter, on the CPU: TRITON_INTERPRET=1 before the first import."""
    return os.environ.get("TRITON_INTERPRET") == "1" and reason() is None


def refusal(x: torch.Tensor) -> str | None:
    """Why `x` cannot be taken, in one sentence, or None when it can."""
    if x.dtype not in dtypes.COMPILED:
        return dtypes.refusal(x.dtype)
    if interpreting() and x.dtype == torch.bfloat16:
        return "Triton's interpreter computes products of bfloat16 wrong"
    if x.is_cuda:
        return device_refusal(x.device)
    if not (x.is_cpu and interpreting()):
        return f"it is for CUDA devices, not for the {x.device.type}"
    return None


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


@cache
def device_refusal(device: torch.device) -> str | None:
    """Why kernels cannot run on this GPU, in one sentence, or None."""
    if torch.version.hip:
        return "it is written for NVIDIA's GPUs and was never tried on others"
    if not interpreting() and _compiler() is None:
        return "Triton needs a C compiler for its launcher, and there is none: install gcc or clang, or set CC"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than sm_{CAPABILITY[0]}{CAPABILITY[1]}"
    return None


def _flatten(args: tuple) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, tuple):
            yield from arg
        else:
            yield arg


def on_its_device(function: Callable) -> Callable:
    """Make the device of the first tensor argument, also inside a tuple, the current one for Triton's launches."""

    @functools.wraps(function)
    def run(*args, **options):
        device = next(tensor.device for tensor in _flatten(args) if isinstance(tensor, torch.Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args, **options)
        with torch.cuda.device(device):
            return function(*args, **options)

    return run
