"""Runs that begin side by side, each in another folder, and runs that continue in another folder."""

import json

import pytest
from saved import train
from tiny import Unscored, tiny

from fastvgan.errors import UserError
from fastvgan.runs.config import read_config
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import output
from fastvgan.training.run.resume import find_start


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "Scoring", Unscored)


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("resume", [None, "auto"])
def test_runs_that_begin_at_the_same_time_take_one_folder_each(resume):
    loops = [TrainingLoop(tiny(steps=2, seed=seed), find_start("t", None, resume)) for seed in range(3)]
    assert {loop.folder.as_posix() for loop in loops} == {"runs/t-1"}
    for number, loop in enumerate(loops, 1):
        assert loop.run() == 0 and loop.folder.as_posix() == f"runs/t-{number}"
    for number, loop in enumerate(loops, 1):
        assert read_config(loop.folder / "config.yaml").training.seed == number - 1
        assert [json.loads(line)["step"] for line in (loop.folder / "metrics.jsonl").open()] == [2]
        assert (loop.folder / "checkpoints" / "step-2").is_dir()


def test_a_named_folder_is_for_the_first_of_them(tmp_path):
    first, second = (TrainingLoop(tiny(steps=2, seed=seed), find_start("t", tmp_path / "r", None)) for seed in (0, 1))
    assert first.run() == 0
    before = content(tmp_path / "r")
    with pytest.raises(UserError, match="r already holds a run; resume it with --resume auto, or use another"):
        second.run()
    assert content(tmp_path / "r") == before


def test_a_checkpoint_does_not_continue_in_the_folder_of_another_run(tmp_path):
    for name in ("a", "b"):
        train(tmp_path / name, steps=2)
    before = content(tmp_path)
    with pytest.raises(UserError, match="b already holds a run"):
        find_start("t", tmp_path / "b", str(tmp_path / "a" / "checkpoints" / "step-2"))
    assert content(tmp_path) == before
    same = find_start("t", tmp_path / "b" / ".." / "a", str(tmp_path / "a" / "checkpoints" / "step-2"))
    assert not same.is_new


def test_two_runs_do_not_continue_a_checkpoint_in_the_same_new_folder(tmp_path):
    train(tmp_path / "a", steps=2)
    loops = [
        TrainingLoop(tiny(steps=3), find_start("t", tmp_path / "b", str(tmp_path / "a" / "checkpoints" / "step-2")))
        for _ in range(2)
    ]
    assert loops[0].run() == 0
    with pytest.raises(UserError, match="b already holds a run"):
        loops[1].run()


@pytest.mark.parametrize("folder", ["/", "/tmp"])
def test_a_folder_at_the_root_is_no_run(folder):
    with pytest.raises(UserError, match="neither a run folder"):
        find_start("t", None, folder)
