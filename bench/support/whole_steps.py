"""Table of all variants of a whole training step: time, clips per second, FLOP/s and memory."""

from typing import Any

from support.text_table import format_table

_HEAD = ("whole steps", "variant", "ms", "videos/s", "TFLOP/s", "of GEMM", "peak GB")


def rates(facts: dict[str, Any], seconds: float, ceilings: dict[str, float]) -> dict[str, float]:
    """Return clips per second, TFLOP/s by the usual count and the share of the peak, if "videos" is among the facts.

    Only operations that every loop needs are counted.
    """
    if "videos" not in facts:
        return {}
    found = {"videos_per_s": round(facts["videos"] / seconds, 1)}
    if "flops" in facts:
        found["tflops_per_s"] = round(facts["flops"] / seconds / 1e12, 3)
        ceiling = ceilings.get(f"gemm {facts['dtype']}")
        if ceiling:
            needed = facts.get("needed_flops", facts["flops"])
            found["share_of_gemm"] = round(needed / seconds / 1e9 / ceiling, 3)
    return found


def table(groups: dict[str, dict[str, Any]]) -> list[str]:
    """Format the table for a terminal, the fastest variant of a group first; [] without whole steps."""
    rows = []
    for name, group in groups.items():
        steps = {n: v for n, v in group["variants"].items() if "tflops_per_s" in v}
        for variant, values in sorted(steps.items(), key=lambda step: step[1]["median_ms"]):
            rows.append((name, variant, *_cells(values)))
            name = ""  # printed once per group
    return format_table([_HEAD, *rows], range(2, len(_HEAD))) if rows else []


def _cells(values: dict[str, Any]) -> tuple[str, ...]:
    share, peak = values.get("share_of_gemm"), values.get("peak_bytes")
    return (
        f"{values['median_ms']:.2f}",
        f"{values['videos_per_s']:.0f}",
        f"{values['tflops_per_s']:.3g}",
        "" if share is None else f"{share:.0%}",
        "" if peak is None else f"{peak / 1e9:.2f}",
    )
