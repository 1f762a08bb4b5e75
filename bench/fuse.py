"""Benchmark of fuse() on public architectures, on the CPU.

    python bench/fuse.py --out FILE.json [--only NAME …]     # measure, and print the table
    python bench/fuse.py --from FILE.json … [--markdown]     # print the table of files from one machine and commit
    python bench/fuse.py --profile NAME                      # profile one network, stock and fused

Each network is measured in evaluation (forward) and training (forward and backward), in float32 and under autocast to
bfloat16, with 1 and 2 threads. A ratio is stock PyTorch's time divided by the fused network's, each in its faster
memory format. FASTVGAN_BENCH_TINY=1 tests the code on small inputs, in one round; the times then mean nothing.
"""

import argparse
import json
import math
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "gpu")]

import cpuinfo  # noqa: E402  (py-cpuinfo, which pytest-benchmark needs)
import torch  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from part import Results, origin  # noqa: E402
from support.fuse_cells import DIRECTIONS, SIDES, THREADS, Cell, cells, profile_cell, row_of, time_cell  # noqa: E402
from support.text_table import format_table  # noqa: E402
from support.variants import DTYPES  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.files.atomic import check_writable  # noqa: E402
from fastvgan_kernels import extension  # noqa: E402

_OF_ONE_RUN = ("cpu", "versions", "commit", "tiny")

Row = dict[str, Any]


def measure(path: Path, todo: Iterable[Cell]) -> int:
    """Measure these cells and write them to a file; return 1 if any of them failed, else 0."""
    check_writable(path)
    results = Results(path, "rows", make_head())
    for cell in todo:
        try:
            row = row_of(cell, time_cell(cell))
        except AssertionError as error:  # record the failure and measure the next cell
            traceback.print_exc()
            results.failed[cell.name] = str(error).splitlines()[0][:500]
        else:
            results.found.append(row)
            print(f"{cell.name}: {row['ratio']:.2f}x, {format_times(row)}, rounds: {row['rounds']}", flush=True)
        results.write()
    print()
    print("\n".join(as_text(results.head, results.found)))
    for name, reason in results.failed.items():
        print(f"FAILED {name}: {reason}")
    return int(bool(results.failed))


