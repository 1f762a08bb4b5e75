"""A training run watched live: its curves, scores and newest samples, read again when its files change."""

import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from fastvgan.errors import UserError
from fastvgan.page.clips import render
from fastvgan.runs.log import has_ended
from fastvgan.runs.names import runs_by_age
from fastvgan.training.report.collect import EVALUATION, METRICS, collect_progress

PERIOD = 2
"""Seconds between two looks at a run."""
_QUIET = 120  # seconds without a change after which a run is taken for stopped
_KEPT = 4  # runs whose page is kept
_LOG = "log.txt"
_FILES = ("config.yaml", METRICS, EVALUATION, _LOG)

Stamp = tuple[tuple[str, int, int], ...]


class View(NamedTuple):
    """A run as it stands: the line on its state, the HTML below it, and what identifies that HTML."""

    state: str
    body: str
    stamp: str


class LiveRuns:
    """The runs under ./runs, and the one that was named when the page was started.

    Args:
        named: a run folder elsewhere, or None.
    """

    def __init__(self, named: Path | None = None):
        self._named = named
        self._bodies: OrderedDict[str, tuple[Stamp, str, bool]] = OrderedDict()
        self._lock = Lock()

    def names(self) -> list[str]:
        """Return the names of the runs, the newest first."""
        named = [str(self._named)] if self._named is not None else []
        return list(dict.fromkeys([*named, *map(str, runs_by_age())]))

    def view(self, name: str | None) -> View:
        """Return a run as it stands.

        Raises:
            UserError: there is no such run.
        """
        names = self.names()
        if not names:
            raise UserError("runs/ holds no run; train one with `fastvgan train`, and it appears here")
        if name not in names:
            raise UserError(f"there is no run {name!r}; choose one of {', '.join(names)}")
        folder = Path(name)
        with self._lock:  # the curves are drawn once for all visitors
            stamp = _stamp(folder)
            found = self._bodies.pop(name, None)
            if found is None or found[0] != stamp:
                found = stamp, render("live.html", **collect_progress(folder, is_live=True)), has_ended(folder / _LOG)
            self._bodies[name] = found
            while len(self._bodies) > _KEPT:
                self._bodies.popitem(last=False)
        return View(_state(stamp, found[2]), found[1], f"{name} {hash(stamp)}")


def _stamp(folder: Path) -> Stamp:
    """Return name, time of change and size of each file that the page shows."""
    files = [folder / name for name in _FILES]
    files += sorted((folder / "samples").glob("step-*"), key=lambda path: (len(path.name), path.name))[-2:]
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:  # missing, which is part of the stamp
            continue
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _state(stamp: Stamp, is_ended: bool) -> str:
    """Return HTML of one line: whether the run is being written, and since when it is not."""
    if not stamp:
        return render("state.html", kind="stopped", word="empty", rest="it has no files yet")
    ago = max(0.0, time.time() - max(changed for _, changed, _ in stamp) / 1e9)
    if is_ended:
        return render("state.html", kind="ended", word="ended", rest=_ago(ago))
    if ago > _QUIET:
        return render("state.html", kind="stopped", word="stopped", rest=f"or stuck; the last change was {_ago(ago)}")
    return render("state.html", kind="training", word="training", rest=f"last change {_ago(ago)}")


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"
