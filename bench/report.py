"""Run the benchmarks and compare our results with stock PyTorch and with the machine's peak rates."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # import the checkout's package, as `python -m` does

from support.plot import COLOURS, plot  # noqa: E402
from support.summary import as_text, merge_runs, summarise  # noqa: E402

from fastvgan.command_line import parse, run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.settings import Settings  # noqa: E402


class Arguments(Settings):
    """Run the benchmarks, print a table, and write the results and a plot of the ratios.

    A complete run writes to bench/results/ and docs/; a partial run (--only) and --from write only with --out.
    """

    source: Annotated[tuple[Path, ...], tyro.conf.arg(name="from", metavar="FILE.json")] = ()
    """Report these files, written by `pytest bench --benchmark-only --benchmark-json=FILE.json`; run nothing."""
    only: str | None = None
    """Run only the benchmarks that match this expression (pytest's -k), and the machine's peak rates."""
    out: Path | None = None
    """Folder for the results and the plot."""


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(Arguments, "python bench/report.py", arguments)
    if parsed.source and parsed.only:
        raise UserError("--from reports existing results, --only selects benchmarks to run; pass only one of them")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        sources = parsed.source
        if not sources:
            sources = (Path(folder, "benchmarks.json"),)
            failed = _run(sources[0], parsed.only)
            if not sources[0].exists():
                raise UserError("pytest wrote no results; see its output above")
        summary = _read(sources)
    print(as_text(summary))
    if parsed.out or not (parsed.source or parsed.only or failed or summary["machine"].get("tiny")):
        _write(summary, parsed.out or ROOT / "bench" / "results", parsed.out or ROOT / "docs")
    if failed:
        print("some benchmarks failed and are missing from the table", file=sys.stderr)
    return int(failed)


def _run(target: Path, only: str | None) -> bool:
    """Run the benchmarks; return whether any failed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "bench",
        "--benchmark-only",
        "--full",
        f"--benchmark-json={target}",
    ]
    command += ["--benchmark-columns=median,iqr,rounds"]
    if only:
        command += ["-k", f"({only}) or test_ceilings"]
    return subprocess.run(command, cwd=ROOT).returncode != 0


def _read(sources: tuple[Path, ...]) -> dict[str, Any]:
    names = " and ".join(map(str, sources))
    try:
        runs = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
        summary = summarise(merge_runs(runs))
    except OSError as error:
        raise UserError(f"cannot read the results in {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{names}: not pytest-benchmark's results of one run of these benchmarks: {error}") from error
    if not summary["groups"] and not summary["ceilings"]:
        raise UserError(f"{names} contains no benchmarks")
    return summary


def _write(summary: dict[str, Any], results: Path, pictures: Path) -> None:
    machine = summary["machine"]
    name = re.sub(r"\W+", "-", machine["device"].lower()).strip("-")
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{name}-{machine['cores']}-cores.json"
    file.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {file}")
    if not any(group.get("ratio") and group["dtype"] in COLOURS for group in summary["groups"].values()):
        return
    try:
        picture = pictures / f"bench-{name}.png"
        plot(summary, picture)
        print(f"wrote {picture}")
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
