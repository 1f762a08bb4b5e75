"""Runs the package's commands as processes, of this checkout, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(module: str, *arguments, **options) -> subprocess.Popen:
    """`python -m module arguments` with its output in one pipe."""
    return subprocess.Popen(
        _line(module, arguments), env=_environment(), text=True, stdout=-1, stderr=subprocess.STDOUT, **options
    )


def run(module: str, *arguments, **options) -> subprocess.CompletedProcess:
    """`python -m module arguments` to its end, with stdout and stderr as text."""
    return subprocess.run(
        _line(module, arguments), env=_environment(), capture_output=True, text=True, timeout=300, **options
    )


def _line(module, arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
