"""The ways PyTorch can be made to run something, and how a benchmark names, checks and times each of them."""

import copy
import math
import os
import time
from contextlib import contextmanager

import torch
from memory import level_allocator
from torch import nn

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)
from fastvgan_kernels import choice

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
STOCK = [f"{mode}-{layout}" for mode in ("eager", "compile") for layout in FORMATS]
# For groups that hold both dtypes, because a user picks the fastest of all: "fp32-eager-contiguous" and so on.
STOCK_OF_ALL_DTYPES = [f"{dtype}-{variant}" for dtype in DTYPES for variant in STOCK]
# torch.compile's mode of each. "graph" is for a CUDA graph made here, since those of torch copy every input first.
COMPILED = {"compile": None, "autotune": "max-autotune", "autotune-graph": "max-autotune-no-cudagraphs"}
TINY = os.environ.get("FASTVGAN_BENCH_TINY") == "1"  # see on_gpu.py
_ROUND = 5e-3  # seconds on a GPU: what one wait for it costs is then nothing


def device() -> torch.device:
    """Where benchmarks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stock(module: nn.Module, variant: str, x: torch.Tensor):
    """A stock module and its input as the variant asks, "eager-contiguous" and so on."""
    mode, layout = variant.split("-")
    return in_mode(in_layout(module, FORMATS[layout]), mode), x.contiguous(memory_format=FORMATS[layout])


def in_layout(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The module with its weights in the layout, which of a 2D convolution is that of its dimensions."""
    flat = torch.channels_last if layout is torch.channels_last_3d else layout
    for parameter in module.parameters():
        if parameter.dim() in (4, 5):
            parameter.data = parameter.data.contiguous(memory_format=layout if parameter.dim() == 5 else flat)
    return module


def in_mode(function, mode: str):
    """The function or module as it is ("eager"), or compiled as a mode of COMPILED for the one shape it will see."""
    return torch.compile(function, dynamic=False, mode=COMPILED[mode]) if mode in COMPILED else function


@contextmanager
def implementation(name: str):
    """Operations take this implementation where they can, as FASTVGAN_IMPL=name does; "auto" leaves it to the rules."""
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
    """What a user writes around a model of float32 parameters to compute in the dtype."""
    return torch.autocast(device().type, torch.bfloat16, enabled=dtype == "bf16")


def forward_backward(module: nn.Module, x: torch.Tensor, dy: torch.Tensor, autocast_to: str = "fp32"):
    """A function that gives the module's output and the gradients of its input and parameters."""
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
    """Give our module the state of a stock one of the same layers under other names."""
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    return mine


def in_float64(module: nn.Module) -> nn.Module:
    """A copy of the module that computes in float64."""
    return copy.deepcopy(module).double()


def away_from_kink(dy: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """dy, but zero where the exact value before a (leaky) ReLU is so near zero that rounding decides its slope.

    There either slope is right, and one element that rounds the other way would hide or fake an error of a gradient.
    """
    near = max(32 * torch.finfo(dy.dtype).eps, 1e-4)  # stock's float32 mean of 2¹⁸ values is off by 1e-5
    return dy.masked_fill(before.abs() < near, 0)


def assert_as_accurate(ours, stock, exact, factor):
    """Our error against float64 is at most `factor` times the stock one's, or a few units in the last place.

    A benchmark calls this before it times: a fast wrong answer is no result.
    """
    assert_plausible(stock, exact)  # a wrong reference would excuse everything
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        mine_off, theirs_off = off(mine, right), off(theirs, right)
        allowed = factor * theirs_off + 4 * torch.finfo(mine.dtype).eps
        assert mine_off <= allowed, f"ours is off by {mine_off:.2g}, stock by {theirs_off:.2g}"


def assert_plausible(stock, exact):
    """What stock PyTorch computed is no garbage."""
    # Sums over a batch, and all that is computed in bf16 under autocast though its own dtype is float32, are off by
    # more than a few units.
    plausible = max(_eps(value) for value in stock) ** 0.5
    for theirs, right in zip(stock, exact, strict=True):
        assert off(theirs, right) < plausible, f"stock is off by {off(theirs, right):.2g} of the largest value"


def off(value: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error as a share of the largest exact value."""
    return ((value.double() - exact.double()).abs().max() / exact.double().abs().max()).item()


def _eps(value: torch.Tensor) -> float:
    tf32 = value.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return max(torch.finfo(value.dtype).eps, 2**-10 if tf32 else 0)


def describe(benchmark, group: str, variant: str, dtype: str, **facts) -> None:
    """Assign a benchmark to its group and record what the report needs.

    Args:
        group: one problem, which each variant solves; names of our variants start with "ours".
        dtype: that it computes in, "fp32" or "bf16".
        facts: of one call "flops", by the usual formula; "needed_flops", without products with padding; "bytes".
    """
    benchmark.group = group
    benchmark.extra_info.update(variant=variant, dtype=dtype, **facts)


def timed(benchmark, function, seconds: float = 1.0, fewest: int = 5) -> None:
    """Time the function for about so many seconds, in 5 to 50 rounds, after warm-up; once where timing is off.

    A round is one call; on a GPU several in a row if they are short, and one wait for all of them (see `clock`).
    """
    if TINY or not benchmark.enabled:
        benchmark.pedantic(synchronised(function))
        return
    level_allocator()
    # The first calls compile, and recompile if other tensors require gradients than at first.
    warm = min(_seconds(synchronised(function)) for _ in range(3))
    calls = max(1, math.ceil(_ROUND / warm)) if device().type == "cuda" else 1
    benchmark.pedantic(function, rounds=min(50, max(fewest, math.ceil(seconds / (warm * calls)))), iterations=calls)


def clock() -> float:
    """Seconds, once the GPU has done what it was given: pytest-benchmark's timer there."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def synchronised(function):
    """The function, not over before the GPU is."""

    def run():
        function()
        clock()

    return run


def bytes_of(*tensors: torch.Tensor) -> int:
    """The memory that reading or writing each tensor once moves."""
    return sum(t.numel() * t.element_size() for t in tensors)
