"""A ConvLSTM over 16 steps, forward and backward: Triton and auto against the loop over cuDNN, captured.

bench/gpu_rules.py --more makes rules for conv_lstm from this part's file.
"""

import functools
import sys

import part
import torch
from part import OURS, Unit, check, milliseconds, stock_milliseconds, strict, use_implementation
from support.on_gpu import DTYPE
from support.variants import DTYPES, FORMATS, TINY, device, forward_backward, in_layout

from bench.test_conv_lstm import KERNEL, OutputOnly, PlainConvLSTM, join_weight_grads

STEPS = 16
# (channels, size, batch) of the digits at 4x4, of larger problems, and of the benchmark at 64x64.
PROBLEMS = [(256, 4, 64), (128, 8, 64), (64, 16, 64), (128, 16, 32), (128, 32, 16), (128, 64, 4)]


def _problem(channels: int, size: int, batch: int):
    channels, size, batch, steps = (4, 3, 2, 2) if TINY else (channels, size, batch, STEPS)
    torch.manual_seed(0)
    plain = in_layout(PlainConvLSTM(channels).to(device()), FORMATS["channels_last"])
    x = torch.randn(batch, channels, steps, size, size, device=device(), dtype=DTYPES[DTYPE])
    x = x.contiguous(memory_format=FORMATS["channels_last"])
    return plain, x, torch.randn_like(x)


def measure(channels: int, size: int, batch: int) -> dict:
    plain, x, dy = _problem(channels, size, batch)
    theirs = forward_backward(plain, x, dy, DTYPE)
    module = OutputOnly(plain)
    with use_implementation(OURS):
        exact = strict(forward_backward(plain, x.float(), dy.float()))
        error = check(join_weight_grads(forward_backward(module, x, dy, DTYPE)()), theirs(), exact)
    times = []
    for name in (OURS, "auto", "reference"):
        with use_implementation(name):
            times.append(milliseconds(forward_backward(module, x, dy, DTYPE)))
    triton_ms, auto_ms, reference_ms = times
    stock_ms = stock_milliseconds(plain, x, dy, DTYPE)
    found = {"operation": "conv_lstm", "taps": KERNEL**2, "stride": 1, "inputs": x.shape[1], "outputs": x.shape[1]}
    found |= {"positions": x.shape[0] * x.shape[3] * x.shape[4], "steps": x.shape[2]}
    found |= {"stock_ms": stock_ms, "triton_ms": triton_ms, "reference_ms": reference_ms, "auto_ms": auto_ms}
    return {**found, "triton_ratio": round(min(stock_ms.values()) / triton_ms, 3), "off": error}


def compile_one(channels: int, size: int, batch: int) -> None:
    plain, x, dy = _problem(channels, size, batch)
    forward_backward(OutputOnly(plain), x, dy, DTYPE)()


def units() -> list[Unit]:
    return [
        Unit(
            "{} channels at {}², batch {}".format(*sizes),
            functools.partial(measure, *sizes),
            functools.partial(compile_one, *sizes),
            4.0,
        )
        for sizes in PROBLEMS
    ]


if __name__ == "__main__":
    sys.exit(part.main("lstm", "problems", units))
