"""Which preset a command starts from, and that each of them can be built."""

import pytest
import yaml
from commands import call

import fastvgan
from fastvgan.command_line import read_flags
from fastvgan.data import open_source
from fastvgan.models import build
from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS
from fastvgan.train import Arguments, _request
from fastvgan.training.conditions import add_vocabulary
from fastvgan.training.run.request import find_base, override


def settings(*flags):
    """What --print-config prints for these flags."""
    status, out, err = call("fastvgan.train", [*flags, "--print-config"])
    assert status == 0, err
    return RunConfig.model_validate(yaml.safe_load(out))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_can_be_built_and_read_back(name):
    config = PRESETS[name]
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config
    source = open_source(config.data, config.model)
    model = add_vocabulary(config.model, source)
    small = model.model_copy(update={"base_width": 2})
    generator, discriminator = build(small)
    assert sum(p.numel() for p in generator.parameters()) and discriminator.names == config.model.discriminators
    captions = 216 if config.data.hold_out else 240
    assert len(source.captions) == (captions if config.data.data == "digits" else 0)


@pytest.mark.parametrize(
    ("flags", "preset", "held_out"),
    [
        ([], "digits", 0.1),
        (["--data", "digits"], "digits", 0.1),
        (["--data", "my-clips"], "clips", 0.0),
        (["--preset", "digits-recurrent", "--data", "my-clips"], "digits-recurrent", 0.0),
        (["--preset", "clips-64", "--data", "my-clips"], "clips-64", 0.0),
        (["--preset", "digits-class"], "digits-class", 0.0),
        (["--data", "stacked-digits"], "stacked-digits", 0.0),
    ],
)
def test_the_data_decides_what_a_command_starts_from(flags, preset, held_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, _ = find_base(_request(read_flags(Arguments, flags)))
    assert config.model == PRESETS[preset].model and config.training == PRESETS[preset].training
    assert config.data.hold_out == held_out


def test_named_epochs_count_instead_of_the_steps_of_a_preset_or_a_file(tmp_path):
    (tmp_path / "given.yaml").write_text("training: {steps: 7, batch_size: 32}")
    for start, name in (("--preset", "digits"), ("--config", str(tmp_path / "given.yaml"))):
        training = settings(start, name, "--epochs", "5").training
        assert (training.steps, training.epochs, training.batch_size) == (None, 5, 32)
    trainer = fastvgan.Trainer("digits", run_dir=tmp_path / "r", base_width=2, epochs=5)
    pictures = open_source(trainer.config.data, trainer.config.model).size
    assert trainer.steps == 5 * pictures // 32 != 2000
    assert settings("--steps", "None", "--epochs", "5").training.steps is None


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_with_its_settings(tmp_path):
    (tmp_path / "r").mkdir()
    config = override(PRESETS["stacked-digits"], {"base_width": 2, "seed": 5, "steps": 3})
    (tmp_path / "r" / "config.yaml").write_text(config.to_yaml())
    again = ["--run-dir", str(tmp_path / "r"), "--resume", "auto"]
    assert settings(*again) == settings(*again, "--data", "stacked-digits") == config
    clips = config.model_copy(update={"data": config.data.model_copy(update={"data": str(tmp_path / "clips")})})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(clips.to_yaml())
    other = ["--run-dir", str(tmp_path / "other"), "--resume", "auto", "--data"]
    assert settings(*other, f"{tmp_path}/./clips/").training == config.training  # the same folder
    assert settings(*again, "--batch-size", "8") == override(config, {"batch_size": 8})
    trainer = fastvgan.Trainer(run_dir=tmp_path / "r", resume="auto")
    assert (trainer.config, trainer.step, trainer.steps) == (config, 0, 3)
    assert settings(*again, "--data", "digits") == PRESETS["digits"]  # another run, which takes the folder
    said = fastvgan.Trainer(data="digits", run_dir=tmp_path / "r", resume="auto", base_width=2).describe()
    assert "r has no checkpoint: a new run begins there, without the settings of its config.yaml" in said
    assert settings(*again, "--preset", "reference") == PRESETS["reference"]
    (tmp_path / "r" / "config.yaml").write_text("")  # what a kill may leave
    assert settings(*again, "--preset", "reference") == PRESETS["reference"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"family": "conv3d"}, "digits-conv3d"),
        ({"condition": "image"}, "digits-image"),
        ({"condition": "class"}, "digits-class"),
        ({"height": 64, "width": 64}, "digits-64"),
        ({}, None),
        ({"family": "conv3d", "condition": "class"}, None),
        ({"config": "digits", "family": "conv3d"}, None),
        ({"config": "digits-conv3d"}, None),
    ],
)
def test_the_preset_that_was_tuned_for_the_users_choice_is_named(tmp_path, settings, name):
    said = fastvgan.Trainer(data="digits", run_dir=tmp_path / "r", base_width=2, **settings).describe()
    flags = " ".join(f"--{key} {value}" for key, value in settings.items())
    assert (f"--preset {name} was tuned for {flags};" in said) if name else "was tuned for" not in said


def test_the_command_names_it_too(tmp_path):
    flags = ["--family", "conv3d", "--base-width", "2", "--run-dir", str(tmp_path / "r"), "--dry-run"]
    assert "--preset digits-conv3d was tuned for --family conv3d; " in call("fastvgan.train", flags)[1]
    assert "was tuned for" not in call("fastvgan.train", [*flags, "--preset", "digits"])[1]
