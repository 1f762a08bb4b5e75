"""Benchmark of the default run's step, alone and beside a busy process, with different settings of threads.

    python bench/beside.py --out FILE.json      # about 8 minutes; nothing else may run

Each run is `python -m fastvgan.train` in its own folder. It is timed alone, then beside `while True: pass` in another
session, to which Linux gives a fair share of the CPU, and then killed. Variants take turns. The times beside the busy
process include the first seconds, until the run has detected it.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench" / "gpu")]

import cpuinfo  # noqa: E402  (py-cpuinfo, which pytest-benchmark needs)
from part import origin  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.files.atomic import check_writable  # noqa: E402

BATCH = 32  # of the preset `digits`
VARIANTS = {
    "default": {},
    "two threads that sleep": {"OMP_NUM_THREADS": "2"},
    "two threads as torch has them": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},  # libgomp's default
    "one thread": {"OMP_NUM_THREADS": "1"},
}
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def read_step_times(path: Path) -> list[float]:
    """Return the seconds of each step so far, including the wait for data."""
    with contextlib.suppress(OSError):
        lines = path.read_text().splitlines(keepends=True)
        return [BATCH / json.loads(line)["videos_per_second"] for line in lines if line.endswith("\n")]
    return []


def observe(metrics: Path, seconds: float, least: int, most: float) -> list[float]:
    """Return the seconds of each step in the next `seconds`; wait for `least` steps, at most `most` seconds."""
    first, begin = len(read_step_times(metrics)) + 1, time.monotonic()  # skip the step that runs now
    while True:
        time.sleep(0.2)
        found, passed = read_step_times(metrics)[first:], time.monotonic() - begin
        if (passed > seconds and len(found) >= least) or (passed > most and found):
            return found
        if passed > 10 * most:
            raise UserError(f"no step ended in {passed:.0f} s; this machine is too busy, or too slow, to measure on")


def measure_variant(name: str, options: argparse.Namespace) -> dict:
    """Return the seconds of one run's steps, alone and beside a busy process, and its log lines about threads."""
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "out").open("w") as out:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "fastvgan.train", "--run-dir", str(metrics.parent), "--log-every", "1"]
        command += ["--steps", "100000", "--checkpoint-every", "100000", "--sample-every", "100000"]
        command += ["--evaluate-every", "100000"]
        run = subprocess.Popen(
            command,
            env=clean | VARIANTS[name],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        busy = None
        try:
            end = time.monotonic() + 90
            while len(read_step_times(metrics)) < 2:
                assert run.poll() is None and time.monotonic() < end, (Path(folder) / "out").read_text()
                time.sleep(0.2)
            time.sleep(options.warm)
            alone = observe(metrics, options.alone, 3, 30)
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
            time.sleep(1)
            beside = observe(metrics, options.beside, 3, 45)
            log = (Path(folder) / "run" / "log.txt").read_text()
        finally:
            for process in (run, busy):
                if process is not None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
    said = [line[line.index("cpu: ") :] for line in log.splitlines() if "cpu: " in line]
    return {"variant": name, "said": said, "alone": alone, "beside": beside}


def median(runs: list[dict], where: str) -> float:
    """Return seconds per step, the median of the runs' means."""
    return statistics.median(statistics.mean(run[where]) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--alone", type=float, default=5.0, help="seconds")
    parser.add_argument("--beside", type=float, default=15.0, help="seconds")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds of warm-up before timing")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: must be at least 1")
    check_writable(options.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the `finally` above, which kills the child processes
    facts = {name: value for name, value in origin().items() if name not in ("capability", "dtype")}
    head = {**facts, "device": "cpu", "cpu": cpuinfo.get_cpu_info().get("brand_raw", "unknown")}
    head["load_at_start"] = os.getloadavg()[0]
    found: list[dict] = []
    for number in range(options.rounds):
        for name in VARIANTS:
            found.append(measure_variant(name, options) | {"round": number})
            alone, beside = (statistics.mean(found[-1][where]) for where in ("alone", "beside"))
            print(f"{name:30} {alone:.3f} {beside:.3f} s per step", flush=True)
            options.out.write_text(json.dumps({**head, "rows": found}, indent=1) + "\n")
    for name in VARIANTS:
        runs = [run for run in found if run["variant"] == name]
        alone, beside = median(runs, "alone"), median(runs, "beside")
        print(f"{name:30} alone {alone:.3f}, beside {beside:.3f} s per step: {beside / alone:.2f} times as long")


if __name__ == "__main__":
    run_command(main)
