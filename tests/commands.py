"""Runs the package's commands as processes, of this checkout, from any folder."""

import atexit
import contextlib
import functools
import importlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from warm_process import ask, serve

ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 300  # seconds of a command
# pytest and torch's compiler set these as they go.
_OF_NO_EFFECT = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")


def start(module: str, *arguments, **options) -> subprocess.Popen:
    """`python -m module arguments` with its output in one pipe."""
    return subprocess.Popen(
        _line(module, arguments), env=environment(), text=True, stdout=-1, stderr=subprocess.STDOUT, **options
    )


def run(module: str, *arguments, cwd: str | Path | None = None, server: str = "") -> subprocess.CompletedProcess:
    """The same as `run_afresh`, in a copy of a process that has imported torch and has this one's variables.

    Args:
        module: as after `python -m`.
        arguments: of the command.
        cwd: where it runs.
        server: socket of another server than the one that all tests share.
    """
    if not server and _variables() != _FIRST_VARIABLES:  # modules may have read them when they were imported
        return run_afresh(module, *arguments, cwd=cwd)
    server = server or start_server(tuple(_FIRST_VARIABLES.items()))
    return run_in_copy(server, _line(module, arguments), cwd or os.getcwd(), environment())


def run_in_copy(
    server: str, line: list[str], cwd: str | Path, variables: dict[str, str]
) -> subprocess.CompletedProcess:
    """Run a command line of Python in a copy of a server of warm_process.py."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = 0, out.fileno(), err.fileno()
        try:
            status = ask(server, line[1:], os.fspath(cwd), variables, files, _LONGEST)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(line, _LONGEST) from error
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(line, status, out.read(), err.read())


@functools.cache
def start_server(variables: tuple[tuple[str, str], ...]) -> str:
    """Start a server with these variables, to the end of this process, and return its socket."""
    with contextlib.ExitStack() as stack:
        path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "socket")
        stack.enter_context(serve(path, _with_checkout(dict(variables))))
        atexit.register(stack.pop_all().close)
    return path


def run_afresh(module: str, *arguments, **options) -> subprocess.CompletedProcess:
    """`python -m module arguments` to its end, with stdout and stderr as text.

    At least one test runs each command so, as users do.
    """
    return subprocess.run(
        _line(module, arguments), env=environment(), capture_output=True, text=True, timeout=_LONGEST, **options
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


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_NO_EFFECT}


def _line(module, arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Variables of this process, by which others find this checkout."""
    return _with_checkout({**os.environ})


def _with_checkout(variables):
    return {**variables, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))}


_FIRST_VARIABLES = _variables()
