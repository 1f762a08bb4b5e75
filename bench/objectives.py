"""What objectives and norms of D do to the scores on the digits: a table objective x discriminators x norm x seed.

    python bench/objectives.py --out FILE.jsonl --minutes 20 [-- flags of every run, such as --preset digits-conv3d]

Each cell is `python -m fastvgan.train` in its own folder, then `python -m fastvgan.evaluate`, or bench/modes.py with
--modes; two cells run at a time (--jobs), on one thread each (--threads). With --minutes every row of the table first
trains 20 steps, whose median time determines the number of steps of its cells, of every seed, before the first of them
is trained in full; a time that FILE has from another seed, with the same flags, holds. With --steps every cell has the
same number. A row is appended to FILE as soon as its cell is done.
The same command skips the rows that are already there (failed ones too, unless --retry is given) and resumes
interrupted runs. Ends by printing a Markdown table of mean ± standard deviation over seeds.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench" / "gpu")]

import cpuinfo  # noqa: E402  (py-cpuinfo, which pytest-benchmark needs)
import yaml  # noqa: E402
from part import origin  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.files.atomic import check_writable  # noqa: E402

# The flags of each objective besides its name; --flags replaces them.
OBJECTIVES = {
    "nonsaturating": "",
    "minimax": "",
    "hinge": "",
    "wgan-gp": "--gp 10",
    "relativistic": "--r1 1 --r2 1 --r1-every 1",
}
SCORES = ("joint", "held_out_joint", "diversity", "frechet", "kernel")
MODES = ("modes", "divergence")
_TIMED_STEPS = 20
_WARM_STEPS = 5


class Cell(NamedTuple):
    """One run: its objective, discriminators joined by "+", norm of D, and seed."""

    objective: str
    discriminators: str
    norm: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.row}-{self.seed}"

    @property
    def row(self) -> str:
        """What the seeds of a row have in common."""
        return "-".join((self.objective, self.discriminators, self.norm))


class Failure(Exception):
    """A command of a cell ended with another status than 0."""


class Bench:
    """The table's cells and how to run them.

    Args:
        options: the command's options.
        shared: flags of every training run.
    """

    def __init__(self, options: argparse.Namespace, shared: list[str]):
        self.options, self.shared = options, shared
        if wrong := [each for each in options.flags if each.partition("=")[0] not in OBJECTIVES or "=" not in each]:
            raise UserError(f"--flags {wrong[0]}: expected OBJECTIVE=FLAGS, with one of {', '.join(OBJECTIVES)}")
        check_file(options.out)
        self.flags = OBJECTIVES | dict(each.split("=", 1) for each in options.flags)
        self.work = options.work or options.out.with_suffix("")
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._is_stopping = False

    def cells(self) -> list[Cell]:
        """Return all cells, all of one seed before those of the next."""
        o = self.options
        return [
            Cell(*rest, seed) for seed, *rest in itertools.product(o.seeds, o.objectives, o.discriminators, o.norms)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Read the rows that are already in the file, the newest of each cell."""
        return list({_cell(row): row for row in read_rows(self.options.out)}.values())

    def run(self) -> None:
        """Run the cells without a row, and append their rows."""
        drop_partial_line(self.options.out)
        known = [row for row in self.rows() if not (self.options.retry and row["failure"])]
        self._check(known)
        done = {_cell(row) for row in known}
        missing = [cell for cell in self.cells() if cell not in done]
        print(f"{len(missing)} of {len(self.cells())} cells to run, {self.options.jobs} at a time", flush=True)
        self.work.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.options.jobs) as pool:
            # All rows are timed before the first cell trains, so that nothing that happens to the machine later changes
            # how many steps a cell gets.
            steps: dict[str, Future[tuple[int, float | None]]] = {}
            for cell in missing:
                if cell.row not in steps:
                    steps[cell.row] = pool.submit(self._count_steps, cell)
            futures = [pool.submit(self._measure, cell, steps[cell.row]) for cell in missing]
            try:
                for future in as_completed(futures):
                    self._append(future.result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()

    def _check(self, known: list[dict[str, Any]]) -> None:
        """Check that the rows of the cells to run are of this command's flags and length.

        Raises:
            UserError: one is not.
        """
        for row in known:
            cell = _cell(row)
            if cell not in self.cells() or row["failure"]:
                continue
            steps, seconds = self.options.steps, row["seconds_per_step"]
            if self.options.minutes:
                steps = seconds and self._fit_steps(seconds)
            if row["flags"] != " ".join(self._training(cell)) or row["steps"] != steps:
                raise UserError(
                    f"{self.options.out} has {cell.name} of {row['steps']} steps with the flags {row['flags']!r}, "
                    "which is another run; pass another --out, or the same flags"
                )

    def _append(self, row: dict[str, Any]) -> None:
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        scores = ", ".join(
            f"{name} {spread([value])}" for name, value in row["scores"].items() if name in SCORES + MODES
        )
        print(f"{_cell(row).name}: {row['failure'] or scores}", flush=True)

    def _stop(self) -> None:
        with self._lock:
            self._is_stopping = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)  # training saves its state and ends

    def _measure(self, cell: Cell, count: Future[tuple[int, float | None]]) -> dict[str, Any]:
        row: dict[str, Any] = {**cell._asdict(), "flags": " ".join(self._training(cell)), **head()}
        try:
            steps, seconds = count.result()
            folder = self.work / cell.name
            resume = ["--resume", "auto"] if (folder / "config.yaml").exists() else []
            self._command("train", cell, *self._training(cell), "--run-dir", folder, "--steps", steps, *resume)
            scores = self._score(cell, folder)
        except Failure as failure:
            return row | {"failure": str(failure), "scores": {}}
        row |= {"failure": None, "steps": steps, "seconds_per_step": seconds}
        return row | {"not_finite": round(sum(_values(folder, "skipped"))), "scores": scores}

    def _score(self, cell: Cell, folder: Path) -> dict[str, Any]:
        path = folder / "scores.json"
        if self.options.modes:
            self._command("modes", cell, folder, "--json", path)
            return json.loads(path.read_text(encoding="utf-8"))
        clips = ["--clips", self.options.clips]
        self._command("evaluate", cell, "--run", folder, "--json", path, "--device", "cpu", *clips)
        return json.loads(path.read_text(encoding="utf-8"))["scores"]

    def _training(self, cell: Cell) -> list[str]:
        own = ["--objective", cell.objective, "--discriminators", *cell.discriminators.split("+")]
        own += ["--d-norm", cell.norm, "--seed", str(cell.seed), "--device", "cpu"]
        own += ["--d-blocks", str(self.options.blocks)] if cell.norm != "batch" else []
        return [*self.shared, *own, *self.flags[cell.objective].split()]

    def _count_steps(self, cell: Cell) -> tuple[int, float | None]:
        """Return the number of steps of a cell's row, and the median seconds per step that it follows from."""
        if self.options.steps:
            return self.options.steps, None
        seconds = self._known_seconds(cell) or self._time(cell)
        return self._fit_steps(seconds), seconds

    def _fit_steps(self, seconds: float) -> int:
        return max(1, round(60 * self.options.minutes / seconds))

    def _known_seconds(self, cell: Cell) -> float | None:
        """Return the seconds per step that the file has of the cell's row with the same flags, if it has."""
        for row in self.rows():
            same = cell._replace(seed=row["seed"])
            if _cell(row) == same and row["flags"] == " ".join(self._training(same)) and row.get("seconds_per_step"):
                return row["seconds_per_step"]
        return None

    def _time(self, cell: Cell) -> float:
        """Return the median seconds per step of a short training run."""
        folder = self.work / f"{cell.row}-timed"
        if not (folder / "report.html").exists():
            resume = ["--resume", "auto"] if (folder / "config.yaml").exists() else []
            few = ["--steps", _TIMED_STEPS, "--log-every", 1, "--evaluate-clips", 16]
            self._command("train", cell, *self._training(cell), "--run-dir", folder, *few, *resume)
        rates = _values(folder, "videos_per_second")[_WARM_STEPS:]
        batch = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["training"]["batch_size"]
        return batch / statistics.median(rates)

    def _command(self, name: str, cell: Cell, *arguments: object) -> None:
        """Run a command of fastvgan, or bench/modes.py, on the threads of one cell.

        Raises:
            Failure: it ended with another status than 0; the message is its last line.
        """
        program = [str(ROOT / "bench" / "modes.py")] if name == "modes" else ["-m", f"fastvgan.{name}"]
        command = [sys.executable, *program, *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.options.threads), "PYTHONPATH": str(ROOT)}
        log = self.work / f"{cell.name}.log"
        with self._lock:
            if self._is_stopping:
                raise Failure("interrupted")
            with log.open("a", encoding="utf-8") as out:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )
            self._processes.add(process)
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        if status:
            last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            raise Failure(f"{name} ended with status {status}: {last[-1] if last else 'without a message'}")


