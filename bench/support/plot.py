"""Bar chart of a summary's ratios."""

from pathlib import Path
from typing import Any

COLOURS = {"fp32": "#3b6ea8", "bf16": "#e08a2e"}


def plot(summary: dict[str, Any], path: Path) -> None:
    """Draw our speed relative to the best stock variant, one row per problem, one bar per dtype.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = _rows(summary)
    height = 0.38
    label = {"textcoords": "offset points", "va": "center", "fontsize": 7}  # right of the bar and of the line at 1
    figure, axes = plt.subplots(figsize=(8.4, 0.8 + 0.36 * len(rows)), dpi=130, layout="constrained")
    for y, (_, bars) in enumerate(rows):
        offsets = (-height / 2, height / 2) if len(bars) == 2 else (0,)
        for offset, (dtype, ratio) in zip(offsets, bars, strict=True):
            axes.barh(y + offset, ratio, height, color=COLOURS[dtype])
            axes.annotate(f"{ratio:.2f}", (max(ratio, 1), y + offset), (4, 0), **label)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"speed relative to the best stock variant ({_machine(summary)})", fontsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, COLOURS, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _rows(summary: dict[str, Any]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return (problem, [(dtype, ratio), …]) in the summary's order, without dtypes in the problems' names."""
    rows: dict[str, list[tuple[str, float]]] = {}
    for name, group in summary["groups"].items():
        if "ratio" in group and group["dtype"] in COLOURS:  # except loading, whose ratios have another scale
            rows.setdefault(name.removesuffix(f", {group['dtype']}"), []).append((group["dtype"], group["ratio"]))
    return list(rows.items())


def _machine(summary: dict[str, Any]) -> str:
    machine = summary["machine"]
    return f"{machine['cores']} cores of {machine['cpu']}" if machine["device"] == "cpu" else machine["device"]
