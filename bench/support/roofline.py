"""The minimum time of an operation, by the peak rates of operations and of memory (the roofline model)."""

from typing import Any

# From data sheets, dense: GFLOP/s of tensor cores (float32 as tf32) and GB/s; used for rates that were not measured.
_SHEETS = {
    "H200": {"gemm bf16": 989e3, "gemm fp32": 494e3, "copy": 4800},
    "H100 PCIe": {"gemm bf16": 756e3, "gemm fp32": 378e3, "copy": 2000},
    "H100": {"gemm bf16": 989e3, "gemm fp32": 494e3, "copy": 3350},
    "B200": {"gemm bf16": 2250e3, "gemm fp32": 1100e3, "copy": 8000},
    "A100": {"gemm bf16": 312e3, "gemm fp32": 156e3, "copy": 2039},
}


def peaks(ceilings: dict[str, float], device: str) -> dict[str, float]:
    """Return the measured peak rates, completed from the device's data sheet if it is known."""
    sheet = next((rates for name, rates in _SHEETS.items() if name in device), {})
    return {**sheet, **ceilings}


def floor(facts: dict[str, Any], highest: dict[str, float]) -> dict[str, Any]:
    """Return a call's minimum time, "floor_ms", and its limit, "floor_by": "gemm" or "copy"; {} if unknown."""
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
