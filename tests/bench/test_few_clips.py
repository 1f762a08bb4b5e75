"""The benchmark of few clips: a row per run, no run twice, and a table over seeds."""

import sys

import few_clips
import pytest
import torch

from fastvgan.errors import UserError


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command with runs that do not train; returns what it ran and printed."""
    ran = []

    def run(folder, clips, augment, seed, steps):
        ran.append((folder.name, clips, augment, seed, steps))
        return {"frechet": 100.0 + seed if augment else 600.0, "kernel": None, "copies": 0.0}

    monkeypatch.setattr(few_clips, "run", run)
    monkeypatch.setattr(few_clips, "head", dict)

    def call(*flags):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["few_clips.py", "--out", str(tmp_path / "rows.jsonl"), *flags])
        few_clips.main()
        return [*ran]

    return call


def test_runs_are_done_once_and_shown_by_augmentation(command, capsys):
    ran = command("--clips", "64", "--seeds", "0", "--steps", "7")
    augment = ("color", "translation", "cutout")
    assert ran == [("64-plain-0", 64, (), 0, 7), ("64-augment-0", 64, augment, 0, 7)]
    assert {seed for *_, seed, _ in command("--clips", "64", "--seeds", "0", "1", "--steps", "7")} == {1}
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "| 64 | none | 2 | 600 ± 0 | - | - | 0 ± 0 |"
    assert lines[-1] == "| 64 | color translation cutout | 2 | 100.5 ± 0.707 | - | - | 0 ± 0 |"


def test_a_file_of_other_runs_and_more_clips_than_there_are_are_refused(command):
    command("--clips", "64", "--seeds", "0", "--steps", "7")
    with pytest.raises(UserError, match="rows.jsonl has rows of 7 steps, not 8; pass another --out"):
        command("--clips", "64", "--seeds", "0", "1", "--steps", "8")
    with pytest.raises(UserError, match="--clips 1281: expected 1 to 1280"):
        command("--clips", "64", "1281")
    assert not command("--clips", "64", "--seeds", "0", "--steps", "7")


def test_drawn_clips_stay_the_same(monkeypatch):
    monkeypatch.setattr(few_clips, "ALL", 8)
    few, more = few_clips.DrawnClips(2), few_clips.DrawnClips(4)
    assert (len(few), len(more)) == (2, 4)
    assert all(torch.equal(few[i]["video"], more[i]["video"]) for i in range(2))
    assert few[0]["video"].dtype == torch.uint8 and few[0]["video"].shape == (16, 16, 16, 3)


@pytest.mark.slow
def test_a_run_has_scores(tmp_path):
    scores = few_clips.run(tmp_path / "run", 16, ("cutout",), 0, 2, evaluated=32)
    assert scores["frechet"] > 0
