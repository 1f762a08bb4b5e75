"""bench/compare.py: it refuses sides that compute something else, sides take turns, and the table is of the medians."""

import json
import math
import sys
from contextlib import contextmanager

import compare
import pytest
import torch
from bench_command import run
from comparison import lightning_gan, rows, tables
from comparison.layers import LoopedConvLSTM, OurConvLSTM
from support.variants import STOCK
from torch import nn


@pytest.mark.slow
def test_every_row_is_checked_timed_and_written(tmp_path):
    """One row of each kind; Lightning is not installed by this project."""
    file = tmp_path / "found.json"
    names = ["step-fp32", "loading", "conv-lstm-bf16", "generation-bf16"]
    text = run("bench/compare.py", "--quick", "--out", file, "--only", *names)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]] == names and not found["failed"] and found["tiny"]
    assert {"cpu", "threads", "commit", "date", "load_at_start"} <= set(found) and found["versions"]["torch"]
    for row in found["rows"]:
        assert row["check"]["difference"] <= row["check"]["tolerance"]
        assert all(side["q1_ms"] <= side["median_ms"] <= side["q3_ms"] for side in row["sides"].values())
    assert [len(row["sides"]) for row in found["rows"]] == [5, 3, 5, 5]
    table = file.with_suffix(".md").read_text(encoding="utf-8")
    assert table in text and "SMALL PROBLEMS" in table and table.count("\n| ") == 2 + 4 + 2 + 4 + 4
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_row_without_its_package_says_so_and_bad_arguments_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(rows.Missing, match="pip install lightning"):
        lightning_gan.Training(nn.Identity(), nn.Identity(), torch.zeros(1), 1)
    for arguments, message in (
        (["--out", str(tmp_path / "x.txt")], "must end in .json"),
        ([], "pass either --out"),
        (["--from", str(tmp_path / "nowhere.json")], "cannot read"),
    ):
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        with pytest.raises(compare.UserError, match=message):
            compare.main()
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(compare.UserError, match="it has no 'missing'"):
        compare.read(tmp_path / "other.json")


def test_every_variant_of_stock_has_a_name():
    names = rows.name_stock("a loop", "its compilation")
    assert list(names.values()) == STOCK and len(names) == 4
    assert names["a loop"] == "eager-contiguous"
    assert names["its compilation, channels_last_3d"] == "compile-channels_last"


def test_sides_that_differ_are_not_timed():
    calls = []

    @contextmanager
    def open_row():
        check = rows.Check("losses", 0.2, 0.1)
        yield rows.Opened({"fastvgan": lambda: calls.append(1)}, check)

    with pytest.raises(AssertionError, match="losses: 0.2 is more than 0.1"):
        rows.measure(rows.Row("x", "work", open_row))
    assert not calls
    with pytest.raises(AssertionError):
        rows.Check("losses", math.nan, 0.1).require()


def test_every_side_begins_a_round_in_turn_and_sides_may_measure_themselves():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    sides["b"] = lambda: calls.append("b") or [1.0, 3.0]
    times = rows.time_in_turns(sides, 0, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert times.samples["b"] == [1.0, 3.0] * 3 and len(times.samples["a"]) == 3
    assert times.as_json()["b"] == {"median_ms": 2000, "q1_ms": 1000, "q3_ms": 3000, "samples": 6}


def test_differences_are_relative_to_each_tensor():
    one, ten = torch.ones(2), torch.full((2,), 10.0)
    assert rows.largest_relative_error([one, ten + 1], [one, ten]) == pytest.approx(0.1)
    assert rows.largest_relative_error([one * 1.5, ten], [one, ten]) == pytest.approx(0.5)
    for wrong in (math.nan, math.inf):
        assert rows.largest_relative_error([one, ten * wrong], [one, ten]) == math.inf
        assert rows.largest_relative_error([one, ten], [one * wrong, ten]) == math.inf


def test_the_conv_lstm_of_public_code_is_that_of_its_equations():
    """In float64, written out by equation 3 of Shi et al. 2015, and ours with its weights."""
    torch.manual_seed(0)
    loop = LoopedConvLSTM(3).double()
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weights, bias = loop.cell.conv.weight.chunk(4), loop.cell.conv.bias.chunk(4)
    h = c = torch.zeros(2, 3, 5, 6, dtype=torch.float64)
    for t in range(4):
        i, f, o, g = (
            nn.functional.conv2d(x[:, :, t], w[:, :3], b, padding=1) + nn.functional.conv2d(h, w[:, 3:], padding=1)
            for w, b in zip(weights, bias, strict=True)
        )
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    torch.testing.assert_close(loop(x)[:, :, -1], h)
    ours = OurConvLSTM(loop).double()
    theirs = torch.autograd.grad(loop(x).square().sum(), (x, *loop.parameters()))
    mine = torch.autograd.grad(ours(x).square().sum(), (x, *ours.parameters()))
    found = ours.in_loops_order((ours(x), *mine))
    for a, b in zip(found, (loop(x), *theirs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture
def found():
    def side(median, spread):
        return {"median_ms": median, "q1_ms": median - spread / 2, "q3_ms": median + spread / 2, "samples": 9}

    sides = {
        "plain": side(300.0, 10),
        "compiled": side(20.0, 1),
        "fastvgan": side(10.0, 0.5),
        "fastvgan, b": side(5, 1),
    }
    check = {"what": "losses", "difference": 0.001, "tolerance": 0.01}
    return {
        **{"cpu": "A CPU", "device": "cpu", "threads": 2, "load_at_start": 0.1, "commit": "c", "date": "2026-11-28"},
        **{"tiny": False, "versions": {"torch": "2.13", "cuda": None}, "failed": {"gen": "off by 1"}},
        "missing": {"lightning": "pip install lightning"},
        "rows": [{"name": "step", "work": "a step", "sides": sides, "check": check}],
    }


def test_the_table_and_the_plot_are_of_the_medians(found, tmp_path):
    text = tables.as_markdown(found)
    assert text.startswith("A CPU, threads: 2, load 0.1 at the start, torch 2.13, commit c, 2026-11-28\n")
    assert "| a step | plain | 300 (10) | fastvgan | 10.0 (0.5) | 30.00 |" in text
    assert "|  | compiled | 20.0 (1.0) | fastvgan, b | 5.00 (1.00) | 4.00 |" in text
    assert "| lightning | not measured: pip install lightning |" in text
    assert "- gen: FAILED: off by 1" in text and "- step: losses: 0.001 (at most 0.01)" in text
    tables.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
