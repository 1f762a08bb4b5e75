"""The comparison as a table in Markdown, and as a plot."""

from pathlib import Path
from typing import Any, NamedTuple

COLOURS = {"theirs": "#9aa5b1", "ours": "#3b6ea8"}
_HEAD = ("the same work", "instead of fastvgan", "ms", "fastvgan", "ms", "times as fast")


class Pair(NamedTuple):
    """One of our sides against one other side: names, medians and interquartile ranges in ms."""

    theirs: str
    their_ms: float
    their_iqr: float
    ours: str
    our_ms: float
    our_iqr: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.their_ms / self.our_ms


def is_ours(name: str) -> bool:
    return name.startswith("fastvgan")


def pairs(row: dict[str, Any]) -> list[Pair]:
    """Return each of our sides against each other side."""

    def numbers(side: dict[str, float]) -> tuple[float, float]:
        return side["median_ms"], side["q3_ms"] - side["q1_ms"]

    sides = row["sides"]
    ours, theirs = [n for n in sides if is_ours(n)], [n for n in sides if not is_ours(n)]
    return [Pair(t, *numbers(sides[t]), o, *numbers(sides[o])) for o in ours for t in theirs]


def as_markdown(found: dict[str, Any]) -> str:
    """Format the machine, the table, the checks, and the rows without results."""
    lines = [describe_run(found), "", f"| {' | '.join(_HEAD)} |", "| --- | --- | ---: | --- | ---: | ---: |"]
    for row in found["rows"]:
        work = row["work"]
        for pair in pairs(row):
            theirs, ours = _ms(pair.their_ms, pair.their_iqr), _ms(pair.our_ms, pair.our_iqr)
            lines.append(f"| {work} | {pair.theirs} | {theirs} | {pair.ours} | {ours} | {pair.ratio:.2f} |")
            work = ""  # printed once per row
    for name, reason in found["missing"].items():
        lines.append(f"| {name} | not measured: {reason} | | | | |")
    lines += ["", "Medians (interquartile ranges) of calls in turns. Checked before timing:", ""]
    for row in found["rows"]:
        check = row["check"]
        lines.append(f"- {row['name']}: {check['what']}: {check['difference']:g} (at most {check['tolerance']:g})")
    lines += [f"- {name}: FAILED: {reason}" for name, reason in found["failed"].items()]
    return "\n".join(lines) + "\n"


def _ms(median: float, spread: float) -> str:
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:,.{digits}f} ({spread:,.{digits}f})"


def describe_run(found: dict[str, Any]) -> str:
    """Name the machine, the versions, the commit and the date."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    device = found["cpu"] if found["device"] == "cpu" else found["device"]
    line = f"{device}, threads: {found['threads']}, load {found['load_at_start']:.1f} at the start, {versions}, "
    line += f"commit {found['commit']}, {found['date']}"
    return line + ("\n\nSMALL PROBLEMS (--quick): the times mean nothing" if found["tiny"] else "")


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw each other side's time relative to ours, one panel for all rows, with quartiles.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = [(row["work"], pairs(row)) for row in found["rows"]]
    groups = [(work, group) for work, group in groups if group]
    ratios = [pair.ratio for _, group in groups for pair in group]
    lines = len(ratios) + len(groups)  # each group has a title
    figure, axes = plt.subplots(figsize=(9.5, 1.1 + 0.26 * lines), dpi=130, layout="constrained")
    labels, y = {}, 0
    for work, group in groups:
        # In the labels' column and to the right of it: titles are long, and no bar is on their line.
        title = axes.annotate(work, (0, y), (-170, 0), axes.get_yaxis_transform(), "offset points", va="center")
        title.set(fontsize=8, fontweight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
        for pair in group:
            y += 1
            labels[y] = pair.theirs if len({each.ours for each in group}) == 1 else f"{pair.theirs} / {pair.ours}"
            _draw_bar(axes, y, pair)
        y += 1
    axes.axvline(1, color=COLOURS["ours"], linewidth=2, label="fastvgan")
    axes.set_yticks(list(labels), list(labels.values()), fontsize=7)
    axes.set_ylim(lines - 0.2, -0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, 0.8 * min(ratios, default=1)), 1.8 * max(1, *ratios))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"time relative to fastvgan, logarithmic ({describe_device(found)})", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _draw_bar(axes: Any, y: int, pair: Pair) -> None:
    error = pair.ratio * pair.their_iqr / pair.their_ms / 2
    style = {"color": COLOURS["theirs"], "ecolor": "#555", "capsize": 2}
    axes.barh(y, pair.ratio - 1, 0.6, left=1, xerr=error, **style)  # to the left of 1 where ours is slower
    place = max(1, pair.ratio + error), y
    axes.annotate(f"{pair.ratio:.2f}", place, (5, 0), textcoords="offset points", va="center", fontsize=8)


def describe_device(found: dict[str, Any]) -> str:
    return f"{found['cpu']}, threads: {found['threads']}" if found["device"] == "cpu" else found["device"]
