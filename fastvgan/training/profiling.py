"""Where the time of a training step goes: some steps recorded by torch.profiler, as a trace and as a table."""

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
    """Records some steps of a loop, then writes trace.json (Chrome's format) and table.txt into a folder, and says so.

    A context manager around the loop, whose `step()` is called after each step; what happens between two calls counts
    as the later step's. A loop that ends early leaves what was recorded until then. A folder that cannot be written is
    a warning, not the end of the loop.

    Args:
        folder: made when there is something to write. count: how many steps to record; with 0 nothing is done at all.
        device: where the steps run; the GPU's operations are recorded too if it is one.
        skip: how many steps go before, at least 1: the first ones allocate, choose algorithms and fill caches, and the
            last of them warms up the profiler itself.
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

    def __exit__(self, *_) -> None:
        if self._profiler is not None:
            self._finish()

    def step(self) -> None:
        """Note that a step is done; after the last one to be recorded this writes the files."""
        if self._profiler is None:
            return
        self._seen += 1
        if self._seen in (self._skip, self._skip + self._count):
            self._synchronize()  # what is recorded begins and ends with the GPU at rest
        if self._seen == self._skip + self._count:
            self._finish()
        else:
            self._profiler.step()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _finish(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        steps = self._seen - self._skip
        if steps < 1:
            logger.warning(
                "no step was profiled: the loop ended after %d, and the first %d are left out", self._seen, self._skip
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
        # torch raises nothing when it cannot write: this does, and a full disk shows in how the file ends.
        temporary.touch()
        profiler.export_chrome_trace(str(temporary))
        temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)  # which torch leaves when the disk is full
        with temporary.open("rb") as file:
            file.seek(max(0, temporary.stat().st_size - 8))
            if not file.read().rstrip().endswith(b"}"):
                raise UserError(f"cannot write {path}: it came out cut off; is the disk full?")


def _table(profiler: profile, steps: int, device: torch.device) -> str:
    on_gpu = device.type == "cuda"
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = profiler.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=70)
    return f"{_summary(profiler.events(), steps, on_gpu)}\n\n{rows}\n"


def _summary(events: Iterable[FunctionEvent], steps: int, on_gpu: bool) -> str:
    """How long a step took, and for which share of that nothing ran, in one line."""
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    whole_steps = sorted(span(event) for event in on_host if event.name.startswith("ProfilerStep"))[:steps]
    begin, end = whole_steps[0][0], whole_steps[-1][1]
    # Operations have a namespace; what has none is the Python around them, or a call of the CUDA runtime.
    operations = (span(e) for e in on_host if "::" in e.name and not e.name.startswith("autograd::engine"))
    idle = 1 - covered(operations, begin, end) / (end - begin)
    text = (
        f"{steps} steps of {(end - begin) / 1000 / steps:.2f} ms; no operation ran on the host's threads in {idle:.1%}"
    )
    if on_gpu:
        kernels = (span(e) for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation)
        text += f", and nothing on the GPU in {1 - covered(kernels, begin, end) / (end - begin):.1%}"
    return f"{text} of that time"


def span(event: FunctionEvent) -> tuple[float, float]:
    """When an event began and ended, in microseconds."""
    return event.time_range.start, event.time_range.end


def covered(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """How much of the time from `begin` to `end` lies in any of the spans."""
    total = 0.0
    for first, last in sorted(spans):
        first, last = max(first, begin), min(last, end)
        if last > first:
            total += last - first
            begin = last
    return total
