"""Runs the commands of bench/ as processes, without a GPU, whatever this process is set to."""

import os
import subprocess
import sys

from commands import ROOT, run_in_copy, start_server

# In a worker of pytest-xdist, by its PYTEST_ variables, pytest-benchmark would not measure; torch's compiler sets its
# own as it goes.
_LEFT_OUT = ("PYTEST_", "FASTVGAN_", "TORCHINDUCTOR_")


def run(*arguments, program=sys.executable, status=0, **environment) -> str:
    """Run Python, or another program, in the checkout; check its exit status, and return stdout and stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    hidden = {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    line, variables = [program, *map(str, arguments)], {**kept, **hidden, **environment}
    # Only modules of bench/, which a server does not import, read these.
    if program == sys.executable and all(name.startswith("FASTVGAN_BENCH_") for name in environment):
        done = run_in_copy(start_server(tuple({**kept, **hidden}.items())), line, ROOT, variables)
    else:
        done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout + done.stderr
