"""Cost of a training step on GPUs by frames, size, feature maps, batch and processes, each varied separately.

`python bench/scaling.py --fit FILE` fits the rates of docs/explanation/scaling.md's model to this part's file.
"""

import functools
import sys
from dataclasses import asdict

import part
from part import ON_GPU, Unit
from support.memory import peak_bytes
from support.on_gpu import DTYPE
from support.peers import start_peers
from support.sweep import Point, points, runner_of
from support.variants import TINY, clock

_BLOCKS, _BLOCK = (1, 0.0) if TINY else (5, 0.1)  # number of blocks, and seconds per block


def least_seconds(run) -> float:
    """Return seconds per step of the fastest block; the host synchronises only at the end of a block."""
    run()
    begin = clock()
    run()
    steps = max(1, int(_BLOCK / (clock() - begin)))
    times = []
    for _ in range(_BLOCKS):
        begin = clock()
        for _ in range(steps):
            run()
        times.append((clock() - begin) / steps)
    return min(times)


def measure(point: Point) -> dict:
    sizes, peak = point.sizes, None
    if sizes.processes > 1:
        with start_peers(point) as (run, step):
            seconds = least_seconds(run)
    else:
        run, step = runner_of(point)
        seconds = least_seconds(run)
        peak = peak_bytes(run) if ON_GPU else None
    assert not step.skipped_steps, "losses or gradients are not finite"
    found = {"family": point.family, "dimension": point.dimension, "sizes": asdict(sizes), "dtype": DTYPE}
    rate = round(sizes.processes * sizes.batch / seconds, 1)
    return {**found, "step_ms": round(1e3 * seconds, 4), "videos_per_s": rate, "peak_bytes": peak}


def compile_step(point: Point) -> None:
    if point.sizes.processes == 1:
        runner_of(point, captures=False)


def units() -> list[Unit]:
    return [Unit(p.name, functools.partial(measure, p), functools.partial(compile_step, p), 2.0) for p in points()]


if __name__ == "__main__":
    sys.exit(part.main("scale", "steps", units))
