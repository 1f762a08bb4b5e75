"""Starts processes as forks of one that has imported everything, which saves five seconds each."""

import functools
import multiprocessing
import os
from pathlib import Path
from unittest import mock


@functools.cache
def context() -> multiprocessing.context.BaseContext:
    """Processes of one thread, of a fork server that starts now and lives as long as this process.

    There is one such server in a process, so that all tests share what it has imported.
    """
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["killed", "together", "pytest"])
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    # One thread, since what forks must have no others.
    with mock.patch.dict(os.environ, {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}):
        first = forkserver.Process(target=int)  # it starts the server
        first.start()
        first.join()
    return forkserver
