"""The captured training step: ours by auto, Triton and stock PyTorch's operations, against the captured stock loop.

Our step is checked against the stock loop in float32 before it is timed (in float64 with FASTVGAN_BENCH_EXACT=1).
"""

import functools
import os
import statistics
import sys

import part
import torch
from part import ON_GPU, OURS, Unit, use_implementation
from support.networks import step_flops
from support.on_gpu import DTYPE, capture_graph
from support.our_step import CHECKED, Ours, batch_of, problem, stock_inputs
from support.stock_loop import StockLoop
from support.variants import TINY, clock

# Most important first: ours by each implementation and the stock loop, captured; then both without CUDA graphs, and
# torch.compile, which takes a minute.
MODES = ["auto", "stock bf16", "triton", "stock bf16 contiguous", "reference", "auto eager", "stock bf16 eager"]
MODES += ["stock bf16 contiguous eager", "stock bf16 compile"]
_EXPECTED = {"stock bf16 compile": 60.0, "auto": 8.0}


def ours(preset: str, mode: str):
    """Return a function that runs our step, and one that returns whether all losses and gradients were finite."""
    mine = Ours(preset, graphs=not mode.endswith("eager"))
    if os.environ.get("FASTVGAN_BENCH_EXACT") == "1":
        mine.check()
    else:
        mine.check(mine.problem.batch, "fp32")
    return mine.make_runner(mine.problem.batch), mine.is_finite


def stock(preset: str, mode: str):
    """Return the same two functions for the stock loop in bfloat16, with fused Adam."""
    model, size, _ = problem(preset)
    graph = not mode.endswith("eager")
    how = "compile" if mode.endswith("compile") else "eager"
    layout = "contiguous" if "contiguous" in mode else "channels_last"
    loop = StockLoop(f"{DTYPE}-{how}-{layout}", model, fused=True, capturable=graph and ON_GPU)
    real, z = stock_inputs(batch_of(model, size), loop.layout)
    step = functools.partial(loop, real, z)
    run = capture_graph(step) if graph else step
    return run, lambda: torch.isfinite(torch.stack(run())).all()


def time_step(run) -> float:
    """Return the median over blocks of steps; the host synchronises only at the end of a block."""
    blocks = 1 if TINY else 7
    run()
    begin = clock()
    run()
    block = 1 if TINY else max(3, min(200, int(0.3 / (clock() - begin))))
    times = []
    for _ in range(blocks):
        begin = clock()
        for _ in range(block):
            run()
        times.append((clock() - begin) / block)
    return statistics.median(times)


def measure(preset: str, mode: str) -> dict:
    name = mode.split()[0]
    impl = {"triton": OURS, "stock": "auto"}.get(name, name)
    with use_implementation(impl):
        run, is_finite = (stock if name == "stock" else ours)(preset, mode)
        seconds = time_step(run)
        assert is_finite(), "losses or gradients are not finite"
    model, size, _ = problem(preset)
    found = {"preset": preset, "mode": mode, "batch": size, "step_ms": round(1e3 * seconds, 4)}
    rate = step_flops(True, model, size) / seconds / 1e12
    return {**found, "videos_per_s": round(size / seconds, 1), "tflop_per_s": round(rate, 2)}


def compile_step(preset: str) -> None:
    run = Ours(preset, graphs=False).make_runner(problem(preset).batch)
    run()
    run()


def units() -> list[Unit]:
    # A preset's step runs the same kernels by auto and by Triton, so only one mode compiles them.
    return [
        Unit(
            f"{preset} {mode}",
            functools.partial(measure, preset, mode),
            functools.partial(compile_step, preset) if mode == "triton" else lambda: None,
            _EXPECTED.get(mode, 5.0),
        )
        for mode in MODES
        for preset in CHECKED
    ]


if __name__ == "__main__":
    sys.exit(part.main("train", "steps", units))