def make_head() -> dict[str, Any]:
    """Return the processor, the versions and the commit for the file, without the machine's name."""
    processor = cpuinfo.get_cpu_info()
    facts = {name: value for name, value in origin().items() if name not in ("capability", "dtype")}
    return {
        **facts,
        "device": "cpu",
        "cpu": processor.get("brand_raw", "unknown"),
        "amx": "amx_bf16" in processor.get("flags", ()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "extension": extension.facts().get("cpu_instruction_set"),
    }


def format_times(row: Row) -> str:
    """Format all median times of a row."""
    found = (f"{side} {' / '.join(f'{ms:.1f}' for ms in row[f'{side}_ms'].values())} ms" for side in SIDES)
    return ", ".join(found)


def read(paths: Iterable[Path]) -> tuple[dict[str, Any], list[Row]]:
    """Read the head and the rows of files from one machine, one set of versions and one commit.

    If a cell was measured twice, the last row is kept.

    Raises:
        UserError: a file has another format, or the files are from different machines, versions or commits.
    """
    first, rows = None, {}
    for path in paths:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            origin_of_file = {name: found[name] for name in _OF_ONE_RUN}
            rows |= {cell_of(row): row for row in found["rows"]}
        except OSError as error:
            raise UserError(f"cannot read the results in {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} was not written by bench/fuse.py: {error!r}") from error
        first = first or found
        if origin_of_file != {name: first[name] for name in _OF_ONE_RUN}:
            raise UserError(f"{path} is from another machine, commit or version of PyTorch than the first file")
    return first, list(rows.values())


def cell_of(row: Row) -> Cell:
    """Return the cell that a row measures."""
    return Cell(row["network"], row["direction"], row["dtype"], row["threads"])


def ratios(rows: Iterable[Row]) -> dict[str, dict[tuple, float]]:
    """Return a dict: network → column → ratio."""
    found: dict[str, dict[tuple, float]] = {}
    for row in rows:
        found.setdefault(row["network"], {})[row["direction"], row["dtype"], row["threads"]] = row["ratio"]
    return found


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Return the table's header, one row per network, and the geometric means."""
    found = ratios(rows)
    columns = sorted({column for of in found.values() for column in of}, key=_order)
    lines = [("", *(f"{direction}, {dtype}, {threads} thr." for direction, dtype, threads in columns))]
    for network in (name for name in ARCHITECTURES if name in found):
        of_each = (found[network].get(column) for column in columns)
        lines.append((ARCHITECTURES[network].title, *("" if ratio is None else f"{ratio:.2f}" for ratio in of_each)))
    of_columns = ([of[column] for of in found.values() if column in of] for column in columns)
    lines.append(("geometric mean", *(f"{geometric_mean(values):.2f}" for values in of_columns)))
    return lines


def _order(column: tuple[str, str, int]) -> tuple[int, int, int]:
    direction, dtype, threads = column
    return DIRECTIONS.index(direction), [*DTYPES].index(dtype), threads


def means(rows: list[Row]) -> list[str]:
    """Return the geometric means and the worst ratio, one sentence per line."""
    if not rows:
        return ["no results"]
    lines = [f"geometric mean of {len(rows)}: {geometric_mean(row['ratio'] for row in rows):.3f}x"]
    for name in DTYPES:
        of_dtype = [row["ratio"] for row in rows if row["dtype"] == name]
        if of_dtype:
            lines[0] += f", {name} {geometric_mean(of_dtype):.3f}x"
    worst = min(rows, key=lambda row: row["ratio"])
    slower = sum(row["ratio"] < 0.98 for row in rows)
    lowest = f"lowest {worst['ratio']:.2f}x, {cell_of(worst).name} ({format_times(worst)})"
    lines.append(f"below 0.98x: {slower} of {len(rows)}; {lowest}")
    return lines


def as_text(facts: dict[str, Any], rows: list[Row]) -> list[str]:
    """Format the table for a terminal."""
    lines = table(rows)
    return [*describe_run(facts), "", *format_table(lines, range(1, len(lines[0]))), "", *means(rows)]


def as_markdown(facts: dict[str, Any], rows: list[Row]) -> list[str]:
    """Format the table for docs/reference/fuse.md."""
    lines = table(rows)
    first, *others = (f"| {' | '.join(line)} |" for line in lines)
    return [*describe_run(facts), "", first, f"| --- {'| ---: ' * (len(lines[0]) - 1)}|", *others, "", *means(rows)]


def describe_run(facts: dict[str, Any]) -> list[str]:
    """Format the machine, the versions and the commit of the rows."""
    line = f"{facts['cpu']} ({'with' if facts['amx'] else 'without'} AMX), torch {facts['versions']['torch']}, "
    line += f"commit {facts['commit']}, {facts['date']}"
    tiny = ["SMALL INPUTS (FASTVGAN_BENCH_TINY): the times mean nothing"]
    return [line, *(tiny if facts["tiny"] else [])]


def show_profile(network: str, arguments: argparse.Namespace) -> None:
    """Print the profile of a network, stock and fused."""
    cell = Cell(network, DIRECTIONS[not arguments.forward], arguments.dtype, arguments.threads[0])
    for side in SIDES:
        print(f"{side}: {cell.name}\n{profile_cell(cell, side)}")


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="measure, and write the results to this file")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*ARCHITECTURES], help="measure these networks")
    parser.add_argument(
        "--from", dest="sources", nargs="+", type=Path, metavar="FILE.json", help="print the table of these files"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of --from as Markdown")
    parser.add_argument("--profile", metavar="NAME", choices=[*ARCHITECTURES], help="profile one network")
    parser.add_argument("--forward", action="store_true", help="profile evaluation instead of training")
    parser.add_argument("--dtype", choices=[*DTYPES], default="fp32", help="dtype of the profile")
    parser.add_argument(
        "--threads", nargs="+", type=int, default=THREADS, help="numbers of threads; 1 and 2 by default"
    )
    parsed = parser.parse_args()
    if parsed.profile:
        return show_profile(parsed.profile, parsed)
    if parsed.sources:
        facts, rows = read(parsed.sources)
        print("\n".join((as_markdown if parsed.markdown else as_text)(facts, rows)))
        return None
    if parsed.out is None:
        parser.error("give --out to measure, --from to print, or --profile")
    return measure(parsed.out, cells(parsed.only or ARCHITECTURES, parsed.threads))


if __name__ == "__main__":
    run_command(main)
