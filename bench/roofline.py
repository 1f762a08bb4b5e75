"""The time that no implementation can undercut: operations at the highest rate, or bytes at the highest bandwidth."""

from typing import Any

# Of the data sheets, dense: GFLOP/s of tensor cores (float32 as tf32) and GB/s. Only where nothing was measured.
_SHEETS = {
    "H200": {"gemm bf16": 989e3, "gemm fp32": 494e3, "copy": 4800},
    "H100 PCIe": {"gemm bf16": 756e3, "gemm fp32": 378e3, "copy": 2000},
    "H100": {"gemm bf16": 989e3, "gemm fp32": 494e3, "copy": 3350},
    "B200": {"gemm bf16": 2250e3, "gemm fp32": 1100e3, "copy": 8000},
    "A100": {"gemm bf16": 312e3, "gemm fp32": 156e3, "copy": 2039},
}


def peaks(ceilings: dict[str, float], device: str) -> dict[str, float]:
    """The ceilings as measured, and what is missing by the device's data sheet if it is a known one."""
    sheet = next((rates for name, rates in _SHEETS.items() if name in device), {})
    return {**sheet, **ceilings}


def floor(facts: dict[str, Any], highest: dict[str, float]) -> dict[str, Any]:
    """The least that a call takes, "floor_ms", and "floor_by", "gemm" or "copy", which sets it; nothing if unknown."""
    gemm, copy = highest.get(f"gemm {facts['dtype']}"), highest.get("copy")
    times = {}
    if "flops" in facts and gemm:
        times["gemm"] = facts.get("needed_flops", facts["flops"]) / gemm / 1e6
    if "bytes" in facts and copy:
        times["copy"] = facts["bytes"] / copy / 1e6
    if not times:
        return {}
    by = max(times, key=times.get)
    return {"floor_ms": round(times[by], 4), "floor_by": by}
