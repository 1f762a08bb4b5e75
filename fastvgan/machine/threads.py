"""Count the usable processors, and configure the number and the waiting of torch OpenMP threads.

OpenMP reads its environment variables once, when torch loads it, so they must be set before torch is imported.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CPUS = Path("/sys/devices/system/cpu")

_COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

SPIN_COUNT = 1000
"""Iterations that a thread spins at a barrier before it sleeps; about 100 take a microsecond.

The default of libgomp is 300,000. When another process has the other core, a thread that spins this long keeps its core
from the very thread that it waits for.
"""


def count_processors() -> int:
    """Return the number of processors that this process may use, at least 1.

    This is the number that it is bound to, or the smaller quota, rounded up, of a control group such as a container's.
    """
    return min([len(bound_to()), *(max(1, math.ceil(quota)) for quota in _quotas())])


def bound_to() -> set[int]:
    """Return the indices of the processors that the scheduler may run this process on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def is_count_named() -> bool:
    """Return whether an environment variable sets the number of torch threads."""
    return any(name in os.environ for name in _COUNT)


def set_up_threads() -> None:
    """Set OpenMP's environment variables so that torch shares the machine with other processes; for commands only.

    Waiting threads soon sleep, and a control group's quota limits their number. Variables that the user set are kept,
    and nothing changes if torch is loaded already. `fastvgan.machine.neighbours` adapts the number during a run.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _WAITING):
        # LLVM's and Intel's OpenMP read only the first variable; libgomp prefers the second.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPIN_COUNT)}
    processors = count_processors()
    if not is_count_named() and processors < _count_cores():
        os.environ["OMP_NUM_THREADS"] = str(processors)


def describe_threads() -> str:
    """Describe torch's CPU threads and the variables set for them, as in "2 threads (OMP_NUM_THREADS=2)"."""
    import torch

    count = torch.get_num_threads()
    found = thread_settings()
    sleeps = found.get("OMP_WAIT_POLICY", "").lower() == "passive"
    sleeps = sleeps and found.get("GOMP_SPINCOUNT", str(SPIN_COUNT)) == str(SPIN_COUNT)
    how = ", which sleep while they wait for each other" if sleeps and count > 1 else ""
    why = f" ({', '.join(f'{name}={value}' for name, value in found.items())})" if found else ""
    return f"{count} thread{'s' if count != 1 else ''}{how}{why}"


def thread_settings() -> dict[str, str]:
    """Return the variables that set the number and the waiting of threads, whether we or the user set them."""
    return {name: os.environ[name] for name in (*_COUNT, *_WAITING) if name in os.environ}


def _count_cores() -> int:
    """Count the cores of the processors that this process may use; torch starts one thread per core."""
    siblings = {number: _read(_CPUS / f"cpu{number}/topology/thread_siblings_list") for number in bound_to()}
    return len({text or number for number, text in siblings.items()})


def _quotas() -> Iterator[float]:
    """Yield how many processors each control group of this process may use, for those that have a limit."""
    for folder in _group_folders():
        # Version 2 of control groups has both numbers in one file, version 1 in two; "max" or -1 is no limit.
        numbers = _read(folder / "cpu.max").split()
        numbers = numbers or [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers) and int(numbers[1]):
            yield int(numbers[0]) / int(numbers[1])


def _group_folders() -> Iterator[Path]:
    """Yield the folder of each control group of this process, then those of its parents, whose limits apply too.

    In a container the path may be the host's and not exist here: the root then stands for the container's own group.
    """
    for line in _read(_MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)  # "4:cpu,cpuacct:/docker/1a2b", or "0::/" in version 2
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / "cpu" if controllers else _GROUPS
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))


def _read(path: Path) -> str:
    """Return the text of a system file; empty if it cannot be read, as on systems without control groups."""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
