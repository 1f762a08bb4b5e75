"""Shared code of bench/gpu.sh's parts, which measure units one by one and write each result immediately.

A part is a script: `python bench/gpu/NAME.py --out FILE.json --seconds N`. The file lists the units that did not fit
into N seconds. `--compile I/N` runs every N-th unit once with Triton, so that several processes fill Triton's cache.
FASTVGAN_BENCH_TINY=1 shrinks every problem, so that a part's code runs on a CPU; the times then mean nothing.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from support.on_gpu import capture_graph  # noqa: E402
from support.variants import FORMATS, TINY, clock, device, forward_backward, in_layout, relative_error  # noqa: E402
from support.variants import use_implementation as use_implementation  # noqa: E402

from fastvgan.files.atomic import whole  # noqa: E402
from fastvgan.machine.versions import find_version  # noqa: E402
from fastvgan_kernels import choice  # noqa: E402
from fastvgan_kernels.triton import tuning  # noqa: E402

ON_GPU = device().type == "cuda"
_BEYOND_CACHE = 256 * 2**20  # bytes overwritten before each round, more than the cache of any GPU
_TRITON = ON_GPU or os.environ.get("TRITON_INTERPRET") == "1"
OURS = "triton" if _TRITON else "auto"  # without either, the CPU's implementations


@dataclass
class Unit:
    """One thing to measure.

    Args:
        name: the unit's name in the file.
        measure: measures all compared variants in one call, and returns a dict (or several) for the file.
        compile: runs everything once that Triton compiles for the unit.
        expected: approximate seconds on a GPU.
    """

    name: str
    measure: Callable[[], dict[str, Any] | list[dict[str, Any]]]
    compile: Callable[[], object] = lambda: None
    expected: float = 2.0


@dataclass
class Results:
    """A part's file: the machine, the results, the failed units, and the units left out for lack of time."""

    path: Path
    key: str
    head: dict[str, Any]
    found: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write the whole file atomically."""
        head = {**self.head, "failed": self.failed, "left_out": self.left_out}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = ",\n".join("  " + json.dumps(row) for row in self.found)
        with whole(self.path) as path:
            path.write_text("{\n" + ",\n".join(lines) + f',\n "{self.key}": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def main(name: str, key: str, units: Callable[[], Iterable[Unit]], more: dict[str, Any] | None = None) -> int:
    """Run a part's command line; return 1 if a unit failed or there are no results, else 0.

    Args:
        name: the part's name.
        key: the key of the results in its file.
        units: returns the units, most important first.
        more: further facts for the file's head.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", default="", help="measure the units whose names contain this")
    parser.add_argument("--compile", metavar="I/N")
    parsed = parser.parse_args()
    start = time.monotonic()
    if not (ON_GPU or TINY):
        print(f"{name}: no CUDA device; FASTVGAN_BENCH_TINY=1 runs the code on the CPU", file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = True  # stock PyTorch at its best, as training loops set it
    picked = [unit for unit in units() if parsed.only in unit.name]
    if parsed.compile:
        return _compile_all(picked, *map(int, parsed.compile.split("/")))
    results = Results(parsed.out or Path(f"{name}.json"), key, {**origin(), **(more or {})})
    for unit in picked:
        spent = time.monotonic() - start
        if spent + unit.expected * (not TINY) > parsed.seconds:
            results.left_out.append(unit.name)
        else:
            _measure(unit, results)
        results.write()
    if results.left_out:
        print(f"{name}: left out for lack of time: {', '.join(results.left_out)}")
    return int(bool(results.failed) or not results.found)


def _measure(unit: Unit, results: Results) -> None:
    begin = time.monotonic()
    try:
        found = unit.measure()
    except Exception as error:  # record the failure and measure the next unit
        traceback.print_exc()
        results.failed[unit.name] = f"{type(error).__name__}: {error}"[:500]
        return
    finally:
        _free_memory()
    rows = found if isinstance(found, list) else [found]
    results.found += rows
    for row in rows:
        print(f"{unit.name}: {_summarise(row)} ({time.monotonic() - begin:.1f} s)", flush=True)


def _compile_all(units: list[Unit], index: int, count: int) -> int:
    """Run every count-th unit once; if tuning is on, with every tile, but without timing."""
    os.environ[choice.ENVIRONMENT] = OURS
    tuning._milliseconds = lambda run: run() or 1.0
    failed = False
    for unit in units[index::count]:
        try:
            unit.compile()
        except Exception:  # measuring it records the failure in the file
            traceback.print_exc()
            failed = True
        _free_memory()
    return int(failed)


def _free_memory() -> None:
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()


def _summarise(row: dict[str, Any]) -> str:
    return " ".join(
        f"{k} {v}" for k, v in row.items() if k.endswith(("_ms", "impl", "ratio", "per_s", "_wait", "pass"))
    )


def origin() -> dict[str, Any]:
    """Return the device, the versions and the commit for the head of a file."""
    name = torch.cuda.get_device_name() if ON_GPU else "cpu"
    return {
        "device": name,
        "capability": list(torch.cuda.get_device_capability()) if ON_GPU else None,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": find_version("triton")},
        "commit": os.environ.get("FASTVGAN_COMMIT") or _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "dtype": "bfloat16" if ON_GPU else "float32",
        "tiny": TINY,
    }


def _commit() -> str:
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def milliseconds(run: Callable[[], object], rounds: int = 15) -> float:
    """Return the median milliseconds of a call captured as a CUDA graph, replayed with a cold cache."""
    replay = capture_graph(run)
    if not ON_GPU:
        begin = clock()
        replay()
        return round(1e3 * (clock() - begin), 4)
    flushed = torch.empty(_BEYOND_CACHE, dtype=torch.int8, device=device())
    times = []
    for _ in range(rounds):
        flushed.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return round(statistics.median(times), 4)


def stock_milliseconds(module: torch.nn.Module, x, dy, autocast_to: str = "fp32") -> dict[str, float]:
    """Return milliseconds of a stock module's forward and backward passes, for each memory format."""
    times = {}
    for name, layout in FORMATS.items():
        there = in_layout(copy.deepcopy(module), layout)
        given = (t.contiguous(memory_format=layout) for t in (x, dy))
        times[name] = milliseconds(forward_backward(there, *given, autocast_to))
    return times


def check(mine, stock, exact, factor: float = 3) -> float:
    """Return our largest error against stock PyTorch's float32 result, relative to its largest value.

    Raises:
        AssertionError: the error exceeds `factor` times stock's own error in the measured dtype plus a few roundings.
    """
    worst = 0.0
    for ours, theirs, right in zip(mine, stock, exact, strict=True):
        error, stock_error = relative_error(ours, right), relative_error(theirs, right)
        allowed = factor * stock_error + 8 * torch.finfo(ours.dtype).eps
        assert error <= allowed, f"ours is off by {error:.2g}, stock PyTorch by {stock_error:.2g}"
        worst = max(worst, error)
    return float(f"{worst:.2g}")


def strict(function, *arguments):
    """Return the function's result in float32 without tf32, by cuDNN's default algorithm."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.benchmark
    cudnn.conv.fp32_precision, cudnn.benchmark = "ieee", False
    try:
        return function(*arguments)
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark = before
