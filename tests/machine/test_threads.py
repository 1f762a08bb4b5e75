"""Threads of commands: their number, how they wait, and the message about them, compared with libgomp and nproc."""

import json
import os
import re
import subprocess
import sys

import commands
import pytest
import torch

from fastvgan.command_line import run_command
from fastvgan.machine import threads
from fastvgan.train import main as train

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(threads.SPIN_COUNT)}
COMMANDS = {  # those that compute by torch
    "train": ["--dry-run"],
    "generate": ["--text", "a red 7 moving up and down"],
    "evaluate": ["--run", "digits"],
    "info": [],
    "metrics.train_oracle": [],
}
# Runs a command up to `import torch`, and prints the environment that torch would find.
UP_TO_TORCH = """
import json, os, runpy, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps(dict(os.environ)), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

GROUPS = {
    "version 2": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "version 2, whole": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    "version 2, small": ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
    "more than there are": ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
    "a group's own": ("0::/a b.slice/c\n", {"a b.slice/c/cpu.max": "200000 100000\n", "cpu.max": "max 100000\n"}, 2),
    "its parent's": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
    "the host's path in a container": ("0::/docker/1a2b\n", {"cpu.max": "300000 100000\n"}, 3),
    "a path above the root": ("0::/../../x\n", {"cpu.max": "300000 100000\n"}, 3),
    "version 1": (
        "5:memory:/m\n4:cpu,cpuacct:/d\n",
        {"cpu/d/cpu.cfs_quota_us": "250000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1, no limit": ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    "another controller's": ("1:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "1\n"}, 8),
    "no control groups": (None, {}, 8),
    "empty files": ("0::/\n", {"cpu.max": ""}, 8),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes the files of a machine with eight processors, two in each of `cores`, and no quota."""

    def make(membership=None, files=(), cores=8):
        texts = {"groups/" + name: text for name, text in dict(files).items()}
        texts |= {f"cpus/cpu{n}/topology/thread_siblings_list": f"{n % cores},{n % cores + 4}\n" for n in range(8)}
        texts |= {} if membership is None else {"cgroup": membership}
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return make


@pytest.fixture
def before_torch(monkeypatch):
    """As at the start of a command: torch is not loaded, and the user has set nothing."""
    monkeypatch.delitem(sys.modules, "torch")
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set in the test is taken back after it
        monkeypatch.delenv(name)


def environment(**more):
    return {name: value for name, value in os.environ.items() if name not in NAMES} | more


def read_environment(module, arguments, tmp_path, **more):
    """The variables of threads as `python -m fastvgan.MODULE ARGUMENTS` has them when it imports torch."""
    line = [sys.executable, "-c", UP_TO_TORCH, f"fastvgan.{module}", *arguments]
    env = environment(PYTHONPATH=str(commands.ROOT), **more)
    ended = subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    return {name: found[name] for name in NAMES if name in found}


@pytest.mark.parametrize(("membership", "files", "count"), GROUPS.values(), ids=GROUPS)
def test_a_control_group_limits_the_processors(machine, membership, files, count):
    machine(membership, files)
    assert threads.count_processors() == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to processors")
def test_a_process_counts_the_processors_it_is_bound_to(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "missing")  # nproc knows no quotas, or only some versions do
    every = os.sched_getaffinity(0)
    for bound in ({min(every)}, every):
        os.sched_setaffinity(0, bound)
        try:
            known = subprocess.run(["nproc"], env=environment(), capture_output=True, text=True, check=True).stdout
            assert threads.count_processors() == int(known) == len(bound)
        finally:
            os.sched_setaffinity(0, every)


@pytest.mark.parametrize(
    ("cores", "quota", "count"),
    [(8, "250000", "3"), (8, "max", None), (4, "600000", None), (4, "300000", "3"), (8, "800000", None)],
)
def test_torch_starts_no_more_threads_than_a_quota_allows(machine, before_torch, cores, quota, count):
    """Torch itself starts one for each core, and a core may be two processors."""
    machine("0::/\n", {"cpu.max": f"{quota} 100000\n"}, cores)
    threads.set_up_threads()
    assert os.environ.get("OMP_NUM_THREADS") == count
    assert threads.thread_settings() == ({"OMP_NUM_THREADS": count} if count else {}) | OURS


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_number_of_threads_stands(machine, before_torch, monkeypatch, name):
    machine("0::/\n", {"cpu.max": "100000 100000\n"})
    monkeypatch.setenv(name, "5")
    threads.set_up_threads()
    assert threads.thread_settings() == {name: "5"} | OURS


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_compute_set_them_before_they_import_torch(name, tmp_path):
    found = read_environment(name, COMMANDS[name], tmp_path)
    assert OURS.items() <= found.items()


@pytest.mark.parametrize(
    "given", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "200"}], ids=str
)
def test_the_users_way_of_waiting_stands(given, tmp_path):
    given |= {"OMP_NUM_THREADS": "1"}
    assert read_environment("info", [], tmp_path, **given) == given


def test_a_program_that_imports_the_package_keeps_its_environment():
    code = """if True:
        import os
        names = %r
        before = {name: os.environ.get(name) for name in names}
        import fastvgan, fastvgan.train, fastvgan.layers
        fastvgan.load
        assert {name: os.environ.get(name) for name in names} == before
    """
    line = [sys.executable, "-c", code % (NAMES,)]
    subprocess.run(line, env=environment(PYTHONPATH=str(commands.ROOT)), check=True, timeout=120)


def test_where_torch_is_loaded_nothing_is_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        run_command(lambda: None)
    assert threads.thread_settings() == {}
    count = torch.get_num_threads()
    assert threads.describe_threads() == f"{count} thread{'s' if count > 1 else ''}"


@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux only")
def test_libgomp_takes_them_and_info_says_so():
    """OMP_DISPLAY_ENV has libgomp print what it goes by when it is loaded."""
    env = environment(PYTHONPATH=str(commands.ROOT), OMP_DISPLAY_ENV="verbose", OMP_NUM_THREADS="2")
    line = [sys.executable, "-m", "fastvgan.info", "--json"]
    ended = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=True)
    shown = dict(re.findall(r"(\w+) = '(.*)'", ended.stderr))
    assert (shown["OMP_WAIT_POLICY"], shown["GOMP_SPINCOUNT"]) == tuple(OURS.values())
    told = json.loads(ended.stdout)["devices"]["cpu"]
    how = f"OMP_NUM_THREADS=2, OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT={threads.SPIN_COUNT}"
    assert told.endswith(f"2 threads, which sleep while they wait for each other ({how})")


@pytest.mark.parametrize(
    ("given", "described"),
    [
        ({"OMP_WAIT_POLICY": "passive"}, "{}, which sleep while they wait for each other (OMP_WAIT_POLICY=passive)"),
        ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "9"}, "{} (OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT=9)"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "{} (OMP_WAIT_POLICY=ACTIVE)"),
    ],
)
def test_a_run_says_how_many_threads_it_has_and_how_they_wait(given, described, monkeypatch, capsys):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert train(["--dry-run", "--device", "cpu", "--base-width", "2", "--latent", "4"]) == 0
    assert f"\ncpu: {described.format('3 threads')}\n" in capsys.readouterr().out
