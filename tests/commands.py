"""Runs the package's commands as processes, of this checkout, from any folder."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
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


def call(module: str, arguments: Sequence[str]) -> tuple[int, str, str]:
    """The same within this process, which takes no seconds to import: status, stdout and stderr."""
    from fastvgan.command_line import run_command

    main = importlib.import_module(module).main
    out, err, status = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(lambda: main(list(arguments)))
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), err.getvalue()


def _line(module, arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
