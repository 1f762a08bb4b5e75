"""Performance targets of all benchmarks."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Group = dict[str, Any]  # as summary.py makes it


@dataclass(frozen=True)
class Target:
    """A bound, lower or upper, for the measured value of `what` in all groups whose names match `groups`."""

    groups: str
    what: str
    bound: float
    measure: Callable[[Group], float | None]
    at_most: bool = False

    def verdict(self, name: str, group: Group) -> dict[str, Any] | None:
        """Compare the measured value with the bound; None if the target does not apply to the group."""
        if not re.search(self.groups, name):
            return None
        value = self.measure(group)
        return None if value is None else self.compare(value)

    def compare(self, value: float) -> dict[str, Any]:
        met = value <= self.bound if self.at_most else value >= self.bound
        return {"what": self.what, "value": round(value, 3), "bound": self.bound, "at_most": self.at_most, "met": met}

    def mean(self, groups: dict[str, Group]) -> dict[str, Any] | None:
        """Compare the geometric mean over all matching groups with the bound, and add their number."""
        values = [self.measure(group) for name, group in groups.items() if re.search(self.groups, name)]
        logs = [math.log(value) for value in values if value]
        return {**self.compare(math.exp(sum(logs) / len(logs))), "groups": len(logs)} if logs else None


def faster_than(pattern: str = "") -> Callable[[Group], float | None]:
    """Measure the median of the best stock variant whose name matches, divided by our median."""

    def measure(group):
        theirs = [v["median_ms"] for n, v in group["variants"].items() if re.search(pattern, n) and not is_ours(n)]
        return min(theirs) / group["variants"][group["ours"]]["median_ms"] if theirs and group["ours"] else None

    return measure


def share(ceiling: str) -> Callable[[Group], float | None]:
    """Measure the share of the peak rate "gemm" or "copy"."""
    return lambda group: group.get(f"share_of_{ceiling}")


def when_large(measure: Callable[[Group], float | None]) -> Callable[[Group], float | None]:
    """Restrict a measurement to groups of 100 GFLOP or more, which fully occupy a GPU."""
    return lambda group: measure(group) if group.get("flops", 0) >= 1e11 else None


def times_floor(group: Group) -> float | None:
    """Return our time divided by the time of the same FLOPs in GEMMs at the peak rate."""
    reached = group.get("share_of_gemm_by_usual_count")  # the floor of 0.41 s was counted this way
    return 1 / reached if reached else None


def by_graphs(group: Group) -> float | None:
    """Return the median of our best variant without CUDA graphs divided by the median of our best one with them."""
    medians = {n: v["median_ms"] for n, v in group["variants"].items() if is_ours(n)}
    replayed = [median for name, median in medians.items() if name.endswith("-graph")]
    eager = [median for name, median in medians.items() if not name.endswith("-graph")]
    return min(eager) / min(replayed) if eager and replayed else None


def overhead(group: Group) -> float | None:
    """Return the share of our step in which no operation runs."""
    return group["variants"].get(group["ours"], {}).get("overhead")


def memory(group: Group) -> float | None:
    """Return the peak memory of our best variant divided by the lowest peak of all stock variants."""
    peaks = {n: v["peak_bytes"] for n, v in group["variants"].items() if v.get("peak_bytes")}
    theirs = [peak for name, peak in peaks.items() if not is_ours(name)]
    return peaks[group["ours"]] / min(theirs) if theirs and group["ours"] in peaks else None


def is_ours(variant: str) -> bool:
    return variant.startswith("ours")


BEST, PLAIN = faster_than(), faster_than("^fp32-eager-contiguous$")
MIDDLE = r"^(ConvTranspose3d (256→128|128→64)|Conv3d 128→256) from .*(forward|gradient)"
GPU_CONV = r"^GPU: (Conv3d|ConvTranspose3d) \d"
TARGETS = [
    Target(MIDDLE, "of GEMM", 0.85, share("gemm")),
    Target(r"^ConvTranspose3d 128→3 .*forward", "x best stock", 3, BEST),
    Target(r"^Conv3d 3→128 .*data gradient", "x best stock", 3, BEST),
    Target(r"^BatchNorm3d .*, forward \+ backward", "x best stock", 2.5, BEST),
    Target(r"^BatchNorm3d .*, forward, ", "of copy", 0.85, share("copy")),
    Target(r"^ConvTranspose3d \+ .* 256→128", "x best stock", 1.25, BEST),
    Target(r"^ConvTranspose3d \+ .* 128→64", "x best stock", 1.35, BEST),
    Target(r"^Conv3d \+ .* 128→256", "x best stock", 1.35, BEST),
    Target(r"^ConvLSTM ", "x eager loop", 2, faster_than("^eager-")),
    Target(r"^generator ", "x plain fp32", 3, PLAIN),
    Target(r"^generator ", "x best stock", 1.5, BEST),
    Target(r"^fuse: ", "x best stock", 0.98, BEST),
    Target(r"^dispatch ", "µs a call", 10, lambda group: group["variants"]["ours"]["median_ms"], at_most=True),
    Target(r"^loading .* by (pyav|dali)", "x DataLoader over PyAV", 1, BEST),
    Target(r"^loading .* by shards", "x decoding", 20, BEST),
    Target(r"^train step", "x plain fp32", 2.5, PLAIN),
    Target(r"^train step", "x best stock", 1.5, BEST),
    Target(r"^train step", "x GEMM floor", 1.3, times_floor, at_most=True),
    Target(r"^train step", "x stock's peak memory", 0.7, memory, at_most=True),
    Target(r"^trainer: ", "of a step without an operation", 0.03, overhead, at_most=True),
    Target(GPU_CONV, "x best stock, else auto leaves it to that", 0.9, BEST),
    # cuDNN's rates are given by the usual count.
    Target(GPU_CONV, "of GEMM by the usual count", 0.65, when_large(share("gemm_by_usual_count"))),
    Target(r"^GPU: ConvTranspose3d \+ BatchNorm3d \+ ReLU ", "x best stock", 1.5, BEST),
    Target(r"^GPU: ConvTranspose3d \+ tanh 64→3 ", "x best stock", 3, BEST),
    Target(r"^GPU: BatchNorm3d ", "of copy", 0.9, share("copy")),
    Target(r"^GPU: ConvLSTM ", "x loop over cuDNN", 2.5, faster_than("^eager-")),
    Target(r"^GPU: ConvLSTM ", "x torch.compile", 1.5, faster_than("^(compile|autotune)-")),
    Target(r"^GPU: train step, preset reference", "x ours without CUDA graphs", 2, by_graphs),
    Target(r"^GPU: train step", "x plain fp32", 3, PLAIN),
    Target(r"^GPU: train step", "x compiled autocast", 1.5, faster_than("^bf16-compile-channels_last$")),
]
MEANS = [
    Target(GPU_CONV, "x best stock in the geometric mean", 1.15, BEST),
    Target(r"^fuse: ", "x stock in the geometric mean, where the CPU has AMX", 1.15, BEST),
    Target(r"^fuse: .*fp32", "x stock in the geometric mean of fp32", 1.05, BEST),
]


def verdicts(name: str, group: Group) -> list[dict[str, Any]]:
    """Return the verdicts of all targets that apply to a group."""
    found = (target.verdict(name, group) for target in TARGETS)
    return [verdict for verdict in found if verdict is not None]


def overall(groups: dict[str, Group]) -> list[dict[str, Any]]:
    """Return the verdicts of all targets for means over groups."""
    found = (target.mean(groups) for target in MEANS)
    return [verdict for verdict in found if verdict is not None]
