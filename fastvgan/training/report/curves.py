"""The curves of a report: groups of metrics that share a panel, and each panel as an SVG picture."""

import base64
import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from fastvgan.machine.optional import install_command, is_installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f7bf0", "#d9620b", "#16936a", "#a05cd0")  # the page's; readable on white and on black
_INK = "#012345"  # a placeholder for the text colour, which differs between light and dark pages
_STYLE = "<style>svg{color:#5a616b}@media(prefers-color-scheme:dark){svg{color:#a0a7b1}}</style>"
_SPREAD = 30  # ratio of largest to smallest value above which the axis is logarithmic
_MANY = 60  # number of points from which a running mean is drawn, too
_LARGEST = 1e100  # larger values do not fit an axis
# Scores that are shares of clips.
_SHARES = ("digit", "colour", "motion", "joint", "held_out_joint", "paraphrased_joint", "same_digit", "copies")
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastvgan",  # the same values give the same file
    "text.usetex": False,
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "grid.color": _INK,
}


class Series(NamedTuple):
    """One metric: its finite values with increasing steps, and the steps at which it was not finite."""

    steps: list[float]
    values: list[float]
    broken: list[float]


class Group(NamedTuple):
    """Metrics that share a panel.

    Attributes:
        title: title of the panel.
        names: names of the metrics.
        unit: "" for plain numbers, "share" for numbers from 0 to 1, or "bytes".
        noisy: whether to draw a running mean, and a logarithmic axis for a wide range of values.
    """

    title: str
    names: tuple[str, ...]
    unit: str = ""
    noisy: bool = True


class Line(NamedTuple):
    """A metric's name and its last value as text."""

    name: str
    last: str


class Panel(NamedTuple):
    """A group on the page: the picture as a data: URI, or None and the sentence `gap` to show instead."""

    title: str
    picture: str | None
    gap: str
    lines: list[Line]
    remarks: list[str]


_GROUPS = (
    Group("Losses", ("d_loss", "g_loss")),
    Group("Probability of being real, by D", ("d_real", "d_fake"), "share"),
    Group("Diversity of clips", ("diversity",)),
    Group("Gradient penalties", ("r1", "r2", "gp")),
    Group("Gradient norms", ("d_grad_norm", "g_grad_norm")),
    Group("Skipped steps", ("skipped",), noisy=False),
    Group("Loss scales of float16", ("d_loss_scale", "g_loss_scale"), noisy=False),
    Group("Videos per second", ("videos_per_second",)),
    Group("Share of time spent waiting for data", ("data_wait",), "share"),
    Group("Memory", ("memory_bytes",), "bytes", noisy=False),
)


def groups(names: Iterable[str]) -> list[Group]:
    """Group metrics by name into panels; a name without a group gets a separate panel."""
    names = list(names)
    rates = tuple(name for name in names if name.startswith("lr") or name.endswith("_lr") or "learning_rate" in name)
    known = [*_GROUPS, Group("Learning rates", rates, noisy=False)]
    found = [group._replace(names=tuple(name for name in group.names if name in names)) for group in known]
    taken = {name for group in known for name in group.names}
    found += [Group(name, (name,)) for name in names if name not in taken]
    return [group for group in found if group.names]


def series(records: Iterable[dict]) -> dict[str, Series]:
    """Collect every metric from records {"step": number, name: number, ...}, by name in order of appearance.

    Values that are no numbers are skipped; NaN and infinities count as broken values.
    """
    found: dict[str, Series] = {}
    steps = ((to_number(record.get("step")), record) for record in records)
    usable = [(step, record) for step, record in steps if step is not None and abs(step) < 2**53]
    for step, record in sorted(usable, key=lambda item: item[0]):
        for name, value in record.items():
            value = to_number(value)
            if name == "step" or value is None:
                continue
            one = found.setdefault(name, Series([], [], []))
            if abs(value) < _LARGEST:
                one.steps.append(step)
                one.values.append(value)
            else:
                one.broken.append(step)
    return found


def to_number(value: object) -> float | None:
    """Convert a number to a float (infinite if it is too large); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def make_panel(group: Group, found: dict[str, Series]) -> Panel:
    """Make the panel of a group, whose metrics are all in `found`."""
    shown = [found[name] for name in group.names]
    lines = [Line(name, readable(found[name].values[-1:], group.unit)) for name in group.names]
    remarks = [
        f"{name} was not finite in {len(found[name].broken)} lines, first at step {found[name].broken[0]:.0f}."
        for name in group.names
        if found[name].broken
    ]
    if not any(one.values for one in shown):
        return Panel(group.title, None, "No finite value to show.", lines, remarks)
    if not is_installed("matplotlib"):
        missing = f"No curve: matplotlib is not installed ({install_command('train')})."
        return Panel(group.title, None, missing, lines, remarks)
    return Panel(group.title, data_uri("image/svg+xml", _draw(group, shown)), "", lines, remarks)


def readable(values: list[float], unit: str = "") -> str:
    """Format the first of the values with four digits; "none" for an empty list."""
    if not values:
        return "none"
    value = values[0]
    if unit == "bytes":
        size, name = _binary(value)
        return f"{value / size:.4g} {name}"
    return f"{value:.1%}" if unit == "share" and 0 <= value <= 1 else f"{value:.4g}"


def score_text(name: str, value: float) -> str:
    """Format a score, in percent if it is a share of clips."""
    return readable([value], score_unit(name))


def score_unit(name: str) -> str:
    """Return the unit of a score of evaluation.jsonl, as in `Group`."""
    return "share" if name in _SHARES else ""


def data_uri(kind: str, content: bytes) -> str:
    """Encode a file as a data: URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _binary(value: float) -> tuple[int, str]:
    return (2**30, "GiB") if value >= 2**30 else (2**20, "MiB")


def _draw(group: Group, shown: list[Series]) -> bytes:
    """Draw the curves as SVG, without text other than the axis labels."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    values = [value for one in shown for value in one.values]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.subplots()
        size, name = _binary(max(values)) if group.unit == "bytes" else (1, "")
        for one, colour in zip(shown, _colours(len(shown)), strict=True):
            _curve(axes, one.steps, [value / size for value in one.values], colour, group.noisy)
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.2, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if group.unit == "share" and 0 <= min(values) and max(values) <= 1:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.set_ylim(bottom=0, top=1 if max(values) > 0.4 else None)
        elif group.noisy and min(values) > 0 and max(values) > _SPREAD * min(values):
            axes.set_yscale("log")
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    start, tag, rest = file.getvalue().decode().partition("<defs>")
    return (start + _STYLE + tag + rest).replace(_INK, "currentColor").encode()


def _curve(axes: "Axes", steps: list[float], values: list[float], colour: str, noisy: bool) -> None:
    many = noisy and len(values) >= _MANY
    marker = "o" if len(values) < 30 else None
    axes.plot(steps, values, color=colour, linewidth=1.4, alpha=0.3 if many else 1, marker=marker, markersize=2.5)
    if many:
        axes.plot(*_running_mean(steps, values), color=colour, linewidth=1.6)


def _running_mean(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Return the mean over a window of a fifteenth of all values, at about 400 steps."""
    width, last = len(values) // 30, len(values) - 1
    places = sorted({round(last * i / 400) for i in range(401)})
    around = (values[max(0, place - width) : place + width + 1] for place in places)
    return [steps[place] for place in places], [math.fsum(part) / len(part) for part in around]


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
