"""Benchmark of the host overhead per call of a layer, ours and stock PyTorch's, in microseconds.

    python bench/host_cost.py [--calls 200] [--json FILE]

The tensors are so small that computing takes almost no time. `stock` is torch.nn on the CPU, `auto` our layer on the
CPU, and `triton` the host code of the Triton implementations with launches replaced by a mock: the times exclude
Triton's launcher (about ten microseconds per launch), and the results are garbage. Times are the lowest CPU time of
this thread over twenty rounds, in which the variants take turns; other processes on the machine hardly affect them.
"""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
os.environ["TRITON_INTERPRET"] = "0"

import torch  # noqa: E402
from support.variants import load_in_order  # noqa: E402
from torch import nn  # noqa: E402

from fastvgan import layers  # noqa: E402
from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan_kernels import choice  # noqa: E402
from fastvgan_kernels.triton import support as triton_support  # noqa: E402
from fastvgan_kernels.triton import tuning  # noqa: E402

ROUNDS = 20


def cases():
    """Yield name, our layer, the stock layer (None if there is no equivalent), and the input."""
    x = torch.randn(2, 16, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    conv, up = (16, 16, 4, 2, 1), nn.ConvTranspose3d(16, 16, 4, 2, 1, bias=False)
    chain = nn.Sequential(up, nn.BatchNorm3d(16), nn.ReLU())
    yield "Conv3d", layers.Conv3d(*conv), nn.Conv3d(*conv), x
    yield "ConvTranspose3d", layers.ConvTranspose3d(*conv), nn.ConvTranspose3d(*conv), x
    yield "ConvTransposeNormAct3d", layers.ConvTransposeNormAct3d(*conv), chain, x
    yield "BatchNormAct3d", layers.BatchNormAct3d(16, activation="relu"), nn.Sequential(*list(chain)[1:]), x
    yield "ConvLSTM, 4 steps", layers.ConvLSTM(16, 16), None, x


def check(ours, stock, x) -> None:
    """Check that our layer returns the stock layer's result with the same parameters."""
    load_in_order(ours, stock)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)


def forward(layer, x):
    with torch.no_grad():
        layer(x)


def both_passes(layer, x):
    y = layer(x.requires_grad_())
    y = y[0] if isinstance(y, tuple) else y
    y.backward(y.detach())


def time_calls(call, calls: int) -> float:
    """Return the mean CPU time of a call in microseconds."""
    call()
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls * 1e6


@contextmanager
def skip_launches():
    """Let the Triton implementations accept CPU tensors and launch nothing, within the context."""
    from triton.runtime.jit import JITFunction

    with ExitStack() as stack:
        _patch(stack, JITFunction)
        yield


def _patch(stack: ExitStack, JITFunction) -> None:
    stack.enter_context(mock.patch.object(JITFunction, "run", lambda self, *args, **kwargs: None))
    stack.enter_context(mock.patch.dict(os.environ, {choice.ENVIRONMENT: "triton"}))
    stack.enter_context(mock.patch.object(tuning, "processors", lambda device: 132))
    stack.enter_context(mock.patch.object(tuning, "architecture", lambda device: 90))
    for implementations in choice._registry.values():
        if "triton" not in implementations:
            continue
        stack.enter_context(mock.patch.dict(implementations["triton"].__dict__, {"refusal": lambda x: None}))


def variants(ours, stock) -> dict:
    """Return name → (layer, context manager in which to call it)."""
    found = {} if stock is None else {"stock": (stock, nullcontext)}
    found["auto"] = ours, nullcontext
    if triton_support.reason() is None:
        found["triton"] = ours, skip_launches
    return found


def measure(calls: int) -> dict[str, dict[str, float]]:
    """Return layer and pass → variant → microseconds per call."""
    found = {}
    for name, ours, stock, x in cases():
        if stock is not None:
            check(ours, stock, x)
        for kind, run in (("forward", forward), ("forward + backward", both_passes)):
            row = found[f"{name}, {kind}"] = {}
            for _ in range(ROUNDS):
                for variant, (layer, context) in variants(ours, stock).items():
                    with context():
                        taken = time_calls(lambda run=run, layer=layer, x=x: run(layer, x), calls)
                    row[variant] = min(taken, row.get(variant, taken))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls per round")
    parser.add_argument("--json", help="write the times to this file")
    arguments = parser.parse_args()
    if arguments.calls < 1:
        raise UserError(f"--calls {arguments.calls}: must be at least 1")
    torch.set_num_threads(1)
    found = measure(arguments.calls)
    for name, row in found.items():
        print(f"{name:45}", *(f"{variant} {value:7.1f}" for variant, value in row.items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    run_command(main)
