"""Draw the rooflines of docs/explanation/kernels.md from bench/results: `python bench/plot_roofline.py`."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # import the checkout's package, as `python -m` does

from gpu_rules import check_convs  # noqa: E402
from support.plot import COLOURS  # noqa: E402

from fastvgan.command_line import parse, run_command  # noqa: E402
from fastvgan.settings import Settings  # noqa: E402

RESULTS = ROOT / "bench" / "results"
# Operations per value of batch norm with ReLU. Evaluation: a product, a sum, a maximum. Training adds the sums of x and
# x² (3) and the backward pass: the mask, two sums, the normalised x, and dx (10).
NORM_FLOPS = {"evaluation": 3, "forward": 6, "forward + backward": 16}
BYTES = {"fp32": 4, "bf16": 2}
# Transfers of a value to or from memory in these passes, as bench/test_norm_act.py counts them.
NORM_TRANSFERS = {"evaluation": 2, "forward": 3, "forward + backward": 8}


class Arguments(Settings):
    """Draw the rooflines of docs/explanation/kernels.md from bench/results."""

    out: Path = ROOT / "docs" / "explanation" / "roofline.png"
    """File to write."""


class Point(NamedTuple):
    """A measured problem: operations per byte, dtype, kind ("convolution" or "norm"), and GFLOP/s of both variants."""

    intensity: float
    dtype: str
    kind: str
    ours: float
    stock: float


class Machine(NamedTuple):
    """A machine: the plot's title, GFLOP/s of GEMM by dtype, GB/s by kind of memory, and the measured problems."""

    title: str
    gemm: dict[str, float]
    copy: dict[str, float]
    points: list[Point]


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(Arguments, "python bench/plot_roofline.py", arguments)
    plot_rooflines(
        [cpu(_read("cpu-2-cores.json")), h100(_read("convs-h100.json"), _read("layers-h100.json"))], parsed.out
    )


def cpu(summary: dict[str, Any]) -> Machine:
    """Return the roofline of a summary of bench/report.py: its convolution passes, and its norms with ReLU."""
    ceilings = summary["ceilings"]
    points = []
    for name, group in summary["groups"].items():
        if "bytes" not in group or not {"ours", "stock"} <= group.keys():
            continue
        times = {who: group["variants"][group[who]]["median_ms"] for who in ("ours", "stock")}
        kind, work = "convolution", 0.0
        if "share_of_gemm" in group:  # without products with padding, which nobody needs to compute
            work = group["share_of_gemm"] * ceilings[f"gemm {group['dtype']}"] * times["ours"] * 1e6
        elif " + relu " in name:
            kind, work = "norm", _norm_flops(name.split(", ")[-2], group["bytes"], group["dtype"])
        if work:
            rates = (work / times[who] / 1e6 for who in ("ours", "stock"))
            points.append(Point(work / group["bytes"], group["dtype"], kind, *rates))
    machine = summary["machine"]
    return Machine(
        f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}",
        {dtype: ceilings[f"gemm {dtype}"] for dtype in COLOURS},
        {"memory": ceilings["copy"], "cache": ceilings["copy in cache"]},
        points,
    )


def h100(convolutions: dict[str, Any], layers: dict[str, Any]) -> Machine:
    """Return the roofline of a GPU: convolution passes and norms, each by Triton (ours) and by stock PyTorch.

    Raises:
        UserError: `convolutions` lacks the ceilings, or a pass its shares of them.
    """
    check_convs(convolutions, ("gemm_tflops", "copy_gb_per_s"), ("share_of_gemm", "share_of_copy"))
    gemm, copy = convolutions["gemm_tflops"] * 1e3, convolutions["copy_gb_per_s"]
    points = []
    for one in convolutions["passes"]:
        share = one["share_of_gemm"]
        intensity = share["triton"] * gemm / (one["share_of_copy"] * copy)
        points.append(Point(intensity, "bf16", "convolution", share["triton"] * gemm, share["stock"] * gemm))
    for one in layers["problems"]:
        if one.get("operation") != "norm_act":
            continue
        work = NORM_FLOPS["forward + backward"] * one["positions"] * one["outputs"] / 1e6
        moved = one["gb_per_s"] * one["triton_ms"]  # MB
        stock_ms = min(one["stock_ms"].values())
        points.append(Point(work / moved, "bf16", "norm", work / one["triton_ms"], work / stock_ms))
    title = f"{convolutions['device']}, torch {convolutions['versions']['torch']}"
    return Machine(title, {"bf16": gemm}, {"memory": copy}, points)


def plot_rooflines(machines: list[Machine], path: Path) -> None:
    """Draw one roofline per machine: GFLOP/s by operations per byte, ours filled, the best stock variant hollow.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(machines), figsize=(5.2 * len(machines), 4.4), dpi=110, layout="constrained")
    for axes, machine in zip(panels, machines, strict=True):
        _draw_roofs(axes, machine)
        for one in machine.points:
            style = {"color": COLOURS[one.dtype], "marker": "o" if one.kind == "convolution" else "s", "ms": 4.5}
            axes.plot([one.intensity] * 2, [one.stock, one.ours], color=COLOURS[one.dtype], linewidth=0.6, alpha=0.6)
            axes.plot(one.intensity, one.stock, fillstyle="none", **style)
            axes.plot(one.intensity, one.ours, **style)
        axes.set(xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="GFLOP/s")
        axes.set_title(machine.title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    _add_legend(panels[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _draw_roofs(axes: Any, machine: Machine) -> None:
    """Draw the limits: the rate of memory times the intensity, up to the rate of GEMM."""
    left, right = 0.2, 6000.0
    for dtype, gemm in machine.gemm.items():
        bend = gemm / machine.copy["memory"]
        axes.plot([left, bend, right], [left * machine.copy["memory"], gemm, gemm], color=COLOURS[dtype], linewidth=1.4)
        axes.annotate(f"GEMM {dtype}: {gemm:,.0f} GFLOP/s", (right, gemm), (0, 3), **_small(color=COLOURS[dtype]))
    for place, rate in machine.copy.items():
        if place != "memory":
            bend = min(machine.gemm.values()) / rate
            axes.plot([left, bend], [left * rate, bend * rate], color="black", linewidth=0.8, linestyle=":")
    text = ", ".join(f"{place} {rate:,.0f} GB/s" for place, rate in machine.copy.items())
    axes.text(0.03, 0.97, f"copies: {text}", transform=axes.transAxes, va="top", fontsize=7)
    axes.set_xlim(left, right * 1.1)


def _small(**style: Any) -> dict[str, Any]:
    return {"textcoords": "offset points", "ha": "right", "fontsize": 7, **style}


def _add_legend(axes: Any) -> None:
    from matplotlib.lines import Line2D

    grey = {"color": "0.3", "linewidth": 0, "ms": 5}
    handles = [
        Line2D([], [], marker="o", label="convolution, ours", **grey),
        Line2D([], [], marker="o", fillstyle="none", label="convolution, best stock", **grey),
        Line2D([], [], marker="s", label="batch norm + ReLU, ours", **grey),
        Line2D([], [], marker="s", fillstyle="none", label="batch norm + ReLU, best stock", **grey),
        *(Line2D([], [], color=colour, label=dtype) for dtype, colour in COLOURS.items()),
    ]
    axes.legend(handles=handles, fontsize=7, frameon=False, loc="lower right")


def _norm_flops(kind: str, moved: int, dtype: str) -> float:
    """Return the operations of a norm pass that moves this many bytes."""
    return NORM_FLOPS[kind] * moved / (NORM_TRANSFERS[kind] * BYTES[dtype])


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
