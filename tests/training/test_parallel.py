"""Two processes compute the same as one, and any number of processes resumes from their checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import commands
import pytest
import torch
from commands import ROOT
from safetensors.torch import load_file
from tiny import FLAGS
from together import PARTS, compare_two_processes

SETTINGS = {"batch_size": 8, "diversity": 2.0, "redraw": 2.0, "r1": 0.1, "r1_every": 2, "lr_generator": 1e-3}
SETTINGS |= {"contrast": 0.5, "wrong_conditions": 3, "feature_diversity": 1.5}
ALL = {"discriminators": ("clip", "difference", "frame"), "frame_every": 2, "warp": True, "clock": True}
AUGMENTED = {"augment": ("color", "translation", "cutout"), "augment_target": 0.1, "augment_clips": 40}
# Losses are rounded to float32, which Adam enlarges by its rate where a gradient is near 0.
AUGMENTED |= {"coherence": 2.0, "lr_generator": 1e-4}


@pytest.mark.parametrize(
    ("family", "condition", "norm", "more"),
    [
        ("conv3d", PARTS, "batch", {}),
        ("recurrent", PARTS, "batch", AUGMENTED),
        ("recurrent", ("class",), "batch", {"batch_size": 16, "accumulate": 2}),
        ("conv3d", ("class",), "group", {}),
        ("recurrent", ("class",), "spectral", {}),
    ],
)
def test_two_processes_are_one_at_the_same_batch(tmp_path, family, condition, norm, more):
    """In float64, so that nothing but a mistake can differ: weights, averages, moments, statistics after 4 steps.

    First frames are all different; of a class there are clips in both processes, for --feature-diversity to compare.
    """
    of_d = {"d_norm": norm, "d_blocks": int(norm != "batch")}
    model = {"family": family, "condition": condition, **of_d, **ALL}
    compare_two_processes(tmp_path, SETTINGS | {"model": model, **more})


EVERY_STEP = {"r1": 0.2, "r2": 0.1, "r1_every": 1}


@pytest.mark.parametrize(
    "training",
    [
        {"objective": "relativistic", **EVERY_STEP},
        {"objective": "relativistic", **EVERY_STEP, "penalty": "finite-difference"},
        {"objective": "wgan-gp", "gp": 10.0, "r1": 0.0},
        {"objective": "hinge", **EVERY_STEP},
    ],
    ids=["relativistic", "differences", "wgan-gp", "hinge"],
)
def test_two_processes_are_one_with_every_objective(tmp_path, training):
    model = {"family": "recurrent", "condition": PARTS, **ALL}
    # Losses are rounded to float32, as above.
    settings = SETTINGS | {"feature_diversity": 0.0, "lr_generator": 1e-4, "model": model, **training}
    compare_two_processes(tmp_path, settings, 1e-4)


def train(folder, *more, processes=1):
    command = ["fastvgan.train"]
    if processes > 1:
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m", *command]
    flags = [
        *FLAGS,
        "--preset",
        "clips",  # that of the digits enlarges float32's rounding too much to compare; in float64 it is compared above
        "--batch-size",
        "8",
        "--lr-decay",
        "0",
        "--base-width",
        "8",  # of fewer features, a single one whose sign differs changes the gradient
        "--lr-generator",
        "1e-4",
        "--lr-discriminator",
        "1e-4",
        "--checkpoint-every",
        "2",
        "--keep",
        "9",
        "--run-dir",
        str(folder),
        *more,
    ]
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        return commands.run(*command, *flags)


def assert_same(a, b, step):
    one, other = (load_file(folder / "checkpoints" / f"step-{step}" / "state.safetensors") for folder in (a, b))
    assert one.keys() == other.keys()
    for name, value in one.items():
        # Adam enlarges the rounding of gradients near 0: by 1e-5 after two steps, where a weight moves by 1e-4 a step.
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_torchrun_trains_what_one_process_does_and_either_goes_on_for_the_other(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    done = train(two, "--steps", "4", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1 and "on cpu in 2 processes" in (two / "log.txt").read_text()
    again = train(two, "--steps", "6", "--resume", "auto")
    assert again.returncode == 0, again.stderr
    alone = train(one, "--steps", "6")
    assert alone.returncode == 0, alone.stderr
    for step in (2, 4, 6):
        assert_same(one, two, step)
    mine, theirs = ([json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, two))
    for a, b in zip(mine, theirs, strict=True):
        for key in (
            "step",
            "d_loss",
            "g_loss",
            "d_real",
            "d_fake",
            "diversity",
            "d_grad_norm",
            "g_grad_norm",
            "skipped",
        ):
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-5), key
    shutil.rmtree(one / "checkpoints" / "step-6")
    other = train(one, "--steps", "6", "--resume", "auto", processes=2)
    assert other.returncode == 0, other.stderr
    assert_same(one, two, 6)
    refused = train(one, "--steps", "6", processes=2)
    assert refused.returncode != 0 and "error: " in refused.stderr and "already holds a run" in refused.stderr


# A callback that takes longer than the watchdog allows a step.
_SLOW = """
import sys, time
import fastvgan
import fastvgan.training.run.output as output
from tiny import Unscored, tiny

class Slow(fastvgan.Callback):
    def on_checkpoint(self, trainer, path):
        time.sleep(6)

output.Scoring = Unscored
config = tiny({"condition": ()}, checkpoint_every=2, steps=4, matching_aware=False, watchdog=3)
assert fastvgan.Trainer(config, data="digits", run_dir=sys.argv[1], callbacks=[Slow()]).train().step == 4
"""


@pytest.mark.slow
def test_processes_wait_while_the_first_one_runs_a_callback(tmp_path):
    (tmp_path / "slow.py").write_text(_SLOW)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "training")])
    done = subprocess.run(
        [*command, str(tmp_path / "slow.py"), str(tmp_path / "r")],
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "no progress" not in done.stderr, done.stderr
    assert (tmp_path / "r" / "checkpoints" / "step-4").is_dir()


def test_an_incomplete_environment_of_processes_is_an_error(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "fastvgan.train", "--run-dir", str(tmp_path / "r")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "WORLD_SIZE is 2, but RANK" in done.stderr and "torchrun" in done.stderr