def head() -> dict[str, Any]:
    """Return the machine, the versions and the commit of a row."""
    facts = {name: value for name, value in origin().items() if name in ("versions", "commit", "date")}
    return {"cpu": cpuinfo.get_cpu_info().get("brand_raw", "unknown"), **facts}


def _values(folder: Path, name: str) -> list[float]:
    """Return a number of all lines of a run's metrics."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[name] for line in lines]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def check_file(path: Path) -> None:
    """Check that rows can be appended to a file, whose name without its ending becomes a folder.

    Raises:
        UserError: they cannot.
    """
    if not path.suffix:
        raise UserError(f"--out {path}: expected a name with an ending, such as {path}.jsonl")
    check_writable(path)


def drop_partial_line(path: Path) -> None:
    """Remove a last line without an end, whose writing was interrupted."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(*(row[name] for name in Cell._fields))


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a line per objective, discriminators and norm, over all seeds."""
    shown = MODES if any("modes" in row["scores"] for row in rows) else SCORES
    yield "| objective | discriminators | norm of D | steps | not finite | seeds | " + " | ".join(shown) + " |"
    yield "| --- " * (6 + len(shown)) + "|"
    rows = sorted(rows, key=_cell)
    for (objective, discriminators, norm), group in itertools.groupby(rows, lambda row: _cell(row)[:3]):
        members = list(group)
        good = [row for row in members if not row["failure"]]
        steps = round(statistics.mean(row["steps"] for row in good)) if good else "-"
        failed = f", {len(members) - len(good)} failed" if len(good) < len(members) else ""
        counted = [row["not_finite"] for row in good if "not_finite" in row]
        cells = [objective, discriminators, norm, steps, sum(counted) if counted else "-", f"{len(good)}{failed}"]
        cells += [spread([row["scores"][name] for row in good if name in row["scores"]]) for name in shown]
        yield "| " + " | ".join(map(str, cells)) + " |"


def spread(values: list[Any]) -> str:
    """Return the mean of scores and, of several, their standard deviation, as text."""
    # A score with an interval is {"value", "low", "high"}; one that is not finite is None.
    numbers = [value["value"] if isinstance(value, dict) else value for value in values]
    numbers = [number for number in numbers if number is not None]
    if not numbers:
        return "-"
    spread = f" ± {statistics.stdev(numbers):.3g}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.4g}{spread}"


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line: the options, and the flags of every run, which follow "--"."""
    own, shared = arguments, []
    if "--" in arguments:
        own, shared = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder of the runs; default: FILE without .jsonl")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time of each cell")
    length.add_argument("--steps", type=int, help="training steps of each cell")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--discriminators", nargs="+", default=["clip", "clip+frame"], metavar="NAME+NAME")
    parser.add_argument("--norms", nargs="+", default=["batch", "none", "group", "spectral"])
    parser.add_argument("--blocks", type=int, default=0, help="--d-blocks of all norms but batch")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=960, help="clips of an evaluation")
    parser.add_argument("--modes", action="store_true", help="count modes (with -- --preset stacked-digits)")
    parser.add_argument("--jobs", type=int, default=2, help="cells that run at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each cell")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--flags", nargs="+", default=[], metavar="OBJECTIVE=FLAGS", help="such as hinge='--r1 1'")
    return parser.parse_args(own), shared


def main() -> None:
    """Run the command."""
    bench = Bench(*parse(sys.argv[1:]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the `finally` that stops the child processes
    bench.run()
    print("\n".join(table(bench.rows())))


if __name__ == "__main__":
    run_command(main)
