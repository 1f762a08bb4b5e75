"""The table of objectives and norms: rows as they come, no cell twice, failures in the table."""

import json
from pathlib import Path

import objectives
import pytest

from fastvgan.errors import UserError


@pytest.fixture(autouse=True)
def no_head(monkeypatch):
    monkeypatch.setattr(objectives, "head", dict)


def bench(monkeypatch, tmp_path, *flags, fails=()):
    """A bench whose commands write the files that fastvgan's would, and note what they were given."""
    calls = []

    def command(self, name, cell, *arguments):
        calls.append((name, cell, [*map(str, arguments)]))
        if cell.objective in fails:
            raise objectives.Failure("train ended with status 2: error: no such objective")
        if name == "evaluate":
            path = Path(arguments[arguments.index("--json") + 1])
            path.write_text(json.dumps({"scores": {"joint": 0.5 + 0.1 * cell.seed, "frechet": {"value": 3.0}}}))
            return
        if name == "modes":
            Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps({"modes": 990, "divergence": 0.25}))
            return
        folder = Path(arguments[arguments.index("--run-dir") + 1])
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text("training: {batch_size: 8}")
        lines = [{"videos_per_second": 1, "skipped": 0}] * 5 + [{"videos_per_second": 4, "skipped": 1}] * 2
        lines += [{"videos_per_second": 4, "skipped": 0}] * 13
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(objectives.Bench, "_command", command)
    options, shared = objectives.parse(["--out", str(tmp_path / "rows.jsonl"), "--discriminators", "clip", *flags])
    return objectives.Bench(options, shared), calls


def test_modes_are_counted_instead_of_scores(monkeypatch, tmp_path):
    flags = ["--steps", "7", "--objectives", "hinge", "--norms", "none", "--seeds", "0", "1", "--modes"]
    counted, calls = bench(monkeypatch, tmp_path, *flags, "--", "--preset", "stacked-digits")
    counted.run()
    assert {name for name, _, _ in calls} == {"train", "modes"}
    lines = list(objectives.table(counted.rows()))
    assert lines[0].endswith("| modes | divergence |") and "| 7 | 4 | 2 | 990 ± 0 | 0.25 ± 0 |" in lines[2]


def test_cells_are_run_once_and_resumed(monkeypatch, tmp_path):
    flags = ["--steps", "7", "--objectives", "hinge", "nonsaturating", "--norms", "none", "--seeds", "0", "1"]
    first, calls = bench(monkeypatch, tmp_path, *flags, "--", "--base-width", "4", fails=("hinge",))
    first.run()
    trained = [arguments for name, cell, arguments in calls if name == "train" and cell.objective != "hinge"]
    assert len(trained) == 2 and all(" ".join(each).startswith("--base-width 4 --objective") for each in trained)
    assert all("--d-norm none" in " ".join(each) and each[each.index("--steps") + 1] == "7" for each in trained)
    lines = list(objectives.table(first.rows()))
    assert len(lines) == 4 and "| hinge | clip | none | - | - | 0, 2 failed | - |" in lines[2]
    assert "| nonsaturating | clip | none | 7 | 4 | 2 | 0.55 ± 0.0707 | - | - | 3 ± 0 | - |" in lines[3]
    again, calls = bench(monkeypatch, tmp_path, *flags, "--", "--base-width", "4")
    again.run()
    assert calls == []
    retried, calls = bench(monkeypatch, tmp_path, *flags, "--retry", "--", "--base-width", "4")
    retried.run()
    assert {cell.objective for _, cell, _ in calls} == {"hinge"} and len(retried.rows()) == 4
    assert all(row["failure"] is None for row in retried.rows())


def test_an_interrupted_run_is_resumed_and_a_row_without_an_end_is_not_one(monkeypatch, tmp_path):
    flags = ["--steps", "7", "--objectives", "nonsaturating", "--norms", "batch", "--seeds", "0"]
    one, calls = bench(monkeypatch, tmp_path, *flags)
    one.run()
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text[:-10])
    other, calls = bench(monkeypatch, tmp_path, *flags)
    other.run()
    assert calls[0][2][-2:] == ["--resume", "auto"] and len(other.rows()) == 1


