"""Settings that a user names and that would change nothing are refused, by the command and from Python."""

import types

import pytest
import torch
from commands import call

import fastvgan
from fastvgan.errors import UserError
from fastvgan.random_draws import global_seed
from fastvgan.training.loop import TrainingLoop

CASES = [
    ({"contrast": 3.0, "condition": "none"}, "--contrast 3.0 has no effect without a --condition; add that, or leave"),
    ({"diversity": 5.0, "condition": "none", "contrast": 0.0}, "--diversity 5.0 has no effect without a --condition"),
    ({"feature_diversity": 3.0, "condition": "none"}, "--feature-diversity 3.0 has no effect without a --condition"),
    ({"wrong_conditions": 5, "condition": "none"}, "--wrong-conditions 5 has no effect without --condition text"),
    ({"wrong_conditions": 64, "condition": "image"}, "--wrong-conditions 64 has no effect without --condition text or"),
    (
        {"wrong_conditions": 5, "matching_aware": False, "contrast": 0.0},
        "--wrong-conditions 5 has no effect without --condition text or class, and --matching-aware; add that",
    ),
    ({"first_frame": 2.0}, "--first-frame 2.0 has no effect without --condition image"),
    ({"redraw": 3.0, "warp": False}, "--redraw 3.0 has no effect without --warp"),
    ({"motion_latent": 3, "family": "conv3d"}, "--motion-latent 3 has no effect without --family recurrent"),
    ({"time_margin": True}, "--time-margin has no effect without --family conv3d"),
    ({"frame_every": 4, "discriminators": "clip"}, "--frame-every 4 has no effect without --discriminators frame"),
    ({"augment_strength": 0.5}, "--augment-strength 0.5 has no effect without --augment"),
    ({"augment": "color", "augment_clips": 9}, "--augment-clips 9 has no effect without --augment-target"),
    ({"r1_every": 4}, "--r1-every 4 has no effect without --r1 or --r2"),
    ({"text_model": "sequence", "condition": "class"}, "--text-model sequence has no effect without --condition text"),
    ({"stride": 2}, "--stride 2 has no effect without clips of your own"),
    ({"max_stride": 2}, "--max-stride 2 has no effect without clips of your own"),
    ({"crop": "center"}, "--crop center has no effect without clips of your own"),
    ({"max_bad": 0.25}, "--max-bad 0.25 has no effect without clips of your own"),
    ({"tolerant": True}, "--tolerant has no effect without clips of your own"),
    ({"root": "x"}, "--root x has no effect without clips of your own"),
    ({"follow_links": True}, "--follow-links has no effect without clips of your own"),
    ({"share_seed": 5}, "--share-seed 5 has no effect without --share"),
    ({"hold_out": 0.0, "hold_out_seed": 3}, "--hold-out-seed 3 has no effect without --hold-out"),
    ({"steps": 5, "epochs": 100}, "--steps 5 and --epochs 100 exclude each other; pass one"),
    (
        {"captions": "free", "feature_diversity": 2.0},
        "--feature-diversity compares clips of one caption, and --captions",
    ),
]
GOOD = [
    {"contrast": 0.0, "condition": "none"},
    {"r1_every": 4, "r2": 1.0},
    {"wrong_conditions": 64, "condition": ("image", "class")},
    {"share": 0.5, "share_seed": 5, "hold_out": 0.25, "hold_out_seed": 3},
    {"frame_every": 2, "discriminators": ("frame", "clip")},
    {"diversity_rise": 0.5, "feature_diversity": 1.0},
]


@pytest.mark.parametrize(("settings", "sentence"), CASES)
def test_a_setting_without_effect_is_refused(tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        fastvgan.Trainer("digits", run_dir=tmp_path / "r", **settings)
    flags = []
    for name, value in settings.items():
        name = name.replace("_", "-")
        flags += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    status, _, error = call("fastvgan.train", [*flags, "--run-dir", str(tmp_path / "r")])
    assert status == 2 and sentence in error and not (tmp_path / "r").exists()


@pytest.mark.parametrize("settings", GOOD)
def test_settings_with_an_effect_or_of_a_preset_are_not(tmp_path, settings):
    fastvgan.Trainer("digits", run_dir=tmp_path / "r", base_width=2, **settings)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"data": ""}, "data is an empty string; pass a path, or leave it out"),
        ({"run_dir": ""}, "run_dir is an empty string"),
        ({"resume": ""}, "resume is an empty string"),
        ({"run_dir": 5}, "run_dir: expected a path, not int"),
        ({"wandb": ""}, "wandb is an empty string; pass a value, or leave it out"),
    ],
)
def test_empty_names_are_refused_from_python_as_by_the_command(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        fastvgan.Trainer("digits", base_width=2, **arguments)
    assert not list(tmp_path.iterdir())


def test_tf32_has_too_few_digits_for_finite_differences(tmp_path):
    with pytest.raises(UserError, match="--penalty finite-difference needs the digits of float32"):
        fastvgan.Trainer("digits", run_dir=tmp_path / "r", r1=1.0, penalty="finite-difference", precision="tf32")


def test_no_step_of_any_process_has_the_seed_of_another_one(monkeypatch):
    """What a user's own network draws, such as dropout, is then new in each."""
    seeds = []
    monkeypatch.setattr("fastvgan.training.loop.seed_everything", lambda seed, device: seeds.append(seed))
    config = types.SimpleNamespace(training=types.SimpleNamespace(seed=3))
    for done in range(5):
        for rank in range(3):
            parallel = types.SimpleNamespace(rank=rank, world_size=3)
            loop = types.SimpleNamespace(config=config, parallel=parallel, done=done, device=torch.device("cpu"))
            loop.runner = lambda number, clips: None
            TrainingLoop._run_step(loop, None)
    assert len(set(seeds)) == 15 and seeds[0] == global_seed(3, 0)
