"""An evaluation as a table of text, and as values for JSON."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from fastvgan.metrics.evaluation import Cell, Evaluation, Row
from fastvgan.metrics.intervals import Interval

_COLUMNS = ("generated", "real", "shuffled", "held_out", "paraphrased")
_TITLES = ("measure", "generated", "real clips", "shuffled captions", "held-out captions", "paraphrases")


def significant(value: float) -> str:
    """Format a number with four significant digits, for scores of any scale."""
    return f"{value:#.4g}".rstrip(".")


def text_table(rows: Sequence[Row], number: Callable[[float], str] | None = None) -> str:
    """Format rows as aligned columns, one line per row, without columns that have no value.

    Args:
        rows: the rows.
        number: formats a number; by default with one or two decimals.
    """
    number = number or _number
    shown = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in rows)]
    lines = [["measure", *(title for name, title in zip(_COLUMNS, _TITLES[1:], strict=True) if name in shown)]]
    lines += [[row.measure, *(_text(getattr(row, name), row.unit, number) for name in shown)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def json_values(evaluation: Evaluation) -> dict[str, Any]:
    """Return the scores, the table and the warnings as JSON values; an interval is {"value", "low", "high"}.

    Infinity, the distance to the nearest training clip if no training clip has the caption, becomes None: JSON lacks
    it.
    """
    return {
        "scores": {name: _value(score) for name, score in evaluation.scores.items()},
        "table": [
            {
                "measure": row.measure.strip(),
                "unit": row.unit,
                **{name: _value(getattr(row, name)) for name in _COLUMNS},
            }
            for row in evaluation.rows
        ],
        "warnings": evaluation.warnings,
    }


def _text(cell: Cell, unit: str, number: Callable[[float], str]) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Interval):
        return f"{number(cell.value)} [{number(cell.low)}, {number(cell.high)}]"
    if unit == "%":
        return f"{cell:.1%}"
    return f"{number(cell)} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _value(cell: Cell) -> Any:
    if isinstance(cell, Interval):
        return {name: _value(part) for name, part in cell._asdict().items()}
    return cell if cell is None or math.isfinite(cell) else None