def test_equal_time_determines_the_steps(monkeypatch, tmp_path):
    flags = ["--minutes", "3", "--objectives", "relativistic", "--norms", "group", "--seeds", "0"]
    one, calls = bench(monkeypatch, tmp_path, *flags)
    one.run()
    assert [name for name, _, _ in calls] == ["train", "train", "evaluate"]
    (row,) = one.rows()
    assert (row["steps"], row["seconds_per_step"]) == (90, 2.0)  # 180 s at 8 clips per step and 4 per second
    assert row["not_finite"] == 2
    assert row["flags"].endswith("--r1 1 --r2 1 --r1-every 1")


def test_each_row_is_timed_once_for_all_seeds_before_the_first_cell_is_trained(monkeypatch, tmp_path):
    flags = ["--minutes", "3", "--objectives", "hinge", "minimax", "--norms", "none", "--seeds", "0", "1"]
    one, calls = bench(monkeypatch, tmp_path, *flags, "--jobs", "1")
    one.run()
    steps = [arguments[arguments.index("--steps") + 1] for name, _, arguments in calls if name == "train"]
    assert steps == ["20", "20", "90", "90", "90", "90"]


def test_another_seed_takes_the_time_of_its_row_from_the_file(monkeypatch, tmp_path):
    flags = ["--minutes", "3", "--objectives", "hinge", "--norms", "none"]
    first, _ = bench(monkeypatch, tmp_path, *flags, "--seeds", "0")
    first.run()
    rows = [row | {"seconds_per_step": 4.0, "steps": 45} for row in first.rows()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other, calls = bench(monkeypatch, tmp_path, *flags, "--seeds", "0", "1", "--work", str(tmp_path / "elsewhere"))
    other.run()
    assert [(name, cell.seed) for name, cell, _ in calls] == [("train", 1), ("evaluate", 1)]
    assert other.rows()[-1]["steps"] == 45
    wide, calls = bench(monkeypatch, tmp_path, *flags, "--seeds", "2", "--", "--base-width", "64")
    wide.run()
    assert [name for name, _, _ in calls] == ["train", "train", "evaluate"]  # other flags: timed again
    assert wide.rows()[-1]["steps"] == 90


def test_a_file_of_other_runs_is_refused_before_anything_runs(monkeypatch, tmp_path):
    flags = ["--objectives", "hinge", "--norms", "none", "--seeds", "0"]
    first, _ = bench(monkeypatch, tmp_path, "--minutes", "3", *flags)
    first.run()
    for others in (["--minutes", "6", *flags], ["--steps", "7", *flags], ["--minutes", "3", *flags, "--", "--warp"]):
        other, calls = bench(monkeypatch, tmp_path, *others)
        with pytest.raises(UserError, match="rows.jsonl has hinge-clip-none-0 of 90 steps with the flags '--objective"):
            other.run()
        assert calls == []
    same, calls = bench(monkeypatch, tmp_path, "--steps", "90", *flags)
    same.run()
    assert calls == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--out", "rows"], "--out rows: expected a name with an ending, such as rows.jsonl"),
        (["--out", "missing/rows.jsonl"], "cannot write missing/rows.jsonl: the folder missing does not exist"),
        (["--out", "rows.jsonl", "--flags", "hinge"], "--flags hinge: expected OBJECTIVE=FLAGS, with one of nonsatur"),
        (["--out", "rows.jsonl", "--flags", "huge=--r1 1"], "--flags huge=--r1 1: expected OBJECTIVE=FLAGS, with one"),
    ],
)
def test_wrong_options_are_refused(monkeypatch, tmp_path, flags, sentence):
    monkeypatch.chdir(tmp_path)
    options, shared = objectives.parse(["--steps", "7", *flags])
    with pytest.raises(UserError, match=sentence):
        objectives.Bench(options, shared)
