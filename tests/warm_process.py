"""Runs Python programs in copies of a process that has imported torch, which saves five seconds each.

This module imports little, since docs/stand_in.py starts with it for each command of a page.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

_SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "command_server.py")


@contextlib.contextmanager
def serve(path: str, environment: Mapping[str, str], *flags: str, prefix: Sequence[str] = ()) -> Iterator[None]:
    """Start a server, which lives no longer than this process.

    Args:
        path: where to put its socket.
        environment: variables of the server.
        flags: of command_server.py.
        prefix: a command that runs the server's.
    """
    command = [*prefix, sys.executable, _SERVER, path, *flags]
    # OpenBLAS starts its threads when it is imported.
    environment = {**environment, "OPENBLAS_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    with server:
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the server of commands does not start"
        try:
            yield
        finally:
            server.stdin.close()


def ask(
    path: str,
    line: Sequence[str],
    folder: str,
    variables: Mapping[str, str],
    files: Sequence[int] = (0, 1, 2),
    timeout: float | None = None,
) -> int:
    """Let a server run Python with these arguments, and return the exit code; below zero, a signal ended it.

    Args:
        path: of the server's socket.
        line: arguments of Python: a program or `-m` or `-c`, and so on.
        folder: where it runs.
        variables: its environment.
        files: its standard input, output and error.
        timeout: how many seconds to wait.

    Raises:
        TimeoutError: it took longer, and was killed.
    """
    message = json.dumps([list(line), folder, dict(variables)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [struct.pack("I", len(message))], list(files))
        server.sendall(message)
        process = struct.unpack("i", server.recv(4, socket.MSG_WAITALL))[0]
        server.settimeout(timeout)
        try:
            return struct.unpack("i", server.recv(4))[0]
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            raise
