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
from fastvgan.training.run.request import find_base


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
        status, out, err = call("fastvgan.train", [start, name, "--epochs", "5", "--print-config"])
        assert status == 0, err
        training = yaml.safe_load(out)["training"]
        assert training["steps"] is None and training["epochs"] == 5 and training["batch_size"] == 32
    trainer = fastvgan.Trainer("digits", run_dir=tmp_path / "r", base_width=2, epochs=5)
    pictures = open_source(trainer.config.data, trainer.config.model).size
    assert trainer.steps == 5 * pictures // 32 != 2000
    assert call("fastvgan.train", ["--steps", "None", "--epochs", "5", "--print-config"])[0] == 0
