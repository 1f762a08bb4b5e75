"""How many processors others keep busy, by Linux's own counts, and how many threads a run has then."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvgan.machine import neighbours
from fastvgan.machine.neighbours import Neighbours, ThreadFitter, Usage, fit_threads, usage, watch_neighbours
from fastvgan.train import main as train

BUSY = "while True: pass"
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
on_linux = pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="the system does not count what is used")


@pytest.fixture(autouse=True)
def _of_a_command(monkeypatch):
    """As in the process of a command that has not imported torch yet, where the user named no number of threads."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(neighbours, "_fitter", None)
    monkeypatch.setattr(neighbours, "bound_to", lambda: {0, 1, 2, 3})


@pytest.fixture
def used(monkeypatch):
    """Fake the results of `usage`, call by call, and the number of threads in torch, initially 4."""
    answers, threads = [], [4]
    monkeypatch.setattr(neighbours, "usage", lambda: answers.pop(0))
    monkeypatch.setattr(neighbours, "monotonic", lambda: answers[0].moment)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    return answers, threads


@on_linux
def test_a_busy_process_of_others_is_seen(monkeypatch):
    monkeypatch.undo()  # with the processors that there are
    watched = Neighbours()
    assert watched.count_busy() is None  # too early
    with subprocess.Popen([sys.executable, "-c", BUSY]) as other:
        time.sleep(2.5)
        found = watched.count_busy()
        other.kill()
    assert 0.2 < found <= len(os.sched_getaffinity(0))  # a share of one, where more are busy


@on_linux
def test_what_this_process_and_its_workers_use_is_its_own():
    before = usage()
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(0.5,))
    worker.start()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    while neighbours._seconds_of(worker.pid) < 0.5:
        time.sleep(0.05)
    live = usage()
    worker.join()
    ended = usage()
    assert live.own - before.own >= 0.75 and ended.own >= live.own - 0.05
    assert live.moment < ended.moment and ended.busy >= live.busy


def _work(seconds):
    while time.process_time() < seconds + 0.1:
        pass


@on_linux
def test_only_processors_of_ours_count(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 3 4000 500 6 7 80 0 0\ncpu1 1 1 1 1 1 1 1 1 1 1\n"
        "cpu9 1000 0 0 0 0 0 0 0 0 0\nintr 1 2 3\n"
    )
    monkeypatch.setattr(neighbours, "_PROC", tmp_path)
    # By proc(5): user, nice, system, idle, waiting for input and output, interrupts, soft interrupts, ...
    assert usage().busy == pytest.approx((100 + 20 + 3 + 6 + 7 + 5) / os.sysconf("SC_CLK_TCK"))
    monkeypatch.setattr(neighbours, "_PROC", tmp_path / "none")
    assert usage() is None and Neighbours().count_busy() is None


@given(shares=st.lists(st.floats(0, 4), min_size=1, max_size=6), own=st.floats(0, 4))
def test_a_run_has_the_threads_that_others_leave(shares, own):
    answers, threads = [Usage(0, 0, 0)], [4]
    for number, share in enumerate(shares, 1):
        last = answers[-1]
        answers.append(Usage(10 * number, last.busy + 10 * (share + own), last.own + 10 * own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "usage", lambda: answers.pop(0))
        patch.setattr(neighbours, "monotonic", lambda: answers[0].moment)
        patch.setattr(torch, "get_num_threads", lambda: threads[-1])
        patch.setattr(torch, "set_num_threads", threads.append)
        patch.setitem(sys.modules, "torch", torch)
        fitter = ThreadFitter()
        for share in shares:
            before = threads[-1]
            sentence = fitter.fit()
            assert abs(threads[-1] - max(1, 4 - share)) <= 0.5 + 1e-6
            assert bool(sentence) == (threads[-1] != before)


def test_what_is_said(used, monkeypatch):
    answers, threads = used
    monkeypatch.setitem(sys.modules, "torch", torch)
    answers += [Usage(0, 0, 0), Usage(5, 15, 0), Usage(10, 30, 0), Usage(15, 31, 1)]
    fitter = ThreadFitter()
    with monkeypatch.context() as early:
        early.setattr(neighbours, "monotonic", lambda: 1.0)
        assert fitter.fit() is None and len(answers) == 3  # nothing is read
    assert fitter.fit() == "cpu: 1 thread of 4, since other processes keep 3.0 of 4 processors busy"
    assert fitter.fit() is None and threads == [4, 1]
    assert fitter.fit() == "cpu: 4 threads again, since other processes have left the processors"
    assert threads == [4, 1, 4]


@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_was_named_stays(used, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    watch_neighbours()
    assert fit_threads() is None and used[1] == [4]


def test_a_program_with_torch_loaded_is_left_alone(used, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    watch_neighbours()
    assert fit_threads() is None and used[1] == [4]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_looks_at_its_start_and_at_each_line_of_metrics(monkeypatch, tmp_path, deterministic):
    monkeypatch.setitem(sys.modules, "torch", torch)
    said = ["cpu: first", None, "cpu: second", None]
    monkeypatch.setattr("fastvgan.training.loop.fit_threads", lambda: said.pop(0))
    flags = ["--steps", "4", "--log-every", "2", "--batch-size", "4", "--base-width", "2", "--latent", "4"]
    flags += ["--evaluate-clips", "16", "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    assert train([*flags, *(["--deterministic"] if deterministic else [])]) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert ("cpu: first" in log and "cpu: second" in log) is not deterministic
    assert len(said) == (4 if deterministic else 1)
