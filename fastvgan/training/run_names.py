"""Which run folders there are under ./runs, found without importing anything that takes time."""

from pathlib import Path

RUNS = Path("runs")


def newest_run() -> Path | None:
    """The run folder under ./runs that was begun or taken up last, or None."""
    runs = [path.parent for path in RUNS.glob("*-*/config.yaml")]
    return max(runs, key=lambda path: (path / "config.yaml").stat().st_mtime, default=None)


def new_run(name: str) -> Path:
    """A run folder that is not there yet: runs/name-1, runs/name-2 and so on."""
    found = [path.name.rpartition("-") for path in RUNS.iterdir()] if RUNS.is_dir() else []
    taken = [int(number) for before, _, number in found if before == name and number.isdecimal()]
    return RUNS / f"{name}-{max(taken, default=0) + 1}"
