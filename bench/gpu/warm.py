"""Compile what the other parts run by Triton, on all cores in parallel processes, into Triton's cache.

`python bench/gpu/warm.py --seconds N`. With FASTVGAN_TUNE=1 every tile that tuning may try is compiled.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The parts that run by default, each with its processes in twelfths of the cores. Its units are dealt out to them.
SHARES = {"convs": 7, "train": 2, "layers": 2, "lstm": 1}
ALONE = {"scale": 12}  # compiled where it is named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--parts", nargs="+", default=list(SHARES), choices=[*SHARES, *ALONE])
    parsed = parser.parse_args()
    limit, shares = parsed.seconds, SHARES | ALONE
    begin, cores = time.monotonic(), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as choices:  # what is "chosen" without timing must not be remembered
        environment = {**os.environ, "FASTVGAN_CACHE": choices, "OMP_NUM_THREADS": "1"}
        processes = []
        for name in parsed.parts:
            count = max(1, round(shares[name] * min(cores, 12) / 12))
            for index in range(count):
                command = [sys.executable, HERE / f"{name}.py", "--compile", f"{index}/{count}"]
                processes.append((name, subprocess.Popen(list(map(str, command)), env=environment)))
        late = [name for name, process in processes if not _ends(process, begin + limit - time.monotonic())]
    failed = [name for name, process in processes if process.returncode and name not in late]
    print(f"warm: {len(processes)} processes, {time.monotonic() - begin:.0f} s", flush=True)
    if late:
        print(f"warm: stopped for lack of time: {', '.join(sorted(set(late)))}; the rest compiles at first use")
    return int(bool(failed))


def _ends(process, seconds: float) -> bool:
    try:
        process.wait(timeout=max(0.1, seconds))
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


if __name__ == "__main__":
    sys.exit(main())
