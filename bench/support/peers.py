"""Run steps in several processes in lockstep, for timing in the first one, and measure their all-reduce.

The other processes run `python bench/support/peers.py` with torchrun's environment variables.
"""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from support.on_gpu import ON_GPU  # noqa: E402
from support.sweep import Point, Sizes, runner_of  # noqa: E402

from fastvgan.training.parallel import Parallel  # noqa: E402

_SMALL, _LARGE = 1, 4 * 2**20  # float32 elements of the exchanged tensors
_TIMEOUT = 600  # seconds for another process to start or to answer, even on a busy machine
_TIMES = {_SMALL: 200, _LARGE: 12}


@contextmanager
def start_peers(point: Point):
    """Start the point's other processes; yield a function that runs one step of all processes, and the step."""
    with _start_processes(point.sizes.processes, json.dumps(asdict(point))) as parallel:
        run, step = runner_of(point, _device(0), parallel)

        def run_all() -> None:
            _vote_to_continue(parallel, True)
            run()

        yield run_all, step
        _vote_to_continue(parallel, False)


def measure_exchange(processes: int) -> tuple[float, float]:
    """Return bytes per second that each process sends in an all-reduce of 16 MiB, and seconds of an all-reduce of
    4 bytes; both are medians."""
    with _start_processes(processes, "") as parallel:
        seconds = _time_exchanges(parallel)
    sent = 2 * (processes - 1) / processes * 4 * _LARGE
    return sent / seconds[_LARGE], seconds[_SMALL]


@contextmanager
def _start_processes(processes: int, task: str):
    """Start the other processes on the task; yield this process's `Parallel`; raise if another process failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **shared, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    others = [
        subprocess.Popen([sys.executable, __file__, task], env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(1, processes)
    ]
    before = {name: os.environ.get(name) for name in (*shared, "RANK")}
    os.environ.update(shared, RANK="0")
    try:
        parallel = Parallel(0, processes, _device(0), timeout=_TIMEOUT)
        try:
            yield parallel
        finally:
            parallel.close()
        if any(_status(other) for other in others):
            raise RuntimeError("another process failed; see its output above")
    finally:
        for other in others:
            if other.poll() is None:
                other.kill()
                other.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _status(process: subprocess.Popen) -> int:
    """Return the exit status, or -1 if the process has not ended after a minute."""
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        return -1


def _vote_to_continue(parallel: Parallel, wished: bool) -> bool:
    """Return whether to run another step, by the trainer's vote; only the first process votes to stop."""
    parallel.begin_vote(int(not wished))
    return not parallel.vote()


def _time_exchanges(parallel: Parallel) -> dict[int, float]:
    middle = {}
    for size, times in _TIMES.items():
        tensor = torch.zeros(size, device=_device(parallel.rank))
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            dist.all_reduce(tensor)
            if ON_GPU:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        middle[size] = sorted(seconds)[times // 2]
    return middle


def _device(rank: int) -> torch.device:
    if not ON_GPU:
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def main() -> None:
    rank = int(os.environ["RANK"])
    parallel = Parallel(rank, int(os.environ["WORLD_SIZE"]), _device(rank), timeout=_TIMEOUT)
    try:
        _run(parallel, sys.argv[1])
    finally:
        parallel.close()


def _run(parallel: Parallel, task: str) -> None:
    """Run steps of the task's point until the first process votes to stop; without a task, all-reduces."""
    if not task:
        _time_exchanges(parallel)
        return
    given = json.loads(task)
    point = Point(given["family"], given["dimension"], Sizes(**given["sizes"]))
    run, _ = runner_of(point, _device(parallel.rank), parallel)
    while _vote_to_continue(parallel, True):
        run()


if __name__ == "__main__":
    main()
