"""Times of a captured training step on a GPU: of the step, of its host code, and of each kernel.

`digits`, `digits-conv3d` and `reference` run as the command runs them, drawing clips within the step; `clips-64` uses
clips in memory.
"""

import functools
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import part
import torch
from part import OURS, Unit, use_implementation
from support.on_gpu import ON_GPU
from support.our_step import STEPS_TO_CAPTURE, Ours, problem
from support.variants import TINY, clock
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from fastvgan.runs.presets import preset
from fastvgan.training.run.resume import Start

STEPS = 2 if TINY else 5  # profiled steps
ROWS = 45  # kernels in the file
COMMANDS = ("reference", "digits", "clips-64", "digits-conv3d")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="fastvgan-bench-")


def make_runner(name: str):
    """Return a function that runs the preset's next step as the trainer does, without the work between steps."""
    if name == "clips-64":
        mine = Ours(name, graphs=True)
        return mine.make_runner(problem(name).batch)
    from fastvgan.training.loop import TrainingLoop

    config = preset(name)
    if TINY:
        small = {"frames": 4, "height": 16, "width": 16, "base_width": 2, "refine": 0}
        batch = {"batch_size": 2}
        config = config.model_copy(
            update={
                "model": config.model.model_copy(update=small),
                "training": config.training.model_copy(update=batch),
            }
        )
    trainer = TrainingLoop(config, Start(Path(_folder().name) / name))
    run = functools.partial(trainer._train_on, None)
    for _ in range(2 if TINY else STEPS_TO_CAPTURE + 12):
        run()
    return run


def measure(name: str, impl: str) -> dict:
    with use_implementation(impl):
        run = make_runner(name)
        batch = problem(name).batch if name == "clips-64" else preset(name).training.batch_size
        wall, host = _time_step(run)
        kernels = _profile_kernels(run)
    total = sum(ms for ms, _ in kernels.values())
    rows = sorted(kernels.items(), key=lambda row: -row[1][0])[:ROWS]
    return {
        **{"preset": name, "impl": impl, "batch": batch, "step_ms": round(wall, 4), "host_ms": round(host, 4)},
        **{"kernels_ms": round(total, 4), "launches": round(sum(n for _, n in kernels.values()), 1)},
        "videos_per_s": round(1e3 * batch / wall, 1),
        "kernels": [[name, round(ms, 4), round(n, 1)] for name, (ms, n) in rows],
    }


def _time_step(run) -> tuple[float, float]:
    """Return milliseconds per step in a long series, and of a step's host code on an idle device."""
    for _ in range(3):
        run()
    begin = clock()
    run()
    block = 2 if TINY else max(5, min(100, int(0.3 / (clock() - begin))))
    walls, hosts = [], []
    for _ in range(5):
        begin = clock()
        for _ in range(block):
            run()
        walls.append(1e3 * (clock() - begin) / block)
    for _ in range(11):
        clock()
        begin = time.perf_counter()
        run()
        hosts.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(walls), statistics.median(hosts)


def _profile_kernels(run) -> dict[str, tuple[float, float]]:
    """Return kernel → (milliseconds, launches) per step."""
    activities = [ProfilerActivity.CUDA] if ON_GPU else [ProfilerActivity.CPU]
    clock()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(STEPS):
            run()
        clock()
    kind = DeviceType.CUDA if ON_GPU else DeviceType.CPU
    times, counts = defaultdict(float), Counter()
    for event in profiler.events():
        if event.device_type == kind and not event.is_user_annotation:
            name = _shorten(event.name)
            times[name] += event.time_range.elapsed_us() / 1e3 / STEPS
            counts[name] += 1
    return {name: (times[name], counts[name] / STEPS) for name in times}


def _shorten(name: str) -> str:
    """Return the kernel's name without common namespaces."""
    name = re.sub(r"^void |at::native::|\(anonymous namespace\)::|at::", "", name)
    return name[:110]


def units() -> list[Unit]:
    return [
        Unit(f"{name} {impl}", functools.partial(measure, name, impl), functools.partial(_compile, name, impl), 12.0)
        for name in COMMANDS
        for impl in ("auto", OURS, "reference")
    ]


def _compile(name: str, impl: str) -> None:
    with use_implementation(impl):
        make_runner(name)


if __name__ == "__main__":
    sys.exit(part.main("breakdown", "steps", units))
