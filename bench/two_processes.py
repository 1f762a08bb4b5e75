"""Compare docs/explanation/scaling.md's prediction with `python -m fastvgan.train`, alone and by torchrun, in turns.

One process runs batches of B clips, N processes run batches of N B. The prediction is the step of one process plus the
model's time for collectives, from all-reduce rates that are measured here too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "gpu")]

from part import Results, origin  # noqa: E402
from scaling import Network, count_exchanged_bytes, exchange_seconds  # noqa: E402
from step_cost import count_cost  # noqa: E402
from support.peers import measure_exchange  # noqa: E402
from support.sweep import FAMILIES, Sizes, config_of  # noqa: E402
from support.variants import DTYPES  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402

CASES = [
    ("conv3d", Sizes(16, 16, 32, 8)),
    ("conv3d", Sizes(16, 16, 128, 8)),
    ("conv3d", Sizes(16, 32, 32, 8)),
    ("recurrent", Sizes(16, 16, 16, 8)),
]
_LIMIT = 180.0  # seconds in which a run must write its lines of metrics


def measure(family: str, sizes: Sizes, processes: int, lines: int) -> list[float]:
    """Return seconds per step in each of `lines` lines of metrics after the first one."""
    command = ["-m", "fastvgan.train", "--preset", FAMILIES[family], "--precision", "fp32", "--device", "cpu"]
    flags = {"frames": sizes.frames, "height": sizes.size, "width": sizes.size, "base-width": sizes.width}
    flags |= {"batch-size": processes * sizes.batch, "steps": 1_000_000, "log-every": 5}
    flags |= {f"{what}-every": 1_000_000 for what in ("sample", "checkpoint", "evaluate")}
    command += [str(part) for flag, value in flags.items() for part in (f"--{flag}", value)]
    if processes > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    with tempfile.TemporaryDirectory(prefix="fastvgan-bench-") as folder:
        run = Path(folder, "run")
        with Path(folder, "log.txt").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, *command, "--run-dir", str(run)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                rates = _read_rates(process, run / "metrics.jsonl", lines + 1)
            except RuntimeError as error:
                log.seek(0)
                raise RuntimeError(f"{error}: {log.read()[-500:]}") from None
            finally:
                _stop(process)
    return [processes * sizes.batch / rate for rate in rates[1:]]


def _read_rates(process: subprocess.Popen, path: Path, count: int) -> list[float]:
    begin = time.monotonic()
    while time.monotonic() - begin < _LIMIT:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        rates = [line["videos_per_second"] for line in found if "videos_per_second" in line]
        if len(rates) >= count:
            return rates[:count]
        if process.poll() is not None:
            raise RuntimeError(f"the command ended with status {process.returncode}")
        time.sleep(0.05)
    raise RuntimeError(f"the command wrote {len(rates)} of {count} lines of metrics in {_LIMIT:.0f} s")


def _stop(process: subprocess.Popen) -> None:
    """Kill torchrun and all its processes, which form one session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def compare(family: str, sizes: Sizes, processes: int, rounds: int, lines: int) -> dict:
    """Time one process and several in turns; return the lowest seconds per step, and the prediction."""
    alone, together, rates = [], [], []
    for _ in range(rounds):
        alone += measure(family, sizes, 1, lines)
        together += measure(family, sizes, processes, lines)
        rates.append(measure_exchange(processes))
    bytes_per_s, latency = max(rate for rate, _ in rates), min(seconds for _, seconds in rates)
    network = Network("here", bytes_per_s, latency)
    cost = count_cost(config_of(family, sizes, sizes.batch), sizes.batch, DTYPES["fp32"])
    added = exchange_seconds(cost, network, processes)
    predicted, found = min(alone) + sum(added.values()), min(together)
    return {
        "family": family,
        "sizes": asdict(sizes),
        "processes": processes,
        "alone_ms": round(1e3 * min(alone), 2),
        "together_ms": round(1e3 * found, 2),
        "predicted_ms": round(1e3 * predicted, 2),
        "error": round(predicted / found - 1, 3),
        "sends_mb": round(count_exchanged_bytes(cost, processes) / 1e6, 2),
        "exchange_ms": {name: round(1e3 * seconds, 3) for name, seconds in added.items()},
        "gb_per_s": round(bytes_per_s / 1e9, 3),
        "latency_us": round(1e6 * latency, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=6, help="lines of metrics per run, one every 5 steps")
    parsed = parser.parse_args()
    for name in ("processes", "rounds", "lines"):
        if getattr(parsed, name) < 1:
            raise UserError(f"--{name} {getattr(parsed, name)}: must be at least 1")
    results = Results(parsed.out or Path("two-processes.json"), "commands", {**origin(), "cores": os.cpu_count()})
    for family, sizes in CASES:
        results.found.append(compare(family, sizes, parsed.processes, parsed.rounds, parsed.lines))
        print(json.dumps(results.found[-1]), flush=True)
        results.write()
    return 0


if __name__ == "__main__":
    run_command(main)
