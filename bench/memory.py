"""How much memory a call needs at its worst moment, and an allocator that is in the same state for everyone."""

import ctypes
import gc
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_LARGEST_THRESHOLD = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits


def level_allocator() -> None:
    """Bring the C library's allocator into the steady state of a long process before each timing.

    glibc maps a large block at each allocation, with a page fault every 4 KiB, until a block of that size has been
    freed once. A process that has checked a result in float64 has freed such blocks, one that has not pays: the same
    convolution took 7.9 and 11.9 ms. Left to chance, that would be ours (checked) against stock (not checked).
    """
    for _ in range(2):
        torch.empty(_LARGEST_THRESHOLD - 2**13, dtype=torch.uint8).fill_(0)
    _give_back()


def _give_back() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim:
        trim(0)


def peak_bytes(call) -> int | None:
    """The most that two calls hold above what was held before them, or None where the system does not tell.

    On a GPU this is what torch allocated. On the CPU it is the resident memory of the process, which Linux keeps the
    peak of, so that workspaces count that torch knows nothing of; memory that the allocator merely keeps for later is
    given back first, else a call could use it unseen.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        return max(_resident_peak(call) for _ in range(2))
    except OSError:  # no such file
        return None


def graphs_bytes() -> int:
    """Return the bytes that CUDA graphs hold on the GPU, in private memory pools, while they can be replayed."""
    segments = torch.cuda.memory_snapshot()
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))


def _resident_peak(call) -> int:
    _give_back()
    (_PROCESS / "clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    kilobytes = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return int(kilobytes[1]) * 1024
