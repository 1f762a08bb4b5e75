"""Norms with their activation, and whole layers, forward and backward: Triton and auto against stock PyTorch, captured.

bench/gpu_rules.py --more makes rules for norm_act from this part's file.
"""

import functools
import sys

import part
import torch
from part import OURS, Unit, check, milliseconds, stock_milliseconds, strict, use_implementation
from support.on_gpu import DTYPE
from support.variants import (
    DTYPES,
    FORMATS,
    TINY,
    autocast,
    away_from_kink,
    device,
    forward_backward,
    in_float64,
    in_layout,
)
from torch import nn

from bench.test_fused_layers import down, output_shape, up
from bench.test_fused_layers import ours as fused
from bench.test_norm_act import ours as fused_norm

LAST = FORMATS["channels_last"]
# (channels, positions) of the presets, and of tensors larger than any cache.
NORMS = [(256, 4096), (128, 32768), (256, 32768), (128, 262144), (64, 1048576), (512, 2048), (512, 16384)]
# Stock module, channels, size, batch.
LAYERS = {
    "up-256-128-from-4": (lambda: up(256, 128), 256, 4, 64),
    "up-256-128-from-8": (lambda: up(256, 128), 256, 8, 64),
    "up-128-64-from-16": (lambda: up(128, 64), 128, 16, 32),
    "down-128-256-from-8": (lambda: down(128, 256), 128, 8, 64),
    "down-128-256-from-32": (lambda: down(128, 256), 128, 32, 16),
    "down-64-128-from-32": (lambda: down(64, 128), 64, 32, 32),
}


def _norm(channels: int, positions: int):
    """Make the stock module, x and dy of (N, channels, 8, 8, …) with this number of positions in total."""
    batch = max(1, positions // 512)
    shape = (2, 8, 2, 2, 2) if TINY else (batch, channels, 8, 8, positions // batch // 64)
    torch.manual_seed(0)
    stock = nn.Sequential(nn.BatchNorm3d(shape[1]), nn.ReLU()).to(device())
    nn.init.normal_(stock[0].weight)
    x = torch.randn(shape, device=device(), dtype=DTYPES[DTYPE]).contiguous(memory_format=LAST)
    return stock, x, torch.randn_like(x)


def measure_norm(channels: int, positions: int) -> dict:
    stock, x, dy = _norm(channels, positions)
    with torch.no_grad():
        dy = away_from_kink(dy, in_float64(stock)[0](x.double()))
    module = fused_norm(stock, "relu")
    exact = forward_backward(in_float64(stock), x.double(), dy.double())()
    theirs = forward_backward(stock, x, dy)
    with use_implementation(OURS):
        error = check(forward_backward(module, x, dy)(), theirs(), exact)
    stock_ms, triton_ms, auto_ms = _time_all(stock, module, x, dy, "fp32")
    with use_implementation("reference"):
        reference_ms = milliseconds(forward_backward(module, x, dy, "fp32"))
    found = {"operation": "norm_act", "taps": 1, "stride": 1, "inputs": x.shape[1], "outputs": x.shape[1]}
    found |= {"positions": x.numel() // x.shape[1], "stock_ms": stock_ms, "triton_ms": triton_ms}
    moved = 8 * x.numel() * x.element_size()  # see TRANSFERS in test_norm_act.py
    found |= {"reference_ms": reference_ms, "auto_ms": auto_ms}
    found |= {"triton_ratio": _ratio(stock_ms, triton_ms), "off": error}
    return {**found, "gb_per_s": round(moved / triton_ms / 1e6, 1)}


def compile_norm(channels: int, positions: int) -> None:
    stock, x, dy = _norm(channels, positions)
    forward_backward(fused_norm(stock, "relu"), x, dy)()


def _layer(name: str):
    make, channels, size, batch = LAYERS[name]
    channels, size, batch = (8, 4, 2) if TINY else (channels, size, batch)
    torch.manual_seed(0)
    stock = (up(8, 4) if "up" in name else down(8, 4)) if TINY else make()
    stock = in_layout(stock.to(device()), LAST)
    x = torch.randn(batch, channels, *[size] * 3, device=device(), dtype=DTYPES[DTYPE]).contiguous(memory_format=LAST)
    return stock, x, torch.randn(output_shape(stock, x.shape), device=device(), dtype=DTYPES[DTYPE])


def measure_layer(name: str) -> dict:
    """Check in float32, then time a convolution, batch norm and activation in training under autocast."""
    stock, x, dy = _layer(name)
    with torch.no_grad():
        dy = away_from_kink(dy, stock[:2](x.float()))
    module = fused(stock)
    exact = strict(forward_backward(stock, x.float(), dy.float()))
    theirs = forward_backward(stock, x, dy, DTYPE)
    with use_implementation(OURS):
        error = check(forward_backward(module, x, dy, DTYPE)(), theirs(), exact, 4)
    stock_ms, triton_ms, auto_ms = _time_all(stock, module, x, dy, DTYPE)
    ratios = {"triton_ratio": _ratio(stock_ms, triton_ms), "auto_ratio": _ratio(stock_ms, auto_ms)}
    times = {"stock_ms": stock_ms, "triton_ms": triton_ms, "auto_ms": auto_ms}
    return {"layer": name, **times, **ratios, "off": error}


def compile_layer(name: str) -> None:
    stock, x, dy = _layer(name)
    with autocast(DTYPE):
        forward_backward(fused(stock), x, dy, DTYPE)()


def _time_all(stock, module, x, dy, dtype) -> tuple[dict[str, float], float, float]:
    """Return milliseconds of stock PyTorch in each memory format, of Triton and of auto."""
    times = []
    for name in (OURS, "auto"):
        with use_implementation(name):
            times.append(milliseconds(forward_backward(module, x, dy, dtype)))
    return stock_milliseconds(stock, x, dy, dtype), *times


def _ratio(stock_ms: dict[str, float], ms: float) -> float:
    return round(min(stock_ms.values()) / ms, 3)


def units() -> list[Unit]:
    norms = [
        Unit(f"norm {c}x{p}", functools.partial(measure_norm, c, p), functools.partial(compile_norm, c, p), 1.0)
        for c, p in NORMS
    ]
    return norms + [
        Unit(name, functools.partial(measure_layer, name), functools.partial(compile_layer, name)) for name in LAYERS
    ]


if __name__ == "__main__":
    sys.exit(part.main("layers", "problems", units))
