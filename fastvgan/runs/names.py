"""Which run folders there are under ./runs, found without importing anything that takes time."""

from pathlib import Path

from fastvgan.errors import UserError

RUNS = Path("runs")


def newest_run() -> Path | None:
    """The run folder under ./runs that was begun or taken up last, or None."""
    runs = [path.parent for path in RUNS.glob("*-*/config.yaml")]
    return max(runs, key=lambda path: (path / "config.yaml").stat().st_mtime, default=None)


def find_run(named: Path | None) -> Path:
    """What the user named by --run, or the newest run under ./runs.

    Raises:
        UserError: nothing was named, and there is no run.
    """
    run = named or newest_run()
    if run is None:
        raise UserError("there is no run under runs/; train one by `python -m fastvgan.train`, or name one by --run")
    return run


def new_run(name: str) -> Path:
    """A run folder that is not there yet: runs/name-1, runs/name-2 and so on."""
    found = [path.name.rpartition("-") for path in RUNS.iterdir()] if RUNS.is_dir() else []
    taken = [int(number) for before, _, number in found if before == name and number.isdecimal()]
    return RUNS / f"{name}-{max(taken, default=0) + 1}"
