"""Copies of a warm process end, write and are killed as processes that Python starts afresh."""

import json
import signal
import subprocess

import commands
import pytest

PROGRAM = """
import atexit, json, os, signal, sys, threading, time

print(json.dumps([sys.argv[1:], os.getcwd(), sys.path[0], __name__]))
print("said", file=sys.stderr)
atexit.register(lambda: print("at the end"))
how = sys.argv[1]
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "interrupted":
    os.kill(os.getpid(), signal.SIGINT)
if how == "raises":
    raise ValueError("wrong")
if how == "waits":
    threading.Event().wait()
if how == "in a thread":
    timer = threading.Timer(0.05, print, ["late"])
    timer.start()
sys.exit({"three": 3, "a sentence": "a sentence"}.get(how))
"""
WRITTEN = {"raises": "ValueError: wrong\n", "a sentence": "a sentence\n", "interrupted": "KeyboardInterrupt\n"}


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("", 0),
        ("three", 3),
        ("a sentence", 1),
        ("raises", 1),
        ("in a thread", 0),
        ("killed", -signal.SIGKILL),
        ("interrupted", -signal.SIGINT),
    ],
)
def test_each_end_is_that_of_a_process(program, how, status):
    done = commands.run("program", how, "b c", cwd=program)
    assert done.returncode == status
    assert done.stderr.startswith("said\n") and done.stderr.endswith(WRITTEN.get(how, "said\n"))
    if how != "killed":  # before anything was flushed
        first, *rest = done.stdout.splitlines()
        assert json.loads(first) == [[how, "b c"], str(program), str(program), "__main__"]
        assert rest == ["late"] * (how == "in a thread") + ["at the end"]


def test_what_takes_too_long_is_killed(program, monkeypatch):
    monkeypatch.setattr(commands, "_LONGEST", 0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run("program", "waits", cwd=program)


def test_with_other_variables_a_process_starts_afresh(program, monkeypatch):
    monkeypatch.setenv("FASTVGAN_IMPL", "reference")
    monkeypatch.setattr(commands, "run_afresh", lambda *arguments, cwd: (arguments, cwd))
    assert commands.run("program", "", cwd=program) == (("program", ""), program)
