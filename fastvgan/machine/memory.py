"""How much memory there is, and a refusal in one sentence of what would take more: before it is taken, not after."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastvgan.errors import UserError

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")


def check_memory(needed: int, what: str, remedy: str, device: "torch.device | None" = None) -> None:
    """Refuse what does not fit into memory; where that cannot be told, nothing is refused.

    Args:
        needed: bytes, at least. what: takes them. device: a GPU, or None or the CPU for the host's memory.

    Raises:
        UserError: there is less.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        where = f"{device}" if device is not None and device.type == "cuda" else "this machine"
        raise UserError(
            f"{what} needs at least {in_words(needed)} of memory, and {where} has {in_words(free)} left; {remedy}"
        )


def free_bytes(device: "torch.device | None" = None) -> int | None:
    """Bytes that can be had: of a GPU as its driver says, else of the host, within the limits of this process.

    None where the system does not say.
    """
    if device is not None and device.type == "cuda":
        import torch

        # What torch has taken and does not use counts as well.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min((*_of_the_machine(), *_of_the_group(), *_of_the_process()), default=None)


def in_words(count: int) -> str:
    """Bytes as "3.2 GiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**20:,.0f} MiB"


def _of_the_machine() -> Iterator[int]:
    sizes = _table(Path("/proc/meminfo"))
    if "MemAvailable:" in sizes:
        yield (sizes["MemAvailable:"] + sizes.get("SwapFree:", 0)) * 1024


def _of_the_group() -> Iterator[int]:
    """What the control group of a container leaves, in the second or the first version of its files."""
    for folder, most, used in (
        (_GROUPS, "memory.max", "memory.current"),
        (_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, taken = _number(folder / most), _number(folder / used)
        if limit is not None and taken is not None:
            table = _table(folder / "memory.stat")
            # Files that were read are in memory only as long as nothing else needs it.
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


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file of lines "name number …"."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
