"""Runs Python programs in copies of a process that has imported torch: `command_server.py SOCKET [--short]`.

warm_process.py starts it and asks it. It ends, and what it runs with it, as soon as its input does.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from pathlib import Path


def main() -> None:
    """Serve; each copy runs one program, and ends as Python ends by it."""
    _import_what_takes_long()
    if "--short" in sys.argv[2:]:
        _shorten_runs()
    assert len(os.listdir("/proc/self/task")) == 1, "other threads would not be in the copies"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # copies need not look through what was there before
    line = _wait_for_a_program(sys.argv[1])
    status = 0
    try:
        _run(line)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # What Python does at its end, but for taking everything apart, which would take a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


def _run(line: list[str]) -> None:
    """Run Python with these arguments."""
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


def _import_what_takes_long() -> None:
    import torch
    import torch.utils.tensorboard

    import fastvgan  # noqa: F401  binds the checkout's kernels/
    import fastvgan.metrics.evaluation
    import fastvgan.training.loop
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


def _wait_for_a_program(path: str) -> list[str]:
    """Return the arguments of Python, in a copy of this process that has the asker's files, folder and variables."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([server, 0], [], [])
        if 0 in ready:
            os.killpg(0, signal.SIGKILL)
        connection, _ = server.accept()
        with connection:
            if os.fork() == 0:
                server.close()
                return _begin(connection)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _begin(connection: socket.socket) -> list[str]:
    """Return the arguments in a copy, and in this process wait for its end and answer with its exit code."""
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    wanted = struct.unpack("I", size)[0]
    message = b""
    while len(message) < wanted:
        message += connection.recv(wanted - len(message))
    line, folder, variables = json.loads(message)
    copy = os.fork()
    if copy:
        for file in files:
            os.close(file)
        connection.sendall(struct.pack("i", copy))
        status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        connection.sendall(struct.pack("i", status))
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # Streams of these files: those of the server know positions in its own.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    return line


if __name__ == "__main__":
    main()
