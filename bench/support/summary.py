"""Summary of pytest-benchmark's JSON: medians, ratios to stock PyTorch, and shares of the peak rates."""

from typing import Any

from support import whole_steps
from support.roofline import floor, peaks
from support.targets import is_ours, overall, verdicts
from support.text_table import format_table

CEILINGS = "ceilings"
_TINY = "SMALL PROBLEMS (FASTVGAN_BENCH_TINY): the times mean nothing"
# Facts about a variant that the summary keeps.
_KEPT = ("peak_bytes", "cudnn_fp32_precision")
_KEPT += ("overhead", "overhead_unrecorded", "outside_ms", "kernels_ms", "unrecorded_ms")


def summarise(data: dict[str, Any]) -> dict[str, Any]:
    """Return the machine, its peak rates and every group, as plain values for JSON.

    Raises:
        KeyError: the file is not from these benchmarks.
    """
    machine = data["machine_info"]["fastvgan"]
    groups: dict[str, list] = {}
    for benchmark in data["benchmarks"]:
        groups.setdefault(benchmark["group"], []).append(benchmark)
    ceilings = _ceilings(groups.pop(CEILINGS, []))
    highest = peaks(ceilings, machine["device"])
    found = {name: _group(name, benchmarks, ceilings, highest) for name, benchmarks in groups.items()}
    return {
        "machine": machine,
        "commit": data["commit_info"].get("id"),
        "uncommitted_changes": data["commit_info"].get("dirty"),
        "date": data["datetime"][:10],
        "ceilings": ceilings,
        "peaks": highest,
        "overall": overall(found),
        "groups": found,
    }


