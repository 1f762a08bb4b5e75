"""Means and rates over the steps since the last line of metrics."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fastvgan.training.parallel import Parallel
from fastvgan.training.step.adversarial import AdversarialStep, StepResult


class Meter:
    """Means over the steps since the last line of metrics, with the rate and the share of time spent on data.

    Scalars stay on the device until a line is due, so that the host does not wait for a GPU in every step.

    Args:
        batch_size: clips in a step of all processes.
        step: the step whose `totals` are read and reset.
        parallel: the processes to average over.

    Attributes:
        in_a_row: number of last steps that were not finite, at the last line.
        left_out: number of steps that skipped an update since construction, or since its user set it to zero.
    """

    def __init__(self, batch_size: int, step: AdversarialStep, parallel: Parallel):
        self._batch_size, self._step, self._parallel = batch_size, step, parallel
        self.in_a_row = self.left_out = 0
        self.reset()

    def reset(self) -> None:
        """Start over: zero the totals and the clocks."""
        self._step.totals.zero_()
        self._count, self._waited, self._paused = 0, 0.0, 0.0
        self._since = self._last = time.perf_counter()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the time within this context as waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def count(self) -> None:
        """Count a step as done."""
        self._count += 1
        self._last = time.perf_counter()

    def pause(self) -> None:
        """Exclude the time since the last step, spent on samples and checkpoints, from the rate."""
        self._paused += time.perf_counter() - self._last

    def values(self) -> dict[str, float]:
        """Return the means by name, update `in_a_row` and `left_out`, and start over.

        Means of losses, probabilities and norms are over finite values; a name without any is missing. `skipped` is the
        number of steps that skipped an update, and memory is that of this process, or the peak on its GPU.
        """
        step, updates = self._step, (self._step.d_update, self._step.g_update)
        totals = self._parallel.sum(step.totals.clone())
        more = [x.float() for u in updates for x in (u.in_a_row, u.scale, u.rate)]
        read = torch.cat([totals.flatten(), torch.stack(more)]).tolist()  # the only time the host waits
        names, size = StepResult._fields, len(StepResult._fields)
        sums, counts = read[:size], read[size : 2 * size]
        d_row, d_scale, d_rate, g_row, g_scale, g_rate = read[2 * size :]
        self.in_a_row = int(max(d_row, g_row))
        means = {name: s / n for name, s, n in zip(names, sums, counts, strict=True) if n}
        means["skipped"] = sums[names.index("skipped")] / self._parallel.world_size
        self.left_out += round(means["skipped"])
        seconds = time.perf_counter() - self._since - self._paused
        means |= {"lr_discriminator": d_rate, "lr_generator": g_rate}
        if updates[0].is_scaled:
            means |= {"d_loss_scale": d_scale, "g_loss_scale": g_scale}
        means["videos_per_second"] = self._count * self._batch_size / seconds
        means["data_wait"] = self._waited / seconds
        memory = memory_bytes(step.totals.device)
        if memory is not None:
            means["memory_bytes"] = float(memory)
        self.reset()
        return means


def memory_bytes(device: torch.device) -> int | None:
    """Return the peak bytes of tensors on a GPU, or on a CPU the bytes that this process uses now, if known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
