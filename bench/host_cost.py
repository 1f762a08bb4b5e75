"""What a call of a layer costs the host, beside the work itself, ours and stock PyTorch's, in microseconds.

    python bench/host_cost.py [--calls 200] [--json FILE]

Tensors are so small that the work is next to nothing. `stock` is torch.nn on the CPU, `auto` ours as it chooses on the
CPU, and `triton` the host code of the Triton implementations with launches left out: a stand-in takes their place, so
that what Triton's own launcher takes, some ten microseconds for each, is not in the figure, and results are garbage.
Figures are the least CPU time of this thread over twenty rounds, in each of which the variants take turns; another
process on the machine changes that little.
"""

import argparse
import json
import os
import time
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"

import torch  # noqa: E402
from torch import nn  # noqa: E402
from variants import load_in_order  # noqa: E402

from fastvgan import layers  # noqa: E402
from fastvgan_kernels import choice
from fastvgan_kernels.triton import support as triton_support  # noqa: E402
from fastvgan_kernels.triton import tuning

ROUNDS = 20


def cases():
    """Name → (ours, stock, input)."""
    x = torch.randn(2, 16, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    conv, up = (16, 16, 4, 2, 1), nn.ConvTranspose3d(16, 16, 4, 2, 1, bias=False)
    chain = nn.Sequential(up, nn.BatchNorm3d(16), nn.ReLU())
    yield "Conv3d", layers.Conv3d(*conv), nn.Conv3d(*conv), x
    yield "ConvTranspose3d", layers.ConvTranspose3d(*conv), nn.ConvTranspose3d(*conv), x
    yield "ConvTransposeNormAct3d", layers.ConvTransposeNormAct3d(*conv), chain, x
    yield "BatchNormAct3d", layers.BatchNormAct3d(16, activation="relu"), nn.Sequential(*list(chain)[1:]), x
    yield "ConvLSTM, 4 steps", layers.ConvLSTM(16, 16), None, x


def check(ours, stock, x) -> None:
    """With stock's parameters ours gives what stock gives."""
    load_in_order(ours, stock)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)


def forward(layer, x):
    with torch.no_grad():
        layer(x)


def both_passes(layer, x):
    y = layer(x.requires_grad_())
    y = y[0] if isinstance(y, tuple) else y
    y.backward(y.detach())


def microseconds(call, calls: int) -> float:
    """Of one call, as the mean of so many."""
    call()
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls * 1e6


@contextmanager
def without_launches():
    """Within it the Triton implementations serve CPU tensors and launch nothing."""
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
    """Name → a layer, and the context that it is called in."""
    found = {} if stock is None else {"stock": (stock, nullcontext)}
    found["auto"] = ours, nullcontext
    if triton_support.reason() is None:
        found["triton"] = ours, without_launches
    return found


def measure(calls: int) -> dict[str, dict[str, float]]:
    """Layer and pass → variant → microseconds."""
    found = {}
    for name, ours, stock, x in cases():
        if stock is not None:
            check(ours, stock, x)
        for kind, run in (("forward", forward), ("forward + backward", both_passes)):
            row = found[f"{name}, {kind}"] = {}
            for _ in range(ROUNDS):
                for variant, (layer, context) in variants(ours, stock).items():
                    with context():
                        taken = microseconds(lambda run=run, layer=layer, x=x: run(layer, x), calls)
                    row[variant] = min(taken, row.get(variant, taken))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls in a round")
    parser.add_argument("--json", help="a file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.calls)
    for name, row in found.items():
        print(f"{name:45}", *(f"{variant} {value:7.1f}" for variant, value in row.items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
