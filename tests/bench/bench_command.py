"""Runs the commands of bench/ as processes, without a GPU, whatever this process is set to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, program=sys.executable, status=0, **environment) -> str:
    """Run Python, or another program, in the checkout; check its exit status, and return stdout and stderr."""
    # In a worker of pytest-xdist, by its PYTEST_ variables, pytest-benchmark would not measure.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FASTVGAN_"))}
    hidden = {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [program, *map(str, arguments)],
        cwd=ROOT,
        env={**kept, **hidden, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout + done.stderr
