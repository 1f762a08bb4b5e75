"""Two hundred files, twenty of them broken in ten ways: all of it trains to the end, and each is named once."""

import functools
import json
import re
import subprocess
import sys

import commands
import pytest
from broken import BROKEN, no_permission, variable_rate, without_root_rights
from commands import ROOT
from make_videos import make_folder
from warm_process import serve

TINY = "--height 16 --width 16 --frames 8 --base-width 2 --batch-size 8 --steps 30 --log-every 5".split()


@pytest.fixture(scope="module")
def two_hundred(tmp_path_factory):
    """180 good files and two of each of ten kinds of broken ones."""
    folder = tmp_path_factory.mktemp("data") / "two hundred"
    odd = make_folder(folder, 183)
    for name in odd:  # these three are odd in other ways
        (folder / name).unlink()
        (folder / name).with_suffix(".txt").unlink()
    names = {}
    for make, (suffix, reason) in BROKEN.items():
        for i in range(2):
            path = make(folder / f"{make.__name__} {i}{suffix}")
            path.with_suffix(".txt").write_text("a broken clip")
            names[path.name] = reason
    assert len([path for path in folder.iterdir() if path.suffix != ".txt"]) == 200 and len(names) == 20
    yield folder, names
    for path in folder.glob(f"{no_permission.__name__}*"):
        path.chmod(0o600)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs commands for which permissions hold."""
    prefix = without_root_rights([])
    if prefix is None:
        pytest.skip("root reads every file, and there is no setpriv to take that right away")
    socket = str(tmp_path_factory.mktemp("server") / "socket")
    with serve(socket, commands.environment(), prefix=prefix):
        yield functools.partial(commands.run, server=socket)


def check_named(text, names):
    for name, reason in names.items():
        (line,) = [line for line in text.splitlines() if name in line]
        assert re.search(f"{re.escape(name)}: ({reason})", line), line


@pytest.mark.slow
@pytest.mark.parametrize("to", ["manifest", "clips", "shards", "tars"])
def test_prepared_it_trains_to_the_end(two_hundred, run, tmp_path, to):
    folder, names = two_hundred
    flags = {"manifest": [], "clips": ["--height", 32, "--width", 32], "tars": ["--height", 32, "--width", 32]}
    made = run(
        "fastvgan.prepare", folder, tmp_path / "out", "--to", to, *flags.get(to, ["--height", 16, "--width", 16])
    )
    assert made.returncode == 0, made.stderr
    check_named(made.stderr, names)
    rejects = [json.loads(line)["path"] for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sorted(rejects) == sorted(name for name in names if variable_rate.__name__ not in name)
    root = ["--root", folder] if to == "manifest" else []
    trained = run("fastvgan.train", "--data", tmp_path / "out", *root, *TINY, "--run-dir", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    assert "182 clips; 30 steps" in trained.stderr
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 30 and 0 <= last["data_wait"] <= 1


def test_help_of_the_command_that_makes_videos_writes_nothing(tmp_path):
    program = ROOT / "tests" / "data" / "make_videos.py"
    done = subprocess.run([sys.executable, program, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "FOLDER" in done.stdout and not list(tmp_path.iterdir())


def test_as_it_is_it_trains_to_the_end(two_hundred, run, tmp_path):
    folder, names = two_hundred
    trained = run("fastvgan.train", "--data", folder, *TINY, "--run-dir", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    check_named(trained.stderr, names)
    assert "182 clips; 30 steps" in trained.stderr
