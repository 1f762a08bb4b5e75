"""Convolutions with few channels on one side: their kernels with each tile, the general kernels, and cuDNN, captured.

In bfloat16, with a cold cache; each tile's result is checked against float32. `bench/gpu_rules.py --renew` updates the
rules from this part's file. Milliseconds are medians; shares are relative to the GEMM and the copy in
bench/results/convs-h100.json.
"""

import contextlib
import functools
import json
import math
import sys
from typing import Any
from unittest import mock

import convs
import part
import torch
from gpu_rules import CONVS, check_convs
from part import ON_GPU, OURS, Unit, check, milliseconds, strict, use_implementation
from support.on_gpu import DTYPE
from support.variants import DTYPES, FORMATS
from triton.runtime.errors import OutOfResources

from fastvgan_kernels.conv import triton_few
from fastvgan_kernels.triton import configs as triton_configs
from fastvgan_kernels.triton import tuning

KERNELS = ("up_few", "down_few", "grad_few")
# Measured in addition to the shipped tiles.
MORE = {
    "up_few": (
        tuning.Config(256, 32, 128, 8, 3, 128),
        tuning.Config(128, 32, 128, 4, 3, 255),
        tuning.Config(128, 32, 128, 4, 4, 168),
        tuning.Config(128, 32, 128, 4, 1, 128),  # ordinary loads, through the L1 cache
        tuning.Config(64, 64, 128, 4, 3, 168, cell=2),
        tuning.Config(128, 64, 128, 8, 3, 255, cell=2),
        tuning.Config(128, 64, 128, 8, 3, 128, cell=2),
        tuning.Config(128, 64, 128, 8, 1, 128, cell=2),
        tuning.Config(128, 128, 128, 8, 3, 255, cell=4),
    ),
    "down_few": (
        tuning.Config(256, 128, 64, 8, 3, 255, cell=4),
        tuning.Config(128, 128, 64, 8, 3, 128, cell=4),
        tuning.Config(256, 128, 64, 8, 3, 255, cell=2),
        tuning.Config(256, 64, 64, 8, 3, 128),
        tuning.Config(128, 64, 128, 4, 3, 168),
    ),
    "grad_few": (
        tuning.Config(64, 256, 128, 8, 2, 255),
        tuning.Config(64, 256, 64, 8, 4, 128),
        tuning.Config(128, 256, 64, 8, 3, 255, cell=2),
        tuning.Config(128, 128, 64, 8, 4, 128, cell=4),
        tuning.Config(128, 128, 128, 8, 2, 128, cell=2),
    ),
}
SERVES = ("up_serves", "down_serves", "weight_grad_serves")


def layers() -> list[dict[str, Any]]:
    """Return the layers of convs.py with few channels on one side, except single voxels."""
    few = [layer for layer in convs.layers() if min(layer["inputs"], layer["outputs"]) <= triton_few.FEW]
    return [
        layer for layer in few if layer["layer"].startswith(("first-3", "last-", "clips-64-first", "clips-64-last"))
    ]


@contextlib.contextmanager
def force_tile(config: tuning.Config | None, seen: list[tuning.Problem]):
    """Launch with this tile (None: the usual choice) within the context; append the kernels' problems to `seen`."""
    choose = tuning.choose

    def choose_tile(problem, shipped, run):
        if problem.kernel not in KERNELS:
            return choose(problem, shipped, run)
        seen.append(problem)
        return config or choose(problem, shipped, run)

    with mock.patch.object(tuning, "choose", choose_tile):
        yield


@contextlib.contextmanager
def use_general_kernels():
    """Use the general kernels also for few channels, within the context."""
    with mock.patch.multiple(triton_few, **{name: lambda *_: False for name in SERVES}):
        yield


def tiles_of(problem: tuning.Problem) -> list[tuning.Config]:
    """Return the shipped tiles that fit a problem; without a GPU, all of them."""
    shipped = triton_configs.SHIPPED[problem.kernel][tuning.architecture(problem.device) if ON_GPU else 90]
    return tuning.candidates(problem, shipped) if ON_GPU else list(shipped)


def more_tiles_of(problem: tuning.Problem) -> list[tuning.Config]:
    return [config for config in MORE[problem.kernel] if problem.fills(config)] if ON_GPU else []


