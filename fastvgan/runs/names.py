"""Names of run folders, found under ./runs without slow imports, and of data."""

from pathlib import Path

from fastvgan.errors import UserError

RUNS = Path("runs")
DRAWN = ("digits", "stacked-digits")
"""Values of --data that are no files."""


def are_same_data(one: str, other: str) -> bool:
    """Return whether two values of --data name the same data, such as a folder with and without a slash at its end."""
    return one == other or (not {one, other} & set(DRAWN) and Path(one).resolve() == Path(other).resolve())


def runs_by_age() -> list[Path]:
    """Return the run folders under ./runs, the one that was started or resumed last first."""
    started = {path.parent: path.stat().st_mtime for path in RUNS.glob("*/config.yaml")}
    return sorted(started, key=lambda run: (-started[run], run))


def newest_run() -> Path | None:
    """Return the run folder under ./runs that was started or resumed last, or None."""
    return next(iter(runs_by_age()), None)


def run_of(path: Path) -> Path:
    """Return the run folder that a checkpoint or an exported generator lies in; other paths as they are, resolved."""
    path = path.resolve()
    # A run folder, too, may lie in a folder named "checkpoints".
    is_part = path.parent.name in ("checkpoints", "export") and not (path / "config.yaml").is_file()
    return path.parent.parent if is_part else path


def find_run(named: Path | None) -> Path:
    """Return the run folder named by --run, or the newest one under ./runs.

    Raises:
        UserError: `named` is None, and ./runs holds no run.
    """
    run = named or newest_run()
    if run is None:
        from fastvgan.command_line import as_typed  # lazily: it imports tyro, which only commands need

        train = as_typed("python -m fastvgan.train")
        raise UserError(f"runs/ holds no run; train one with `{train}`, or pass one with --run")
    return run


def new_run(name: str) -> Path:
    """Return the path of a new run folder: runs/name-1, runs/name-2 and so on."""
    found = [path.name.rpartition("-") for path in RUNS.iterdir()] if RUNS.is_dir() else []
    taken = [int(number) for before, _, number in found if before == name and number.isdecimal()]
    return RUNS / f"{name}-{max(taken, default=0) + 1}"
