"""`fastvgan COMMAND`: the help, the version, and each command as it runs by itself."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import ROOT, call
from commands import run as run_module

import fastvgan
from fastvgan.__main__ import COMMANDS
from fastvgan.command_line import as_typed, spell_commands_by
from fastvgan.data.preparation.settings import PrepareConfig

_SLOW = ("torch", "tyro", "pydantic", "numpy")


def one(*arguments):
    """`fastvgan` with these arguments, within this process."""
    return call("fastvgan.__main__", list(map(str, arguments)))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_has_one_sentence_per_command_by_its_docstring(arguments):
    status, out, err = one(*arguments)
    assert (status, err) == (0, "") and out.startswith("usage: fastvgan COMMAND")
    lines = {line.split()[0]: line.strip() for line in out.splitlines() if line.startswith("  ")}
    assert set(lines) == {"train", "generate", "prepare", "evaluate", "report", "info", "demo", "--help", "--version"}
    for name in COMMANDS:
        sentence = lines[name].removeprefix(name).strip()
        documented = " ".join(importlib.import_module(f"fastvgan.{name}").Arguments.__doc__.split())
        assert documented.startswith(sentence) and sentence.endswith(".") and ". " not in sentence and sentence[:-1]


def test_the_script_that_pip_installs_prints_the_version():
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["fastvgan"]
    module, _, function = script.partition(":")
    code = (
        f"import sys; sys.argv = ['/usr/bin/fastvgan', '--version']; import {module} as m\n"
        f"try: m.{function}()\n"
        f"finally: print(*set({_SLOW}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"fastvgan {fastvgan.__version__}\n\n"


def test_help_imports_nothing_slow():
    code = (
        "import sys; from fastvgan.__main__ import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print(*set({_SLOW}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "", done.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("trian", "unknown command 'trian' (did you mean train?); fastvgan --help lists the commands"),
        ("Generate", "unknown command 'Generate' (did you mean generate?); fastvgan"),
        ("xyzzy", "unknown command 'xyzzy'; fastvgan --help lists the commands"),
        ("--steps", "unknown command '--steps'; fastvgan"),
        ("", "unknown command ''; fastvgan"),
        ("a\nb", "unknown command 'a\\nb'; fastvgan"),
        ("__main__", "unknown command '__main__'; fastvgan"),
        ("settings", "unknown command 'settings'; fastvgan"),
    ],
)
def test_an_unknown_command_is_one_sentence(name, sentence):
    status, out, err = one(name, "--help")
    assert (status, out) == (2, "") and err.startswith(f"error: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo"}))
def test_help_of_a_command_shows_how_to_type_it(name):
    together, alone = one(name, "--help"), call(f"fastvgan.{name}", ["--help"])
    assert together[0] == alone[0] == 0
    assert together[1].startswith(f"usage: fastvgan {name} ") and alone[1].startswith(
        f"usage: python -m fastvgan.{name} "
    )
    # Below the line of usage, which may be wrapped, nothing differs.
    assert together[1].partition("\n\n")[2] == alone[1].partition("\n\n")[2] != ""


def test_a_command_gets_its_arguments_and_its_status_is_kept(monkeypatch):
    report, seen = importlib.import_module("fastvgan.report"), []
    monkeypatch.setattr(report, "main", lambda arguments: seen.append(arguments) or 7)
    assert one("report", "--run", "x", "--", "-y")[0] == 7 and seen == [["--run", "x", "--", "-y"]]


def test_demo_is_imported_when_it_is_asked_for(monkeypatch):
    class Demo:
        @staticmethod
        def main(arguments):
            print("a page", *arguments)

    monkeypatch.setitem(sys.modules, "fastvgan.demo", Demo)
    assert one("demo", "--port", "7") == (0, "a page --port 7\n", "")


def test_messages_name_the_next_command_as_the_user_typed_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "train one with `fastvgan train`, or" in one("report")[2]
    assert "train one with `python -m fastvgan.train`, or" in call("fastvgan.report", [])[2]
    with spell_commands_by("python -m fastvgan"):
        assert as_typed("python -m fastvgan.train --data x") == "python -m fastvgan train --data x"
    prepare = importlib.import_module("fastvgan.prepare")
    made = type("Prepared", (), {"root": ".", "records": []})
    with spell_commands_by("fastvgan"):
        assert prepare._command(Path("a b"), made, PrepareConfig()) == "fastvgan train --data 'a b'"


def test_as_a_module_it_says_how_to_start_it_where_nothing_is_installed(tmp_path):
    done = run_module("fastvgan", "report", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "train one with `python -m fastvgan train`, or" in done.stderr


def test_torchrun_starts_a_command(tmp_path):
    settings = ["train", "--print-config", "--steps", "7"]
    flags = ["--standalone", "--nproc-per-node", "1", "-m", "fastvgan", *settings]
    done = run_module("torch.distributed.run", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == one(*settings)[1] != ""
