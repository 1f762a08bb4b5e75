"""Peak memory of a call, and a defined state of the C library's allocator."""

import ctypes
import gc
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_LARGEST_THRESHOLD = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits


def level_allocator() -> None:
    """Bring the C library's allocator into the state of a long-running process; called before each timing.

    glibc maps a large block again at each allocation, with a page fault every 4 KiB, until a block of that size has
    been freed once. A check in float64 frees such blocks: the same convolution took 7.9 ms after one and 11.9 ms
    without. This would favour our variants, which are checked, over stock PyTorch's, which are not.
    """
    for _ in range(2):
        torch.empty(_LARGEST_THRESHOLD - 2**13, dtype=torch.uint8).fill_(0)
    _release_memory()


def _release_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
    if trim:
        trim(0)


def peak_bytes(call) -> int | None:
    """Return the peak memory of a call in bytes, above the memory in use before, or None where it is not available.

    On a GPU this is the memory that torch allocated. On the CPU it is the peak of the process's resident memory, by
    Linux's count and the higher of two calls, which includes workspaces of other libraries; memory that the allocator
    caches is released first, because a call could use it unnoticed.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        return max(_measure_resident_peak(call) for _ in range(2))
    except OSError:  # not Linux
        return None


def graphs_bytes() -> int:
    """Return the bytes of GPU memory in the memory pools of CUDA graphs."""
    segments = torch.cuda.memory_snapshot()
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))


def _measure_resident_peak(call) -> int:
    _release_memory()
    (_PROCESS / "clear_refs").write_text("5")  # resets the peak
    before = _read_status("VmRSS")
    call()
    return _read_status("VmHWM") - before


def _read_status(field: str) -> int:
    kilobytes = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return int(kilobytes[1]) * 1024
