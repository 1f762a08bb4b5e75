"""Check that memory suffices before it is allocated, and recognise the errors of memory that did not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastvgan.errors import UserError

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")


def check_memory(needed: int, what: str, remedy: str, device: "torch.device | None" = None) -> None:
    """Check that an amount of memory is free; passes if the system does not report free memory.

    Args:
        needed: lower bound of the memory needed, in bytes.
        what: subject of the error message.
        remedy: remedy in the error message.
        device: a GPU; None or the CPU for host memory.

    Raises:
        UserError: less memory is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        where = f"{device}" if device is not None and device.type == "cuda" else "this machine"
        raise UserError(
            f"{what} needs at least {in_words(needed)} of memory, and {where} has {in_words(free)} left; {remedy}"
        )


def free_bytes(device: "torch.device | None" = None) -> int | None:
    """Return the free memory in bytes of a GPU, or of the host within the limits of this process.

    Returns:
        None if the system does not report it.
    """
    if device is not None and device.type == "cuda":
        import torch

        # Memory that torch caches is free, too.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min((*_of_the_machine(), *_of_the_group(), *_of_the_process()), default=None)


def in_words(count: int) -> str:
    """Format a number of bytes as "3.2 GiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**20:,.0f} MiB"


def _of_the_machine() -> Iterator[int]:
    sizes = _table(Path("/proc/meminfo"))
    if "MemAvailable:" in sizes:
        yield (sizes["MemAvailable:"] + sizes.get("SwapFree:", 0)) * 1024


def _of_the_group() -> Iterator[int]:
    """Yield the memory left by the control group (version 2 or 1) of a container."""
    for folder, most, used in (
        (_GROUPS, "memory.max", "memory.current"),
        (_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, taken = _number(folder / most), _number(folder / used)
        if limit is not None and taken is not None:
            table = _table(folder / "memory.stat")
            # The page cache is freed on demand.
            cached = table.get("total_inactive_file", table.get("inactive_file", 0))
            yield max(0, limit - taken + cached)


def _of_the_process() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _table(Path("/proc/self/status")).get("VmSize:")
    if limit != resource.RLIM_INFINITY and taken is not None:
        yield max(0, limit - taken * 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports lack of memory: of Python, or of torch on a GPU or the CPU."""
    texts = ("can't allocate memory", "out of memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    """Return the numbers in a file of lines "name number …"."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
