"""Profiles of training steps by torch.profiler, as a trace and as a table."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from fastvgan.errors import UserError
from fastvgan.files.atomic import whole

logger = logging.getLogger("fastvgan")

TRACE, TABLE = "trace.json", "table.txt"
_ROWS = 60


class StepProfile:
    """Records some steps of a loop, then writes trace.json (Chrome's format) and table.txt into a folder.

    A context manager around the loop, whose `step()` is called after each step; time between two calls counts for the
    later step. If the loop ends early, the steps recorded so far are written. If the folder cannot be written, that is
    logged and the loop continues.

    Args:
        folder: folder for the files, created with them.
        count: number of steps to record; 0 turns the profile off.
        device: device of the steps; if it is a GPU, its operations are recorded, too.
        skip: number of steps before those, at least 1: the first ones allocate, choose algorithms and fill caches, and
            the last of them warms up the profiler.
    """

    def __init__(self, folder: Path, count: int, device: torch.device, skip: int = 3):
        if count < 0 or skip < 1:
            raise ValueError(f"count must be 0 or more and skip 1 or more, not {count} and {skip}")
        self._folder, self._count, self._skip, self._device = folder, count, skip, device
        self._seen = 0
        self._profiler: profile | None = None

    def __enter__(self) -> "StepProfile":
        if self._count:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            when = schedule(wait=self._skip - 1, warmup=1, active=self._count, repeat=1)
            self._profiler = profile(activities=activities, schedule=when, record_shapes=True)
            self._profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def step(self) -> None:
        """Count a step as done, and write the files after the last recorded one."""
        if self._profiler is None:
            return
        self._seen += 1
        if self._seen in (self._skip, self._skip + self._count):
            self._synchronize()  # so that the record starts and ends with an idle GPU
        if self._seen == self._skip + self._count:
            self._finish()
        else:
            self._profiler.step()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _finish(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        steps = self._seen - self._skip
        if steps < 1:
            logger.warning(
                "no step was profiled: the loop ended after %d steps, and the first %d are skipped",
                self._seen,
                self._skip,
            )
            return
        trace, table = self._folder / TRACE, self._folder / TABLE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_trace(profiler, trace)
            with whole(table) as temporary:
                temporary.write_text(_table(profiler, steps, self._device), encoding="utf-8")
        except (OSError, UserError) as error:
            logger.warning("the profile of %d steps is lost: %s", steps, error)
            return
        logger.info("profile of %d steps: %s, and %s for https://ui.perfetto.dev", steps, table, trace)


def _write_trace(profiler: profile, path: Path) -> None:
    with whole(path) as temporary:
        # torch ignores write errors: touch raises if the folder is not writable, and a full disk truncates the file.
        temporary.touch()
        profiler.export_chrome_trace(str(temporary))
        temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)  # torch leaves it on a full disk
        with temporary.open("rb") as file:
            file.seek(max(0, temporary.stat().st_size - 8))
            if not file.read().rstrip().endswith(b"}"):
                raise UserError(f"cannot write {path}: the file is truncated; is the disk full?")


def _table(profiler: profile, steps: int, device: torch.device) -> str:
    on_gpu = device.type == "cuda"
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = profiler.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=70)
    return f"{_summary(profiler.events() or (), steps, on_gpu)}\n\n{rows}\n"


def _summary(events: Iterable[FunctionEvent], steps: int, on_gpu: bool) -> str:
    """Describe the time of a step and the share of it in which nothing ran, in one line."""
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    step_spans = sorted(span(event) for event in on_host if event.name.startswith("ProfilerStep"))[:steps]
    begin, end = step_spans[0][0], step_spans[-1][1]
    # Operations have a namespace; events without one are Python code or calls of the CUDA runtime.
    operations = (span(e) for e in on_host if "::" in e.name and not e.name.startswith("autograd::engine"))
    idle = 1 - measure_coverage(operations, begin, end) / (end - begin)
    text = (
        f"{steps} steps of {(end - begin) / 1000 / steps:.2f} ms; no operation ran on the host's threads in {idle:.1%}"
    )
    if on_gpu:
        kernels = (span(e) for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation)
        text += f", and nothing on the GPU in {1 - measure_coverage(kernels, begin, end) / (end - begin):.1%}"
    return f"{text} of that time"


def span(event: FunctionEvent) -> tuple[float, float]:
    """Return the start and end of an event in microseconds."""
    return event.time_range.start, event.time_range.end


def measure_coverage(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Return how much of the time from `begin` to `end` lies in any of the spans, in their unit."""
    total = 0.0
    for first, last in sorted(spans):
        first, last = max(first, begin), min(last, end)
        if last > first:
            total += last - first
            begin = last
    return total
