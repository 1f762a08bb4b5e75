"""One row of the comparison: sides that do the same work, the check that they do, and their times in turns."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from support.memory import level_allocator
from support.variants import STOCK, TINY, device

Side = Callable[[], list[float] | None]
"""Does the work once. Returns seconds per unit of work if it measures itself, else None and its call is timed."""
_FEWEST, _MOST = 7, 40  # rounds


class Missing(Exception):
    """A side needs a package that is not installed; the message says which, and how to install it."""


@dataclass(frozen=True)
class Check:
    """How far the results of all sides are apart.

    Args:
        what: the compared results, and the unit of the difference.
        difference: the largest difference between ours and another side's results.
        tolerance: the largest difference that rounding explains.
    """

    what: str
    difference: float
    tolerance: float

    def require(self) -> None:
        """Raise AssertionError if the sides do not compute the same."""
        assert self.difference <= self.tolerance, f"{self.what}: {self.difference:.3g} is more than {self.tolerance:g}"


@dataclass
class Opened:
    """The sides of a row, ready to be timed; names of ours begin with "fastvgan"."""

    sides: dict[str, Side]
    check: Check


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        name: short name, for --only.
        work: what one unit of work is.
        open: opens the sides within a context; raises `Missing`.
        seconds: how long to time all sides together, after warm-up.
        fewest: rounds at least.
    """

    name: str
    work: str
    open: Callable[[], AbstractContextManager[Opened]]
    seconds: float = 40.0
    fewest: int = _FEWEST


@dataclass
class Times:
    """Seconds per unit of work of each side."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, dict[str, float]]:
        """Return median and quartiles in ms, and the number of samples, per side."""
        found = {}
        for name, seconds in self.samples.items():
            few = [seconds[0]] * 3 if len(seconds) < 2 else statistics.quantiles(seconds, n=4, method="inclusive")
            low, middle, high = (round(1e3 * value, 4) for value in few)
            found[name] = {"median_ms": middle, "q1_ms": low, "q3_ms": high, "samples": len(seconds)}
        return found


def measure(row: Row) -> dict[str, Any]:
    """Check a row's sides, time them in turns, and return the row for the file.

    Raises:
        AssertionError: the sides do not compute the same.
    """
    begin = time.monotonic()
    with row.open() as opened:
        opened.check.require()
        level_allocator()
        times = time_in_turns(opened.sides, 0 if TINY else row.seconds, 2 if TINY else row.fewest)
    return {
        "name": row.name,
        "work": row.work,
        "check": vars(opened.check) | {"difference": float(f"{opened.check.difference:.3g}")},
        "sides": times.as_json(),
        "seconds": round(time.monotonic() - begin, 1),
    }


def time_in_turns(sides: dict[str, Side], seconds: float, fewest: int) -> Times:
    """Time the sides in rounds of one call per side, so that a machine that slows down slows all of them.

    The side that begins a round ends the next one. The first call of each side is a warm-up.

    Args:
        sides: name → side.
        seconds: rounds are added until they have taken this long.
        fewest: the smallest number of rounds.
    """
    times, names = Times({name: [] for name in sides}), list(sides)
    for run in sides.values():
        _call(run)
    begin, rounds = time.perf_counter(), 0
    while rounds < fewest or (time.perf_counter() - begin < seconds and rounds < _MOST):
        for name in names:
            times.samples[name] += _call(sides[name])
        names, rounds = names[1:] + names[:1], rounds + 1
    return times


def without_result(run: Callable[[], object]) -> Side:
    """Return a side that calls the function and drops its result."""

    def call() -> None:
        run()

    return call


def _call(run: Side) -> list[float]:
    _wait()
    begin = time.perf_counter()
    own = run()
    _wait()
    return own or [time.perf_counter() - begin]


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def name_stock(eager: str = "plain PyTorch", compiled: str = "torch.compile") -> dict[str, str]:
    """Name every variant of stock PyTorch for the table; return name → variant."""
    modes, formats = {"eager": eager, "compile": compiled}, {"contiguous": "", "channels_last": ", channels_last_3d"}
    parts = {variant: variant.split("-") for variant in STOCK}
    return {modes[mode] + formats[layout]: variant for variant, (mode, layout) in parts.items()}


def largest_relative_error(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> float:
    """Return the largest difference of two lists of tensors, each relative to its tensor's largest value.

    It is infinite if a value is not finite, since NaN would be lost in a maximum.
    """
    worst = 0.0
    for mine, theirs in zip(found, expected, strict=True):
        size = theirs.double().abs().max().clamp_min(1e-30)
        error = ((mine.double() - theirs.double()).abs().max() / size).item()
        worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst
