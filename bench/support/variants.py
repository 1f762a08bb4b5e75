"""Variants of stock PyTorch (dtype, mode, memory format), and how benchmarks check and time them."""

import copy
import math
import os
import time
from contextlib import contextmanager
from typing import Any

import torch
from support.memory import level_allocator
from torch import nn

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)
from fastvgan_kernels import choice

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
STOCK = [f"{mode}-{layout}" for mode in ("eager", "compile") for layout in FORMATS]
# For groups with both dtypes, such as "fp32-eager-contiguous": users choose the fastest.
STOCK_OF_ALL_DTYPES = [f"{dtype}-{variant}" for dtype in DTYPES for variant in STOCK]
# Modes of torch.compile. "graph": captured here, because torch's own CUDA graphs copy every input first.
COMPILED = {"compile": None, "autotune": "max-autotune", "autotune-graph": "max-autotune-no-cudagraphs"}
TINY = os.environ.get("FASTVGAN_BENCH_TINY") == "1"  # see on_gpu.py
_ROUND = 5e-3  # seconds per round on a GPU, so that synchronising takes a negligible share


def device() -> torch.device:
    """Return the benchmarks' device: the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stock(module: nn.Module, variant: str, x: torch.Tensor):
    """Return a stock module and its input in a variant such as "eager-contiguous"."""
    mode, layout = variant.split("-")
    return in_mode(in_layout(module, FORMATS[layout]), mode), x.contiguous(memory_format=FORMATS[layout])


def in_layout(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Convert the module's weights to the layout, in place; 2D weights to its 2D equivalent. Returns the module."""
    flat = torch.channels_last if layout is torch.channels_last_3d else layout
    for parameter in module.parameters():
        if parameter.dim() in (4, 5):
            parameter.data = parameter.data.contiguous(memory_format=layout if parameter.dim() == 5 else flat)
    return module


def in_mode(function, mode: str):
    """Return the function or module unchanged ("eager"), or compiled for one shape in a mode of COMPILED."""
    return torch.compile(function, **compile_options(mode)) if mode in COMPILED else function


def compile_options(mode: str) -> dict[str, Any]:
    """Return torch.compile's options for one shape; for tiny problems on a CPU, a backend that generates no code."""
    if TINY and device().type == "cpu":
        return {"dynamic": False, "backend": "aot_eager"}
    return {"dynamic": False, "mode": COMPILED[mode]}


@contextmanager
def use_implementation(name: str):
    """Set FASTVGAN_IMPL to this implementation within the context."""
    before = os.environ.get(choice.ENVIRONMENT)
    os.environ[choice.ENVIRONMENT] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[choice.ENVIRONMENT]
        else:
            os.environ[choice.ENVIRONMENT] = before


def autocast(dtype: str):
    """Return the autocast context for float32 parameters and this dtype."""
    return torch.autocast(device().type, torch.bfloat16, enabled=dtype == "bf16")


def forward_backward(module: nn.Module, x: torch.Tensor, dy: torch.Tensor, autocast_to: str = "fp32"):
    """Return a function that computes the module's output and the gradients of its input and parameters."""
    x = x.detach().requires_grad_()
    if x.is_contiguous(memory_format=torch.channels_last_3d):
        dy = dy.contiguous(memory_format=torch.channels_last_3d)
    parameters = list(module.parameters())

    def run():
        with autocast(autocast_to):
            y = module(x)
        return (y.detach(), *torch.autograd.grad(y, (x, *parameters), dy))

    return run


def load_in_order(mine: nn.Module, theirs: nn.Module) -> nn.Module:
    """Load the state of a stock module with the same layers under other names. Returns our module."""
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    return mine


def in_float64(module: nn.Module) -> nn.Module:
    """Return a float64 copy of the module."""
    return copy.deepcopy(module).double()


def away_from_kink(dy: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return dy, set to 0 where the exact input of a (leaky) ReLU is so close to 0 that rounding decides its slope.

    Both slopes are correct there, and different rounding would hide or fake an error of a gradient.
    """
    near = max(32 * torch.finfo(dy.dtype).eps, 1e-4)  # stock's float32 mean of 2¹⁸ values is off by 1e-5
    return dy.masked_fill(before.abs() < near, 0)


def assert_as_accurate(ours, stock, exact, factor):
    """Assert that our error against float64 is at most `factor` times stock's plus a few units in the last place."""
    assert_plausible(stock, exact)  # with a wrong reference any result would pass
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        mine_off, theirs_off = relative_error(mine, right), relative_error(theirs, right)
        allowed = factor * theirs_off + 4 * torch.finfo(mine.dtype).eps
        assert mine_off <= allowed, f"ours is off by {mine_off:.2g}, stock by {theirs_off:.2g}"


def assert_plausible(stock, exact):
    """Assert that stock PyTorch's results are close to the exact ones."""
    # Sums over a batch are off by more than a few units, and so are float32 results that autocast computed in bf16.
    plausible = max(_eps(value) for value in stock) ** 0.5
    for theirs, right in zip(stock, exact, strict=True):
        assert relative_error(theirs, right) < plausible, (
            f"stock is off by {relative_error(theirs, right):.2g} of the largest value"
        )


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the largest error relative to the largest exact value."""
    return ((value.double() - exact.double()).abs().max() / exact.double().abs().max()).item()


def _eps(value: torch.Tensor) -> float:
    tf32 = value.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return max(torch.finfo(value.dtype).eps, 2**-10 if tf32 else 0)


def describe(benchmark, group: str, variant: str, dtype: str, **facts) -> None:
    """Set a benchmark's group, and record the facts that the report needs.

    Args:
        benchmark: pytest-benchmark's fixture.
        group: the problem that all variants of the group compute.
        variant: the name of the variant; ours begin with "ours".
        dtype: "fp32" or "bf16".
        facts: per call: "flops", by the usual formula; "needed_flops", without products with padding; "bytes".
    """
    benchmark.group = group
    benchmark.extra_info.update(variant=variant, dtype=dtype, **facts)


def time_call(benchmark, function, seconds: float = 1.0, fewest: int = 5) -> None:
    """Time the function for about `seconds`, in `fewest` to 50 rounds, after warm-up.

    A round is one call; on a GPU, it is several short calls and one synchronisation (see `clock`). If timing is
    disabled, the function is called once.
    """
    if TINY or not benchmark.enabled:
        benchmark.pedantic(add_synchronisation(function))
        return
    level_allocator()
    # The first calls compile, and compile again when different tensors require gradients.
    warm = min(_seconds(add_synchronisation(function)) for _ in range(3))
    calls = max(1, math.ceil(_ROUND / warm)) if device().type == "cuda" else 1
    benchmark.pedantic(function, rounds=min(50, max(fewest, math.ceil(seconds / (warm * calls)))), iterations=calls)


def clock() -> float:
    """Synchronise the GPU and return the time in seconds: pytest-benchmark's timer on a GPU."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def add_synchronisation(function):
    """Return the function followed by a synchronisation of the GPU."""

    def run():
        function()
        clock()

    return run


def bytes_of(*tensors: torch.Tensor) -> int:
    """Return the total bytes of the tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)
