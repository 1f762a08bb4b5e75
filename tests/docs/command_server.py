"""Runs Python programs in copies of a process that has imported torch: `command_server.py SOCKET`, for stand_in.py."""

import atexit
import contextlib
import os
import runpy
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Serve until killed."""
    _import_what_takes_long()
    _shorten_runs()
    path = sys.argv[1]
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen()
    os.rename(f"{path}.new", path)
    while True:
        connection, _ = server.accept()
        with connection:
            if os.fork() == 0:
                server.close()
                _serve(connection)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _import_what_takes_long() -> None:
    import torch
    import torch.utils.tensorboard

    import fastvgan  # noqa: F401  binds the checkout's kernels/
    import fastvgan.metrics.evaluation
    import fastvgan.training.run.output
    import fastvgan.training.run.watchdog  # noqa: F401
    import fastvgan_kernels.triton.support  # noqa: F401

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler, for 3 s
    # Nothing is computed here: threads would not be in the copies.


def _shorten_runs() -> None:
    """Score fewer clips in runs and leave report.html empty, as tests/training does; `fastvgan report` draws it."""
    from fastvgan.training.run import output, samples

    vars(samples).update(_POOL=16, _ROUNDS=2)
    vars(output).update(write_report=lambda folder: (folder / "report.html").touch())


def _serve(connection: socket.socket) -> None:
    """Run one program and answer with its status."""
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    wanted = struct.unpack("I", size)[0]
    message = b""
    while len(message) < wanted:
        message += connection.recv(wanted - len(message))
    line, folder, variables = (part.split("\0") for part in message.decode().split("\0\0"))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # Streams of these files: those of the server know positions in its own.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.chdir(folder[0])
    os.environ.clear()
    os.environ.update(dict(variable.split("=", 1) for variable in variables))
    # This process is a child, so that a crash closes the connection without an answer.
    status = _run(line)
    connection.sendall(bytes([status & 255]))
    os._exit(0)


def _run(line: list[str]) -> int:
    status = 0
    try:
        if line[0] == "-m":
            sys.argv = line[1:]
            sys.path[0] = os.getcwd()
            runpy.run_module(line[1], run_name="__main__", alter_sys=True)
        elif line[0] == "-c":
            sys.argv = ["-c", *line[2:]]
            sys.path[0] = ""
            exec(compile(line[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = line
            sys.path[0] = str(Path(line[0]).resolve().parent)
            runpy.run_path(line[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