def copy_weight(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return x, weight and dy, with the weight in the memory layout of a training step's copy (weight_copies.py)."""
    x, weight, dy = tensors
    return [x, weight.movedim(0, -1).contiguous().movedim(-1, 0), dy]


def problem_of(ours, tensors) -> tuning.Problem:
    seen: list[tuning.Problem] = []
    with use_implementation(OURS), force_tile(None, seen):
        ours(*tensors)
    if not seen:
        raise AssertionError("no kernel for few channels computes this pass")
    return seen[0]


@torch.no_grad()
def measure(layer: dict[str, Any], which: str) -> dict[str, Any]:
    """Time all implementations of one pass; check each of our kernels first."""
    tensors = convs.tensors_of(layer, DTYPES[DTYPE])
    stock, ours = convs.stock_pass(layer, which), convs.our_pass(layer, which)
    exact = strict(stock, *(t.float() for t in tensors))
    theirs = stock(*tensors)
    stock_ms = {}
    for name, memory_format in FORMATS.items():
        there = [t.contiguous(memory_format=memory_format) for t in tensors]
        stock_ms[name] = milliseconds(functools.partial(stock, *there))
    tensors = copy_weight(tensors)
    with use_implementation(OURS), use_general_kernels():
        general_ms = milliseconds(functools.partial(ours, *tensors))
    problem, wanted = problem_of(ours, tensors), ([theirs], [exact], 2 if which == "forward" else 3)
    tried = [time_tile(config, ours, tensors, wanted) for config in tiles_of(problem)]
    more = [row for config in more_tiles_of(problem) if (row := time_if_it_fits(config, ours, tensors, wanted))]
    best_ms, best, off = min(tried)
    found = {"pass": which, "stock_ms": stock_ms, "general_ms": general_ms, "triton_ms": best_ms}
    found |= {"triton_ratio": round(min(stock_ms.values()) / best_ms, 3), **shares(layer, tensors, best_ms, stock_ms)}
    return {**layer, **found, "off": off, "key": problem.key(), "tile": best, "tiles": tried, "more_tiles": more}


def time_tile(config: tuning.Config, ours, tensors, wanted) -> tuple[float, list, float]:
    """Check and time a configuration; return milliseconds, the configuration's fields, and the error."""
    with use_implementation(OURS), force_tile(config, []):
        off = check([ours(*tensors)], *wanted)
        return milliseconds(functools.partial(ours, *tensors)), tuning._as_list(config), off


def time_if_it_fits(config: tuning.Config, ours, tensors, wanted) -> tuple[float, list, float] | None:
    """Call `time_tile`; return None if the device lacks the registers or the shared memory for the tile."""
    try:
        return time_tile(config, ours, tensors, wanted)
    except OutOfResources as error:
        print(f"{config} was skipped: {error}", flush=True)
        return None


def shares(layer: dict[str, Any], tensors: list[torch.Tensor], ms: float, stock_ms: dict[str, float]) -> dict[str, Any]:
    """Return the shares of the GEMM's and the copy's peak rate, without products with padding."""
    ceilings = json.loads(CONVS.read_text(encoding="utf-8"))
    check_convs(ceilings, ("gemm_tflops", "copy_gb_per_s"))
    sides = []
    geometry = (convs._three(layer[name]) for name in ("size", "kernel", "stride", "padding"))
    for size, kernel, stride, padding in zip(*geometry, strict=True):
        small, large = size, (size - 1) * stride - 2 * padding + kernel
        if not layer["transposed"]:
            small, large = (size + 2 * padding - kernel) // stride + 1, size
        sides.append(sum(0 <= i * stride - padding + j < large for i in range(small) for j in range(kernel)))
    operations = 2 * layer["batch"] * layer["inputs"] * layer["outputs"] * math.prod(sides)
    moved = sum(t.numel() * t.element_size() for t in tensors)

    def share_of_gemm(milliseconds):
        return round(operations / milliseconds / 1e9 / ceilings["gemm_tflops"], 4)

    of_copy = round(moved / ms / 1e6 / ceilings["copy_gb_per_s"], 3)
    return {
        "share_of_gemm": {"triton": share_of_gemm(ms), "stock": share_of_gemm(min(stock_ms.values()))},
        "share_of_copy": of_copy,
    }


@torch.no_grad()
def compile_pass(layer: dict[str, Any], which: str) -> None:
    """Run each of our kernels once."""
    tensors, ours = copy_weight(convs.tensors_of(layer, DTYPES[DTYPE])), convs.our_pass(layer, which)
    with use_general_kernels():
        ours(*tensors)
    problem = problem_of(ours, tensors)
    for config in (*tiles_of(problem), *more_tiles_of(problem)):
        with force_tile(config, []), contextlib.suppress(OutOfResources):  # measuring reports it
            ours(*tensors)


def units() -> list[Unit]:
    return convs.units_of(layers(), measure, compile_pass, 4.0)


if __name__ == "__main__":
    sys.exit(part.main("few", "passes", units))
