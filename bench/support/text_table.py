"""Tables as lines of text."""

from collections.abc import Collection


def format_table(rows: list[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Format a table with one line per row; the columns numbered in `right` are right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines
