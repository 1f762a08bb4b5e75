"""`python -m fastvgan.train` as a process: what it leaves, and how it ends when something ends it."""

import json
import os
import random
import signal
import subprocess
import time

import commands
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from tiny import FLAGS

from fastvgan.runs.checkpoint import list_complete
from fastvgan.training.run.scoring import Scored, Scoring


def run(*flags, **options):
    return commands.run("fastvgan.train", *FLAGS, *flags, **options)


def call(*flags):
    """The same in this process: status, stdout and stderr."""
    return commands.call("fastvgan.train", [*FLAGS, *flags])


def start(*flags):
    return commands.start("fastvgan.train", *FLAGS, *flags)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


def test_a_run_leaves_what_the_readme_says(tmp_path):
    done = run("--steps", "4", "--sample-every", "2", "--run-dir", str(tmp_path / "r"))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "r"
    for line in ("run folder:", "samples:", "generator:", "best:", "report:"):
        assert line in done.stdout
    scores = json.loads((folder / "evaluation.jsonl").read_text().splitlines()[-1])
    assert scores["step"] == 4
    assert f"\nbest:       {folder / 'export' / 'best.safetensors'} (step-4)\n" in done.stdout
    assert f"\nscores:     step-4: joint {scores['joint']:.1%}, digit {scores['digit']:.1%}, colour" in done.stdout
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["base_width"] == 2
    assert "torch" in json.loads((folder / "env.json").read_text())
    assert "240" not in (folder / "log.txt").read_text() or "digits" in (folder / "log.txt").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for name in ("d_loss", "g_loss", "d_real", "d_fake", "videos_per_second", "data_wait"):
        assert all(isinstance(line[name], float) for line in lines)
    assert list((folder / "tb").glob("events*"))
    for number in (2, 4):
        with Image.open(folder / "samples" / f"step-{number:06d}.gif") as gif:
            assert gif.n_frames == 16
        assert (folder / "samples" / f"step-{number:06d}.png").is_file()
    with safe_open(folder / "export" / "generator.safetensors", "pt") as file:
        assert json.loads(file.metadata()["fastvgan"])["latent"] == 4


def test_the_best_model_and_the_last_scores_are_printed_with_the_step_of_each(tmp_path, monkeypatch):
    found = iter([Scored({"joint": 0.75}, 1.0, []), Scored({"joint": 0.5}, 2.0, [])])
    monkeypatch.setattr(Scoring, "measure", lambda self: next(found))
    flags = ["--steps", "4", "--evaluate-every", "2", "--run-dir", str(tmp_path / "r")]
    status, out, _ = call("--condition", "none", *flags)
    printed = out.splitlines()
    assert status == 0
    assert f"best:       {tmp_path / 'r' / 'export' / 'best.safetensors'} (step-2)" in printed
    assert "scores:     step-4: joint 50.0%" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, number):
    process = start("--steps", "100000", "--run-dir", str(tmp_path / "r"))
    metrics = tmp_path / "r" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output and "--resume auto" in output
    (saved,) = list_complete(tmp_path / "r" / "checkpoints")
    steps = int(saved.name.removeprefix("step-"))
    assert steps >= 2
    status, _, errors = call("--steps", str(steps + 2), "--run-dir", str(tmp_path / "r"), "--resume", "auto")
    assert not status, errors
    assert list_complete(tmp_path / "r" / "checkpoints")[-1].name == f"step-{steps + 2}"


def test_killed_at_any_moment_it_goes_on(tmp_path):
    """Checkpoints without a pause, so that most kills fall into a save."""
    folder = tmp_path / "r"
    flags = ("--steps", "100000", "--checkpoint-every", "1", "--run-dir", str(folder), "--resume", "auto")
    draw = random.Random(0)
    reached = 0
    for _ in range(2):  # test_kill.py does it more often
        process = start(*flags)
        wait_for(lambda least=reached: _last(folder) > least, process)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.communicate()
        before, reached = reached, _steps(list_complete(folder / "checkpoints")[-1])
        assert reached > before
    status, _, errors = call("--steps", str(reached + 1), "--run-dir", str(folder), "--resume", "auto")
    assert not status, errors
    assert _steps(list_complete(folder / "checkpoints")[-1]) == reached + 1
    assert not list((folder / "checkpoints").glob(".unfinished*"))


