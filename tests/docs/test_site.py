"""The generated pages of the reference have every flag and every public object."""

import importlib
import sys

import pytest
from commands import call
from newcomer import ROOT

sys.path.insert(0, str(ROOT / "build_tools" / "site"))
import reference  # noqa: E402


@pytest.mark.parametrize("command", sorted(reference.commands()))
def test_page_has_each_flag_that_the_parser_takes_with_its_sentence(command, monkeypatch):
    """Against --help, which tyro writes from the same classes."""
    monkeypatch.setenv("COLUMNS", "400")
    status, out, _ = call(f"fastvgan.{command}", ["--help"])
    shown = " ".join(out.replace("│", " ").split())
    assert status == 0
    _, text = reference.command_pages()[f"reference/commands/{command}.md"]
    flags = [line for line in text.splitlines() if line.startswith("`") and "{ #" in line]
    for line in flags:
        name = line.partition("`")[2].partition("`")[0]
        # The help names positional arguments by their kind, and some flags by their opposite alone.
        assert name in shown or f"--no-{name[2:]}" in shown or not name.startswith("--"), name
    entries = text.split("\n:   ")[1:]
    assert len(entries) == len(flags) == len(reference.flags_of(reference.commands()[command]))
    for entry in entries:
        first = " ".join(entry.partition("\n")[0].replace("`", "").split()[:6])
        assert first in shown.replace("`", ""), first


@pytest.mark.parametrize("module", reference.PYTHON)
def test_page_has_each_public_object(module):
    names = getattr(importlib.import_module(module), "__all__", None) or reference.public_names(module)
    _, text = reference.python_pages()[f"reference/python/{module}.md"]
    listed = [line.removeprefix("::: ") for line in text.splitlines() if line.startswith("::: ")]
    assert sorted(name.rpartition(".")[2] for name in listed) == sorted(names) and names
    for place in listed:  # as mkdocstrings finds it
        owner, _, name = place.rpartition(".")
        assert getattr(importlib.import_module(owner), name) is getattr(importlib.import_module(module), name)


def test_table_of_presets_sets_what_the_presets_set():
    """The flags of a row, given to the command with a plain base, make the preset again."""
    from fastvgan.command_line import read_flags, settings_from
    from fastvgan.runs.config import RunConfig
    from fastvgan.runs.presets import PRESETS
    from fastvgan.train import Arguments

    rows = [row.strip("| ").split(" | ") for row in reference.presets_table().splitlines()[2:]]
    assert [row[0].strip("`") for row in rows] == list(PRESETS)
    for name, family, clips, condition, batch, length, flags in rows:
        frames, _, _, size = clips.split()
        height, width = size.split("x")
        number, unit = length.replace(",", "").split()
        line = ["--family", family, "--frames", frames, "--height", height, "--width", width, "--batch-size", batch]
        line += ["--condition", *condition.split(", "), f"--{unit}", number]
        line += [word for flag in flags.split("`")[1::2] for word in flag.split()]
        made = settings_from(Arguments, read_flags(Arguments, line), Arguments(run=RunConfig())).run
        assert made.model_dump() == PRESETS[name.strip("`")].model_dump(), name
