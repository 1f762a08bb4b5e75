"""Each pass of each convolution: cuDNN in both memory formats, Triton, and auto's choice, captured, in bfloat16.

The geometries are those in bench/results/convs-h100.json, to confirm its rules, then those of presets that are missing
there. bench/gpu_rules.py makes new rules from this part's file.
"""

import functools
import json
import math
import sys
from typing import Any

import part
import torch
from gpu_rules import CONVS, problem_of
from part import OURS, Unit, check, milliseconds, strict, use_implementation
from support.on_gpu import DTYPE
from support.variants import DTYPES, FORMATS, TINY, device

from fastvgan_kernels import choice, conv_down, conv_up, conv_weight_grad

PASSES = ("forward", "data gradient", "weight gradient")
GEOMETRY = ("transposed", "inputs", "outputs", "size", "batch", "kernel", "stride", "padding")


def _layer(name: str, transposed: bool, inputs: int, outputs: int, size, batch: int, kernel, stride, padding) -> dict:
    values = (transposed, inputs, outputs, size, batch, kernel, stride, padding)
    return {"layer": name, **dict(zip(GEOMETRY, values, strict=True))}


FLAT = [3, 4, 4], [1, 2, 2], [1, 1, 1]  # keeps the time and scales frames by 2, as half of clips-64's layers do
MORE = [
    _layer("clips-64-up-512-256", True, 512, 256, [4, 4, 4], 32, *FLAT),
    _layer("clips-64-up-256-128", True, 256, 128, [4, 8, 8], 32, *FLAT),
    _layer("clips-64-down-128-256", False, 128, 256, [4, 16, 16], 32, *FLAT),
    _layer("clips-64-down-256-512", False, 256, 512, [4, 8, 8], 32, *FLAT),
    _layer("clips-64-first", False, 3, 64, [16, 64, 64], 32, 4, 2, 1),
    _layer("clips-64-last", True, 64, 3, [8, 32, 32], 32, 4, 2, 1),
    _layer("ref-noise", True, 100, 256, 1, 64, 4, 1, 0),
    _layer("ref-score", False, 256, 1, 4, 64, 4, 1, 0),
]


def layers() -> list[dict[str, Any]]:
    """Return the layers of the measured file, then MORE."""
    measured = json.loads(CONVS.read_text(encoding="utf-8"))["passes"]
    known = {row["layer"]: {name: row[name] for name in ("layer", *GEOMETRY)} for row in measured}
    found = [*known.values(), *MORE]
    return [_shrink(layer) for layer in found] if TINY else found


