"""Profiles of steps: what they hold, and what happens where the loop ends early or nothing can be written."""

import json
import logging
import re
import time

import pytest
import torch

from fastvgan.training.profiling import StepProfile, measure_coverage

CPU = torch.device("cpu")


def loop(folder, steps, count, skip=2, pause=0.0):
    """Matrix products of different sizes, which show the recorded steps."""
    with StepProfile(folder, count, CPU, skip) as profile:
        for number in range(steps):
            torch.ones(2, 10 + number) @ torch.ones(10 + number, 3)
            time.sleep(pause)
            profile.step()


def products(folder):
    """The inner sizes of the matrix products in the trace."""
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    return [event["args"]["Input Dims"][0][1] for event in events if event.get("name") == "aten::mm"]


def test_the_steps_after_the_first_ones_are_recorded(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loop(tmp_path / "a" / "b", steps=8, count=3, pause=0.02)
    folder = tmp_path / "a" / "b"
    assert products(folder) == [12, 13, 14]
    first, *rest = (folder / "table.txt").read_text().splitlines()
    found = re.fullmatch(
        r"3 steps of ([0-9.]+) ms; no operation ran on the host's threads in ([0-9.]+)% of that time", first
    )
    assert 20 <= float(found[1]) < 1000 and 30 < float(found[2]) < 100
    assert any("aten::mm" in row for row in rest) and any("Self CPU" in row for row in rest)
    (message,) = [record.message for record in caplog.records if record.name == "fastvgan"]
    assert message.startswith("profile of 3 steps") and str(folder / "trace.json") in message
    assert sorted(path.name for path in folder.iterdir()) == ["table.txt", "trace.json"]


def test_files_are_there_as_soon_as_the_steps_are_recorded(tmp_path):
    with StepProfile(tmp_path, 1, CPU, skip=1) as profile:
        for number in range(3):
            torch.ones(2, 2) @ torch.ones(2, 2)
            assert (tmp_path / "trace.json").exists() == (number == 2)
            profile.step()


def test_a_busy_loop_is_not_idle(tmp_path):
    with StepProfile(tmp_path, 2, CPU, skip=1) as profile:
        for _ in range(3):
            torch.ones(600, 600) @ torch.ones(600, 600)
            profile.step()
    idle = re.search(r"threads in ([0-9.]+)%", (tmp_path / "table.txt").read_text())
    assert float(idle[1]) < 50


@pytest.mark.parametrize("steps", [3, 4])
def test_a_loop_that_ends_early_leaves_what_was_recorded(tmp_path, steps):
    loop(tmp_path, steps, count=50)
    assert products(tmp_path) == list(range(12, 10 + steps))
    assert (tmp_path / "table.txt").read_text().startswith(f"{steps - 2} steps of ")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_loop_too_short_to_record_says_so(tmp_path, caplog, steps):
    loop(tmp_path / "none", steps, count=5)
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert message == f"no step was profiled: the loop ended after {steps} steps, and the first 2 are skipped"
    assert not (tmp_path / "none").exists()


def test_an_error_in_the_loop_comes_through(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), StepProfile(tmp_path, 5, CPU, skip=1) as profile:
        for _ in range(3):
            torch.ones(2, 2) @ torch.ones(2, 2)
            profile.step()
        raise RuntimeError("mine")
    assert len(products(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    loop(tmp_path / "file" / "profile", steps=6, count=2)
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("the profile of 2 steps is lost: ") and "file" in message


def test_a_trace_that_is_cut_off_is_one_warning(tmp_path, caplog, monkeypatch):
    """As on a full disk, where torch raises nothing and leaves a temporary file."""

    def export(self, path):
        for name in (path, f"{path}.tmp"):
            with open(name, "w") as file:
                file.write('{"traceEvents": [')

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    loop(tmp_path, steps=6, count=2)
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "trace.json: the file is truncated" in message and not list(tmp_path.iterdir())


def test_without_steps_to_record_nothing_is_done(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loop(tmp_path, steps=4, count=0)
    assert not list(tmp_path.iterdir()) and not caplog.records


def test_the_time_covered_by_spans():
    assert measure_coverage([(4, 6), (0, 2), (1, 3), (1, 2)], 0, 10) == 5
    assert measure_coverage([(-5, 1), (9, 20), (30, 40)], 0, 10) == 2
    assert measure_coverage([], 0, 10) == 0


@pytest.mark.gpu
def test_on_a_gpu_its_operations_are_recorded(tmp_path):
    device = torch.device("cuda")
    with StepProfile(tmp_path, 3, device, skip=1) as profile:
        for _ in range(4):
            torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
            profile.step()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(event.get("cat") == "kernel" for event in events)
    first = (tmp_path / "table.txt").read_text().splitlines()[0]
    assert re.search(r"nothing on the GPU in [0-9.]+% of that time$", first)
