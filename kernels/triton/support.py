"""Whether Triton can be used, and for which tensors. Everything else works without it."""

import functools
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from .. import dtypes

_P = ParamSpec("_P")
_R = TypeVar("_R")

FLOOR = (3, 6)
CAPABILITY = (8, 0)


@cache
def reason() -> str | None:
    """The reason why no Triton kernel can be used here, in one sentence, or None."""
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed (pip install triton): {error}"
    if tuple(map(int, triton.__version__.split(".")[:2])) < FLOOR:
        return f"Triton {triton.__version__} is older than {FLOOR[0]}.{FLOOR[1]}: pip install --upgrade triton"
    return None


@cache
def is_interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU: TRITON_INTERPRET=1 was set before its first import."""
    return os.environ.get("TRITON_INTERPRET") == "1" and reason() is None


def refusal(x: torch.Tensor) -> str | None:
    """The reason why kernels cannot take `x`, of any shape, in one sentence, or None."""
    if x.dtype not in dtypes.COMPILED:
        return dtypes.refusal(x.dtype)
    if is_interpreting() and x.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 products incorrectly"
    if x.is_cuda:
        return device_refusal(x.device)
    if not (x.is_cpu and is_interpreting()):
        return f"runs on CUDA devices only, not on {x.device.type}"
    return None


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


@cache
def device_refusal(device: torch.device) -> str | None:
    """The reason why kernels cannot run on this GPU, in one sentence, or None."""
    if torch.version.hip:
        return "written for NVIDIA GPUs, and never run on others"
    if not is_interpreting() and _compiler() is None:
        return "Triton needs a C compiler for its launcher, but none was found: install gcc or clang, or set CC"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than sm_{CAPABILITY[0]}{CAPABILITY[1]}"
    return None


def on_its_device(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function with its first tensor's device as the current one, on which Triton launches.

    Tensors are arguments or fields of a NamedTuple that is one.
    """

    @functools.wraps(function)
    def run(*args: _P.args, **options: _P.kwargs) -> _R:
        device = _first_tensor(args).device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args, **options)
        with torch.cuda.device(device):
            return function(*args, **options)

    return run


def _first_tensor(args: tuple[object, ...]) -> torch.Tensor:
    for arg in args:
        if isinstance(arg, torch.Tensor):
            return arg
    return next(field for arg in args if isinstance(arg, tuple) for field in arg if isinstance(field, torch.Tensor))
