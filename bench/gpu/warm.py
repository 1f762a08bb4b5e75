"""Compile the Triton kernels of the other parts into Triton's cache, in parallel processes on all cores.

`python bench/gpu/warm.py --seconds N`. With FASTVGAN_TUNE=1 all tiles that tuning may try are compiled.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Default parts → number of processes in twelfths of the cores; the processes share the part's units.
SHARES = {"convs": 7, "train": 2, "layers": 2, "lstm": 1}
ALONE = {"scale": 12}  # compiled only with --parts scale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--parts", nargs="+", default=list(SHARES), choices=[*SHARES, *ALONE])
    parsed = parser.parse_args()
    limit, shares = parsed.seconds, SHARES | ALONE
    begin, cores = time.monotonic(), os.cpu_count() or 1
    # A throwaway cache, because choices made without timing must not be kept.
    with tempfile.TemporaryDirectory() as choices:
        environment = {**os.environ, "FASTVGAN_CACHE": choices, "OMP_NUM_THREADS": "1"}
        processes = []
        for name in parsed.parts:
            count = max(1, round(shares[name] * min(cores, 12) / 12))
            for index in range(count):
                command = [sys.executable, HERE / f"{name}.py", "--compile", f"{index}/{count}"]
                processes.append((name, subprocess.Popen(list(map(str, command)), env=environment)))
        late = [name for name, process in processes if not _wait(process, begin + limit - time.monotonic())]
    failed = [name for name, process in processes if process.returncode and name not in late]
    print(f"warm: {len(processes)} processes, {time.monotonic() - begin:.0f} s", flush=True)
    if late:
        print(f"warm: out of time for {', '.join(sorted(set(late)))}; the remaining kernels compile at first use")
    return int(bool(failed))


def _wait(process, seconds: float) -> bool:
    try:
        process.wait(timeout=max(0.1, seconds))
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


if __name__ == "__main__":
    sys.exit(main())