def _shrink(layer: dict[str, Any]) -> dict[str, Any]:
    channels = {name: max(1, layer[name] // 32) for name in ("inputs", "outputs")}
    whole = layer["size"] in (1, [1] * 3)
    return {**layer, **channels, "batch": 2, "size": 1 if whole else 4}


def tensors_of(layer: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """Make x, weight and dy in channels_last_3d."""
    kernel, stride, padding, size = (_three(layer[name]) for name in ("kernel", "stride", "padding", "size"))
    sizes = list(zip(size, kernel, stride, padding, strict=True))
    channels = layer["inputs"], layer["outputs"]
    if layer["transposed"]:
        after = [(n - 1) * s - 2 * p + k for n, k, s, p in sizes]
    else:
        channels, after = channels[::-1], [(n + 2 * p - k) // s + 1 for n, k, s, p in sizes]
    torch.manual_seed(0)
    fan_in = layer["inputs"] * math.prod(kernel) / (math.prod(stride) if layer["transposed"] else 1)
    x = torch.randn(layer["batch"], layer["inputs"], *size, device=device())
    weight = torch.randn(*channels, *kernel, device=device()) / fan_in**0.5
    dy = torch.randn(layer["batch"], layer["outputs"], *after, device=device())
    return [t.to(dtype).contiguous(memory_format=FORMATS["channels_last"]) for t in (x, weight, dy)]


def stock_pass(layer: dict[str, Any], which: str):
    """Return stock PyTorch's function of x, weight and dy for a pass."""
    stride, padding = (_three(layer[name]) for name in ("stride", "padding"))
    geometry = stride, padding, [1] * 3, layer["transposed"], [0] * 3, 1
    if which == "forward":
        return lambda x, weight, dy: torch.convolution(x, weight, None, *geometry)
    index, mask = (0, [True, False, False]) if which == "data gradient" else (1, [False, True, False])
    return lambda x, w, dy: torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, mask)[index]


def our_pass(layer: dict[str, Any], which: str):
    """Return our function of x, weight and dy for a pass."""
    stride, padding, kernel = (_three(layer[name]) for name in ("stride", "padding", "kernel"))
    there, back = (conv_up, conv_down) if layer["transposed"] else (conv_down, conv_up)
    if which == "forward":
        return lambda x, weight, dy: there(x, weight, None, stride, padding)
    if which == "data gradient":
        return lambda x, weight, dy: back(dy, weight, None, stride, padding)
    ordered = (lambda x, dy: (dy, x)) if layer["transposed"] else (lambda x, dy: (x, dy))
    return lambda x, weight, dy: conv_weight_grad(*ordered(x, dy), kernel, stride, padding)


@torch.no_grad()
def measure(layer: dict[str, Any], which: str) -> dict[str, Any]:
    """Check our implementation of one pass, then time all implementations."""
    tensors = tensors_of(layer, DTYPES[DTYPE])
    stock, ours = stock_pass(layer, which), our_pass(layer, which)
    exact = strict(stock, *(t.float() for t in tensors))
    with use_implementation(OURS):
        error = check([ours(*tensors)], [stock(*tensors)], [exact], 2 if which == "forward" else 3)
    del exact
    stock_ms = {}
    for name, memory_format in FORMATS.items():
        there = [t.contiguous(memory_format=memory_format) for t in tensors]
        stock_ms[name] = milliseconds(functools.partial(stock, *there))
    with use_implementation(OURS):
        triton_ms = milliseconds(functools.partial(ours, *tensors))
    with use_implementation("auto"):
        auto_ms, impl = milliseconds(functools.partial(ours, *tensors)), find_implementation(layer, which, tensors)
    best = min(stock_ms.values())
    found = {"pass": which, "stock_ms": stock_ms, "triton_ms": triton_ms, "auto_ms": auto_ms, "auto_impl": impl}
    found |= {"triton_ratio": round(best / triton_ms, 3), "auto_ratio": round(best / auto_ms, 3), "off": error}
    return {**layer, **found}


def find_implementation(layer: dict[str, Any], which: str, tensors: list[torch.Tensor]) -> str:
    """Return the name of the implementation that auto picks for a pass."""
    x, weight, dy = tensors
    stride, padding, kernel = (_three(layer[name]) for name in ("stride", "padding", "kernel"))
    operation, _ = problem_of({**layer, "pass": which})
    if operation == "conv_weight_grad":
        large, small = (dy, x) if layer["transposed"] else (x, dy)
        rest = (large, small, kernel, stride, padding, [1] * 3, 1)
    else:
        first = x if which == "forward" else dy
        rest = (first, weight, stride, padding, *([[0] * 3] if operation == "conv_up" else []), [1] * 3, 1)
    return choice.name_of(operation, choice.pick(operation, "auto", *rest))


@torch.no_grad()
def compile_pass(layer: dict[str, Any], which: str) -> None:
    our_pass(layer, which)(*tensors_of(layer, DTYPES[DTYPE]))


def units_of(picked: list[dict[str, Any]], measure_one, compile_one, expected: float) -> list[Unit]:
    """Return a unit for each pass of each layer.

    Args:
        picked: the layers.
        measure_one: called with a layer and the name of a pass.
        compile_one: called with the same arguments.
        expected: seconds, see `Unit`.
    """
    return [
        Unit(
            f"{layer['layer']} {which}",
            functools.partial(measure_one, layer, which),
            functools.partial(compile_one, layer, which),
            expected,
        )
        for layer in picked
        for which in PASSES
    ]


def units() -> list[Unit]:
    return units_of(layers(), measure, compile_pass, 1.0)


def _three(value: int | list[int]) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)


if __name__ == "__main__":
    sys.exit(part.main("convs", "passes", units))
