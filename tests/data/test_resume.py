"""A run on clips of one's own, resumed in the middle of an epoch, ends where the straight one does."""

import pytest
import torch
from make_videos import encode, make_numbered

from fastvgan.data.decoders import shards
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run.resume import find_start

HELD = "shards held on the device"
BY_DALI = pytest.param("clips", "dali", marks=pytest.mark.dali)
DATA = [("clips", "pyav"), BY_DALI, ("tars", "auto"), ("shards", "auto"), (HELD, "auto")]


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory):
    """Seven clips, so that batches of four cross the ends of epochs, in each form."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "src").mkdir()
    for i in range(7):
        path = encode(folder / "src" / f"{i}.webm", make_numbered(40)[2 * i :][:20], "vp9")
        path.with_suffix(".txt").write_text(f"clip {i}\nthe clip {i}\n")
    prepare(folder / "src", folder / "clips", PrepareConfig(to="clips"))
    prepare(folder / "src", folder / "tars", PrepareConfig(to="tars"))
    prepare(folder / "src", folder / "shards", PrepareConfig(to="shards", height=16, width=16))
    return folder


@pytest.mark.parametrize(("data", "decoder"), DATA)
def test_a_run_goes_on_with_the_very_next_batch(prepared_folder, tmp_path, data, decoder, monkeypatch):
    config = _config(prepared_folder / ("shards" if data == HELD else data), decoder)
    if data == HELD:
        mapped = TrainingLoop(config, find_start("t", tmp_path / "mapped", None))
        assert mapped.run() == 0
        monkeypatch.setattr(shards, "_fits", lambda *_: True)
    straight = TrainingLoop(config, find_start("t", tmp_path / "straight", None))
    assert straight.run() == 0
    middle = find_start("t", tmp_path / "parts", str(tmp_path / "straight" / "checkpoints" / "step-3"))
    resumed = TrainingLoop(config, middle)
    assert resumed.done == 3 and resumed.run() == 0
    for part in ("generator", "discriminator", "ema"):
        expected, got = (getattr(trainer.step, part).state_dict() for trainer in (straight, resumed))
        assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
        if data == HELD:
            cut_by_the_host = getattr(mapped.step, part).state_dict()
            assert [name for name in expected if not torch.equal(expected[name], cut_by_the_host[name])] == []


def _config(data, decoder):
    values = PRESETS["clips"].model_dump()
    values["model"] |= {"base_width": 2, "latent": 4}
    values["data"] |= {"data": str(data), "decoder": decoder, "mirror": True, "reverse": True, "max_stride": 2}
    values["training"] |= {"steps": 6, "batch_size": 4, "checkpoint_every": 3, "keep": 9, "precision": "fp32"}
    return RunConfig.model_validate(values)
