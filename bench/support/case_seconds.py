"""How long each benchmark takes, by a recorded table, and how far a run is.

bench/results/case-seconds.json holds the seconds of each case (setup, checks, compilation, warm-up and timing) and the
machine that they were recorded on. `python bench/renew_seconds.py FILE.json` renews it.
"""

import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parents[1] / "results" / "case-seconds.json"
KEY = "seconds_per_case"
"""The key of these seconds in pytest-benchmark's JSON."""
_UNKNOWN = 3.0  # seconds of a case without any record
_ENOUGH = 20.0  # seconds of recorded cases, before a run's own speed corrects the estimate


@dataclass(frozen=True)
class Record:
    """Recorded seconds per case, and where they come from.

    Args:
        machine: the processor or GPU and the number of cores.
        how: how and when they were recorded.
        seconds: node id → seconds.
    """

    machine: str
    how: str
    seconds: dict[str, float]

    def estimate(self, nodes: Iterable[str]) -> dict[str, float]:
        """Return the expected seconds of cases; a case without a record takes the median of its function's."""
        of_functions: dict[str, list[float]] = {}
        for node, seconds in self.seconds.items():
            of_functions.setdefault(node.partition("[")[0], []).append(seconds)
        middle = {name: statistics.median(values) for name, values in of_functions.items()}
        return {node: self.seconds.get(node, middle.get(node.partition("[")[0], _UNKNOWN)) for node in nodes}


def read_record(path: Path = RECORD) -> Record:
    """Read the table.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a table.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    try:
        flat = {f"{name}{case}": s for name, cases in found["seconds"].items() for case, s in cases.items()}
        return Record(found["machine"], found["how"], flat)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a table of seconds per case: {error!r}") from error


def as_json(record: Record) -> str:
    """Format the table, one function after the other."""
    nested: dict[str, dict[str, float]] = {}
    for node, seconds in sorted(record.seconds.items()):
        name, bracket, case = node.partition("[")
        nested.setdefault(name, {})[bracket + case] = round(seconds, 1)
    found = {"machine": record.machine, "how": record.how, "seconds": nested}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def name_machine(facts: dict[str, Any]) -> str:
    """Name a machine by the facts that `pytest_benchmark_update_machine_info` records."""
    return facts["device"] if facts["device"] != "cpu" else f"{facts['cpu']}, {facts['cores']} cores"


@dataclass
class Progress:
    """How far a run is. The estimate of the rest follows the run's own speed after the first cases.

    Args:
        expected: node id → seconds, for the cases that will run.
        every: seconds between two lines.
    """

    expected: dict[str, float]
    every: float = 10.0
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each case that has ended."""
    begin: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def add(self, node: str, seconds: float) -> None:
        """Add the seconds of a part of a case: its setup, its call or its teardown."""
        self.seconds[node] = self.seconds.get(node, 0.0) + seconds

    def estimate_rest(self) -> float:
        """Estimate the seconds that remain."""
        ended = self.seconds.keys() & self.expected.keys()
        recorded, spent = sum(self.expected[n] for n in ended), sum(self.seconds[n] for n in ended)
        speed = spent / recorded if recorded > _ENOUGH else 1.0
        return speed * sum(seconds for node, seconds in self.expected.items() if node not in ended)

    def line(self, now: float | None = None) -> str | None:
        """Return a line about the run, or None if the last one is recent."""
        now = time.monotonic() if now is None else now
        if now - self._last < self.every:
            return None
        self._last = now
        ended, total = len(self.seconds.keys() & self.expected.keys()), len(self.expected)
        rest = f"about {in_words(self.estimate_rest())} left" if ended < total else "done"
        return f"  {ended} of {total} benchmarks after {in_words(now - self.begin)}; {rest}"


def in_words(seconds: float) -> str:
    """Format a time as "40 s", "3 min 20 s" or "1 h 5 min"."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes, rest = divmod(round(seconds / 10) * 10, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
