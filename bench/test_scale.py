"""Cost of a training step by frames, height and width, feature maps, batch and processes, each varied separately.

docs/explanation/scaling.md describes a model of it; `python bench/scaling.py --fit FILE` fits the model's rates to the
file of --benchmark-json.
"""

import contextlib
import time
from dataclasses import asdict

import pytest
import torch
from support.memory import peak_bytes
from support.on_gpu import DTYPE
from support.peers import start_peers
from support.sweep import points, runner_of
from support.variants import TINY, describe, device, time_call


def least_cpu_seconds(run) -> float:
    """Return the lowest CPU time of three steps on one thread; other processes affect it less than the wall time."""
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return min(seconds)


@pytest.mark.parametrize("point", points(), ids=lambda point: point.name.replace(" ", "-"))
def test_scale(benchmark, point):
    sizes = point.sizes
    facts = {"family": point.family, "dimension": point.dimension, "sizes": asdict(sizes)}
    videos = sizes.processes * sizes.batch
    describe(benchmark, f"scale: {point.family} {point.dimension}", f"ours {point.name}", DTYPE, videos=videos, **facts)
    together = start_peers(point) if sizes.processes > 1 else contextlib.nullcontext(runner_of(point))
    with together as (run, step):
        time_call(benchmark, run, seconds=0.3, fewest=3)
        assert torch.isfinite(step.totals).all() and not step.skipped_steps, "losses or gradients are not finite"
        if benchmark.enabled and not TINY and sizes.processes == 1:
            benchmark.extra_info["peak_bytes"] = peak_bytes(run)
            if device().type == "cpu" and torch.get_num_threads() == 1:
                benchmark.extra_info["cpu_s"] = least_cpu_seconds(run)