def merge_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge several files of pytest-benchmark.

    Raises:
        ValueError: the files are from different machines, versions or commits.
        KeyError: a file is not from these benchmarks.
    """
    first = runs[0]
    for run in runs[1:]:
        for identify in (lambda r: r["machine_info"]["fastvgan"], lambda r: r["commit_info"].get("id")):
            if identify(run) != identify(first):
                raise ValueError(f"the files are from different runs: {identify(first)} and {identify(run)}")
    return {**first, "benchmarks": [benchmark for run in runs for benchmark in run["benchmarks"]]}


def _ceilings(benchmarks: list[dict]) -> dict[str, float]:
    """Return GFLOP/s for each dtype ("gemm fp32") and GB/s ("copy", "copy in cache"), by the best median."""
    found: dict[str, float] = {}
    for benchmark in benchmarks:
        facts = benchmark["extra_info"]
        name = f"gemm {facts['dtype']}" if facts["ceiling"] == "gemm" else facts["ceiling"]
        rate = facts.get("flops", facts.get("bytes")) / benchmark["stats"]["median"] / 1e9
        found[name] = max(found.get(name, 0), round(rate, 1))
    return found


def _group(name: str, benchmarks: list[dict], ceilings: dict[str, float], highest: dict[str, float]) -> dict[str, Any]:
    variants = {b["extra_info"]["variant"]: _variant(b, ceilings) for b in benchmarks}
    best = {
        side: min((n for n in variants if is_ours(n) == side), key=lambda n: variants[n]["median_ms"], default=None)
        for side in (True, False)
    }
    group: dict[str, Any] = {"stock": best[False], "ours": best[True], "variants": variants}
    if best[True] and best[False]:
        group["ratio"] = round(variants[best[False]]["median_ms"] / variants[best[True]]["median_ms"], 3)
    facts = next((b["extra_info"] for b in benchmarks if b["extra_info"]["variant"] == best[True]), None)
    if facts:
        group["dtype"] = facts["dtype"]
        group |= _rates(facts, variants[best[True]]["median_ms"] / 1e3, ceilings) | floor(facts, highest)
    group["targets"] = verdicts(name, group)
    # Noisy if the interquartile range of either compared variant exceeds 5% of its median.
    compared = [variants[n] for n in best.values() if n]
    group["noisy"] = any(v["iqr_ms"] > 0.05 * v["median_ms"] for v in compared)
    return group


def _variant(benchmark: dict, ceilings: dict[str, float]) -> dict[str, Any]:
    stats, facts = benchmark["stats"], benchmark["extra_info"]
    return {
        "median_ms": round(stats["median"] * 1e3, 4),
        "iqr_ms": round(stats["iqr"] * 1e3, 4),
        "rounds": stats["rounds"],
        **{name: facts[name] for name in _KEPT if facts.get(name) is not None},
        **whole_steps.rates(facts, stats["median"], ceilings),
    }


def _rates(facts: dict, seconds: float, ceilings: dict[str, float]) -> dict[str, Any]:
    """Return our FLOPs and bytes, per call and per second, and their shares of the peaks, without padding."""
    rates: dict[str, Any] = {}
    kinds = (("flops", "gflops", "gemm", f"gemm {facts['dtype']}"), ("bytes", "gbytes", "copy", "copy"))
    for count, rate, short, ceiling in kinds:
        if count in facts:
            peak_seconds = ceilings.get(ceiling, 0) * 1e9 * seconds
            rates[count] = facts[count]
            rates[f"{rate}_per_s"] = round(facts[count] / seconds / 1e9, 1)
            if ceiling in ceilings:
                rates[f"share_of_{short}"] = round(facts.get(f"needed_{count}", facts[count]) / peak_seconds, 3)
                if f"needed_{count}" in facts:
                    rates[f"share_of_{short}_by_usual_count"] = round(facts[count] / peak_seconds, 3)
    return rates


def ratios_as_text(summary: dict[str, Any]) -> str:
    """Format the ratios alone, one line per group that has both ours and a stock variant."""
    groups = {name: group for name, group in summary["groups"].items() if "ratio" in group}
    rows = [("", "best stock", "ms", "ours", "ms", "ratio")]
    rows += [(*_row(name, group)[:5], _row(name, group)[6]) for name, group in groups.items()]
    notes = [
        "ratio: the best stock variant's median divided by ours.",
        "~: noisy (interquartile range above 5% of the median)." if any(g["noisy"] for g in groups.values()) else "",
        _TINY if summary["machine"].get("tiny") else "",
    ]
    return "\n".join([_head(summary), "", *format_table(rows, (2, 4, 5)), "", " ".join(filter(None, notes))])


def _head(summary: dict[str, Any]) -> str:
    machine = summary["machine"]
    return (
        f"{machine['device']}, {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"CUDA {machine['cuda']}, Triton {machine.get('triton')}, commit {summary['commit']}"
    )


def as_text(summary: dict[str, Any]) -> str:
    """Format the table for a terminal, one line per group."""
    machine = summary["machine"]
    head = _head(summary) + (f"\n{_TINY}" if machine.get("tiny") else "")
    ceilings = ", ".join(
        f"{name} {rate:g} {'GFLOP/s' if name.startswith('gemm') else 'GB/s'}"
        for name, rate in summary["ceilings"].items()
    )
    rows = [("", "best stock", "ms", "ours", "ms", "floor", "ratio", "GFLOP/s", "GEMM", "GB/s", "copy", "targets")]
    rows += [_row(name, group) for name, group in summary["groups"].items()]
    lines = format_table(rows, (2, *range(4, 11)))
    steps = whole_steps.table(summary["groups"])
    of_groups = [target for group in summary["groups"].values() for target in group["targets"]]
    targets = [*of_groups, *summary["overall"]]
    met = f"{sum(target['met'] for target in targets)} of {len(targets)} targets met"
    notes = (
        "~: noisy (interquartile range above 5% of the median). GFLOP/s by the usual count, GEMM without padding.\n"
        "floor: minimum ms, by operations without padding at the GEMM ceiling or by bytes at the copy ceiling."
    )
    means = [f"{_target(target)}, over {target['groups']} groups" for target in summary["overall"]]
    return "\n".join(
        [
            head,
            f"ceilings: {ceilings or 'not measured'}",
            "",
            *lines,
            "",
            *([*steps, ""] if steps else []),
            *means,
            notes,
            met,
        ]
    )


def _row(name: str, group: dict) -> tuple[str, ...]:
    def cell(value, form):
        return "" if value is None else format(value, form)

    def ms(value):
        return cell(value, ".2f" if value is None or value >= 10 else ".3f")

    def median(side):
        return ms(group["variants"][group[side]]["median_ms"] if group[side] else None)

    return (
        name,
        group["stock"] or "",
        median("stock"),
        group["ours"] or "",
        median("ours"),
        ms(group.get("floor_ms")),
        cell(group.get("ratio"), ".2f") + ("~" if group["noisy"] else " "),
        cell(group.get("gflops_per_s"), ".0f"),
        cell(group.get("share_of_gemm"), ".0%"),
        cell(group.get("gbytes_per_s"), ".1f"),
        cell(group.get("share_of_copy"), ".0%"),
        "; ".join(map(_target, group["targets"])),
    )


def _target(target: dict) -> str:
    sign = "≤" if target["at_most"] else "≥"
    outcome = "met" if target["met"] else "MISSED"
    value = target["value"]
    shown = f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    return f"{shown} {target['what']} ({sign} {target['bound']:g}): {outcome}"
