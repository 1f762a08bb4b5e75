"""Ctrl-C while a command still imports its packages."""

import os
import subprocess
import sys

from commands import ROOT


def test_ctrl_c_while_torch_imports_numpy_ends_a_command(tmp_path):
    """torch ignores a KeyboardInterrupt there and continues without numpy."""
    (tmp_path / "numpy.py").write_text(
        "import os, signal, sys\n"
        "if not hasattr(sys, 'was_interrupted'):\n"
        "    sys.was_interrupted = True\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.getpid()\n"
    )
    program = (
        "import signal\nfrom fastvgan.command_line import run_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "run_command(lambda: print(__import__('torch').__name__))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by SIGINT\n")


def test_other_finders_of_modules_are_asked_for_torch():
    program = (
        "import sys\nfrom fastvgan.machine.interrupts import keep_interrupts\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        print(*([name] if name == 'torch' else []), end='')\n"
        "sys.meta_path.insert(0, Finder())\nkeep_interrupts()\nimport torch\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "torch"), done.stderr
