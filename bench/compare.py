"""Compare this library with what a user would pick instead, on the same work, side by side in one run.

    python bench/compare.py --out bench/results/compare-NAME.json     # some 7 minutes on two quiet cores
    python bench/compare.py --from FILE.json                          # print the table again, and draw the plot
    python bench/compare.py --quick --out FILE.json                   # try the code; the times then mean nothing

Each row first checks that all sides compute the same, then times them in turns. The table (.md) and the plot (.png)
are written beside the JSON. A row whose package is missing says so; Lightning is not installed by this project.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "gpu")]

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.files.atomic import check_writable, whole  # noqa: E402

_NAMES = ("step-fp32", "step-bf16", "lightning", "loading", "conv-lstm-fp32", "conv-lstm-bf16")
_NAMES += ("generation-fp32", "generation-bf16")
_KEYS = ("rows", "missing", "failed", "versions", "threads", "cpu", "device", "load_at_start", "commit", "date", "tiny")


def measure(names: list[str], path: Path) -> dict[str, Any]:
    """Measure these rows, and write the file after each of them."""
    import torch
    from comparison import jobs, layers, training
    from comparison.rows import Missing
    from comparison.rows import measure as measure_row
    from comparison.tables import pairs

    rows = {row.name: row for row in (*training.rows(), *jobs.rows(), *layers.rows())}
    assert rows.keys() == set(_NAMES)
    torch.backends.cudnn.benchmark = True  # stock PyTorch at its best
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of running eagerly what is called compiled
    found = make_head() | {"missing": {}, "failed": {}, "rows": []}
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {rows[name].work}", flush=True)
        torch._dynamo.reset()
        try:
            row = measure_row(rows[name])
        except Missing as error:
            found["missing"][name] = str(error)
            print(f"   not measured: {error}", flush=True)
        except Exception as error:  # whatever a row lacks, a compiler for instance, the next one may not need
            traceback.print_exc()
            found["failed"][name] = (str(error).splitlines() or [type(error).__name__])[0][:500]
        else:
            found["rows"].append(row)
            for pair in pairs(row):
                print(f"   {pair.ours}: {pair.ratio:.2f} times as fast as {pair.theirs}", flush=True)
        with whole(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def make_head() -> dict[str, Any]:
    """Return the machine, the versions and the commit for the file, without the machine's name."""
    import fuse
    import torch

    from fastvgan.machine.versions import find_version

    head = fuse.make_head()
    versions = head.pop("versions") | {name: find_version(name) for name in ("lightning", "av")}
    return {**head, "versions": versions, "threads": torch.get_num_threads(), "load_at_start": os.getloadavg()[0]}


def read(path: Path) -> dict[str, Any]:
    """Read a file of this command.

    Raises:
        UserError: it cannot be read, or another command wrote it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; pass a file that bench/compare.py wrote") from error
    absent = [key for key in _KEYS if not isinstance(found, dict) or key not in found]
    if absent:
        raise UserError(f"{path} was not written by bench/compare.py: it has no {absent[0]!r}; pass another file")
    return found


def write_tables(found: dict[str, Any], path: Path) -> None:
    """Print the table, and write it and the plot beside the file."""
    from comparison import tables

    text = tables.as_markdown(found)
    print(f"\n{text}")
    with whole(path.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if not found["rows"]:
        return
    try:
        tables.plot(found, path.with_suffix(".png"))
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)


def main() -> int:
    """Run the command; return 1 if a row failed its check or nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="measure, and write the results to this file")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE.json", help="read this file; measure nothing")
    parser.add_argument("--only", nargs="+", choices=_NAMES, default=list(_NAMES), help="measure these rows")
    parser.add_argument("--quick", action="store_true", help="tiny problems that only try the code")
    parsed = parser.parse_args()
    if (parsed.out is None) == (parsed.source is None):
        raise UserError("pass either --out FILE.json to measure or --from FILE.json to print results")
    path = parsed.out or parsed.source
    if path.suffix != ".json":
        raise UserError(f"{path}: the name of the file must end in .json; the table and the plot lie beside it")
    if parsed.source:
        found = read(path)
    else:
        check_writable(path)
        if parsed.quick:
            os.environ["FASTVGAN_BENCH_TINY"] = "1"  # before the benchmarks' modules are imported
        found = measure(parsed.only, path)
    write_tables(found, path)
    return int(bool(found["failed"]) or not found["rows"])


if __name__ == "__main__":
    run_command(main)
