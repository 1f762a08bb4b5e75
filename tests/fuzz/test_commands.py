"""Command lines of any kind: status 0 or 2, one line on stderr, nothing written that was not named, and no hang."""

import importlib
import os
import time
from pathlib import Path

import pytest
from commands import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvgan.command_line import read_flags
from fastvgan.generation.files import export
from fastvgan.models import ModelConfig, build_generator

COMMANDS = ("train", "generate", "evaluate", "prepare", "info", "report", "metrics.train_oracle")
# What each is given after everything else, so that nothing trains or evaluates for minutes.
END = {"train": ["--dry-run"], "evaluate": ["--data", "given"], "metrics.train_oracle": ["--out", "given"]}
# What each is given before anything else: later flags take precedence.
START = {
    "train": ["--dry-run", "--base-width", "2", "--latent", "4"],
    "generate": ["--run", "given/x.safetensors", "--text", "a cat", "--n", "1", "--out", "out.gif"],
    "evaluate": ["--run", "given/x.safetensors", "--data", "given"],
    "prepare": ["given", "out"],
    "info": [],
    "report": ["--run", "given"],
    "metrics.train_oracle": ["--out", "given"],
}
NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "-0", "1e3", "1e308", "1e999", "nan", "-inf", "inf", "0x10", "1_000", "٣"]
NUMBERS += [
    str(2**31),
    str(2**63),
    str(2**64),
    str(10**12),
    str(-(10**40)),
    "9" * 5000,
    "٣" * 400,
    "five",
    "1,5",
    "1 000",
    "+2",
]
TEXTS = ["", " ", "None", "none", "auto", "given", "missing", "given/file", "/dev/null", "out.gif", "out.mp4", "a\nb"]
TEXTS += [
    "ü/ñ",
    "\u202e",
    "x" * 300,
    "x" * 5000,
    "--",
    "-",
    "-x",
    "*",
    "[",
    "~",
    "\udcff",
    "digits",
    "text",
    "cpu",
    "true",
]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder to work in, with something to read in it: a generator, a file and an empty folder."""
    folder = tmp_path_factory.mktemp("work")
    given = folder / "given"
    (given / "empty").mkdir(parents=True)
    (given / "file").write_text("nothing of use")
    model = ModelConfig(base_width=2, latent=4, vocabulary=("a", "cat"), caption_length=2)
    export(build_generator(model).state_dict(), model, given / "x.safetensors")
    before = os.getcwd()
    os.chdir(folder)
    call("fastvgan.train", ["--dry-run", "--base-width", "2"])  # imports what takes time
    yield folder
    os.chdir(before)


def arguments_of(command):
    module = importlib.import_module(f"fastvgan.{command}")
    return module.Arguments


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from(COMMANDS))
    flags = read_flags(arguments_of(command), START[command]).flags
    line = list(START[command])
    for _ in range(draw(st.integers(1, 3))):
        flag = draw(st.sampled_from(flags))
        name = flag.name if flag.name.startswith("--") else ""
        name = draw(
            st.sampled_from(
                (name, name, name, f"--{name[2:].replace('-', '_')}", f"--no-{name[2:]}", name[:-1], "--nonsense")
            )
        )
        count = draw(st.sampled_from((1, 1, 1, 1, 0, 2, 3)))
        kind = NUMBERS if flag.kind in (int, float) else [*flag.choices, *TEXTS]
        values = [
            draw(st.sampled_from(draw(st.sampled_from((kind, kind, kind, NUMBERS, TEXTS))))) for _ in range(count)
        ]
        if draw(st.integers(0, 4)) == 0 and values:
            line.append(f"{name}={values[0]}")
        else:
            line += [part for part in (name, *values) if part or not name]
    return command, line + END.get(command, [])


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


@settings(
    max_examples=int(os.environ.get("FASTVGAN_FUZZ_COMMANDS", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(command_lines())
def test_any_command_line_ends_soon_with_one_line(place, made):
    command, line = made
    before, begun = files(place), time.process_time()
    status, _, told = call(f"fastvgan.{command}", line)
    assert time.process_time() - begun < 20  # of this process: CI's machines are shared
    assert status in (0, 2), told
    assert "Traceback" not in told
    if status == 2:
        assert told.startswith("error: ") and told.count("\n") == 1 and told.endswith("\n") and len(told) < 2100
    named = [part.partition("=")[2] or part for part in line]
    for path, size in files(place).items():
        if before.get(path) != size:
            assert any(path == name or path.startswith(f"{name.rstrip('/')}/") for name in named if name.strip()), path
