"""Overhead of a training step: the share of its time in which no kernel computes."""

import statistics
from typing import NamedTuple

from support.our_step import Ours
from support.variants import TINY, clock, describe, device, time_call
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from fastvgan.machine.device import pick_precision
from fastvgan.training.profiling import measure_coverage, span

PRESET = "reference"
# Consecutive steps per round, because on a GPU a single one would show how long it takes to launch. Rounds with and
# without the profiler alternate, so that a machine that slows down slows both.
STEPS, ROUNDS = (10 if device().type == "cuda" else 1), 15
# Only these compute. Events of other names contain Python code: autograd's nodes, and the Python operations around the
# compiled ones.
COMPILED = ("aten::", "fastvgan_compiled::")
# These compute nothing: they allocate memory, return views, or call another operation if there is work.
IDLE = """
    as_strided as_strided_ clone contiguous detach empty empty_like empty_strided expand flatten full_like item
    _local_scalar_dense lift_fresh movedim new_empty new_empty_strided ones_like permute promote_types reshape resize_
    select set_ slice squeeze stack to _to_copy transpose unbind unsqueeze _unsafe_view view view_as zeros zeros_like
""".split()
SPAN = "steps in a row"


class StepTimes(NamedTuple):
    """Seconds per step, and the part of them in which kernels computed."""

    step: float
    kernels: float


def profile_steps(run) -> StepTimes:
    """Measure a few steps under torch.profiler, which slows down the code between kernels."""
    on_gpu = device().type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        clock()
        with record_function(SPAN):
            time_steps(run)
    events = profiler.events()
    begin, end = next(span(e) for e in events if e.name == SPAN and e.device_type == DeviceType.CPU)
    busy = measure_coverage(map(span, filter(runs_on_gpu if on_gpu else computes, events)), begin, end)
    return StepTimes((end - begin) / 1e6 / STEPS, busy / 1e6 / STEPS)


def time_steps(run) -> float:
    """Return seconds per step of STEPS steps with one synchronisation of the GPU."""
    start = clock()
    for _ in range(STEPS):
        run()
    return (clock() - start) / STEPS


def computes(event) -> bool:
    return event.name.startswith(COMPILED) and event.name.partition("::")[2] not in IDLE


def runs_on_gpu(event) -> bool:
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def measure_overhead(run) -> dict[str, float]:
    """Return the share of a step in which nothing computes; "overhead" is this share of profiled steps.

    It includes the profiler's own work between kernels, so it is an upper bound. "overhead_unrecorded" combines the
    kernels' time in the profile with the time of steps without the profiler: a difference of two measurements, which is
    reliable only on an idle machine.
    """
    profile_steps(run)  # the first profile takes longer
    pairs = [(time_steps(run), profile_steps(run)) for _ in range(ROUNDS)]
    step = statistics.median(plain for plain, _ in pairs)
    kernels = statistics.median(seen.kernels for _, seen in pairs)
    return {
        "overhead": round(statistics.median(1 - seen.kernels / seen.step for _, seen in pairs), 4),
        "overhead_unrecorded": round(1 - kernels / step, 4),
        "outside_ms": round(statistics.median(seen.step - seen.kernels for _, seen in pairs) * 1e3, 3),
        "kernels_ms": round(kernels * 1e3, 3),
        "unrecorded_ms": round(step * 1e3, 3),
    }


def test_trainer_overhead(benchmark):
    dtype = pick_precision("auto", device())
    describe(benchmark, f"trainer: a step's time without kernels, preset {PRESET}, batch 64", "ours", dtype)
    mine = Ours(PRESET, graphs=True, dtype=dtype)
    run = mine.make_runner(mine.problem.batch)
    time_call(benchmark, run, seconds=3)
    assert mine.is_finite(), "losses or gradients are not finite"
    if benchmark.enabled and not TINY:
        benchmark.extra_info.update(measure_overhead(run))