def _last(folder):
    found = list_complete(folder / "checkpoints")
    return _steps(found[-1]) if found else 0


def _steps(path):
    return int(path.name.removeprefix("step-"))


@pytest.mark.slow
def test_a_full_disk_is_said_and_costs_no_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        done = run("--steps", "16", "--checkpoint-every", "1", "--keep", "999", "--run-dir", str(disk / "r"))
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and "disk is full" in last and "--resume auto" in last
        assert "Traceback" not in done.stderr
        assert "cannot write the checkpoint of step 15: the disk is full; make room; training continues" in (
            done.stderr
        )
        kept = list_complete(disk / "r" / "checkpoints")
        assert kept
        for path in kept[:-2]:
            (path / "state.safetensors").unlink()
            (path / "state.json").unlink()
        flags = ("--steps", str(_steps(kept[-1]) + 1), "--run-dir", str(disk / "r"), "--resume", "auto")
        again = run(*flags)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--preset", "nonsense"], "unknown preset 'nonsense'; use one of digits,"),
        (["--nonsense", "3"], "unknown flag --nonsense"),
        (["--height", "17"], "--height 17: must be a power of two from 16 to 128"),
        (["--data", "missing-folder"], "missing-folder"),
        (["--data", "missing-folder", "--steps", "5", "--epochs", "3"], "--steps 5 and --epochs 3 exclude each other"),
        (["--config", "missing.yaml"], "cannot read the configuration missing.yaml"),
        (["--resume", "missing"], "--resume missing: this folder does not exist"),
        (["--run-dir", "/proc/x"], "cannot write the run folder /proc/x"),
        (["--device", "cuda"], "torch sees no CUDA device"),
        (["--preset", "digits", "--config", "x.yaml"], "pass one of them"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path, monkeypatch, flags, sentence):
    if "cuda" in flags:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(tmp_path)
    status, _, errors = call(*flags)
    assert status == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: ") and sentence in last
    assert list(tmp_path.iterdir()) == []


def test_a_value_of_the_wrong_type_is_status_2(tmp_path):
    done = run("--steps", "many", cwd=tmp_path)
    assert (
        done.returncode == 2 and "--steps" in done.stderr and "many" in done.stderr and "Traceback" not in done.stderr
    )


def test_print_config_can_be_read_back_and_dry_run_writes_nothing(tmp_path):
    printed = run("--print-config", "--height", "32", cwd=tmp_path)
    assert printed.returncode == 0 and yaml.safe_load(printed.stdout)["model"]["height"] == 32
    (tmp_path / "mine.yaml").write_text(printed.stdout)
    dry = run("--config", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0 and "16 frames of 32x16x3" in dry.stdout, dry.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("preset", ["digits", "digits-conv3d"])
@pytest.mark.parametrize(("flag", "value"), [("--warp", True), ("--no-warp", False)])
def test_a_switch_takes_both_spellings_whatever_the_preset_says(preset, flag, value):
    status, printed, errors = commands.call("fastvgan.train", ["--preset", preset, flag, "--print-config"])
    assert not status, errors
    assert yaml.safe_load(printed)["model"]["warp"] is value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {height: 20}", "mine.yaml: height 20: must be"),
        ("x: 1", "x: is not a setting"),
        ("{", "not a YAML file"),
        ("", "no settings"),
    ],
)
def test_a_bad_configuration_file_is_named(tmp_path, monkeypatch, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    status, _, errors = call("--config", "mine.yaml")
    assert status == 2 and sentence in errors and "mine.yaml" in errors
