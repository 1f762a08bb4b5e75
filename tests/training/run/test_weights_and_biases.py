"""What a run sends to Weights & Biases, and what happens where it cannot."""

import logging
import sys
import types

import pytest
from opened import open_folder, warnings
from tiny import tiny

from fastvgan.errors import UserError
from fastvgan.training.run.folder import RunFolder

logger = logging.getLogger("fastvgan")


class FakeWandB(types.ModuleType):
    """As much of wandb as is used."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.began, self.logged, self.finished, self.broken = [], [], 0, False

    def init(self, **options):
        if self.broken:
            raise self.Error("api_key not\nconfigured")
        self.began.append(options)
        run = types.SimpleNamespace(id=options["id"] or "abc123", log=self.log, finish=self.finish)
        run.define_metric = lambda *_, **__: None
        return run

    def log(self, values):
        if self.broken:
            raise self.Error("service died")
        self.logged.append(values)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_weights_and_biases_gets_all_and_is_gone_on_with(tmp_path, wandb, caplog):
    with open_folder(tmp_path / "r", wandb="videos") as folder:
        folder.add_metrics({"step": 2, "x": 1.0})
        wandb.broken = True
        folder.add_metrics({"step": 4, "x": 1.0})
        folder.add_evaluation({"step": 4, "y": 1.0})
        assert len(warnings(caplog)) == 1 and "Weights & Biases: service died" in warnings(caplog)[0]
        wandb.broken = False
    assert wandb.logged == [{"step": 2, "x": 1.0}, {"step": 4, "x": 1.0}, {"step": 4, "evaluation/y": 1.0}]
    assert wandb.finished == 1 and (tmp_path / "r" / "wandb-id").read_text() == "abc123"
    with open_folder(tmp_path / "r", step=4, wandb="videos"):
        pass
    first, second = wandb.began
    assert first["id"] is None and first["project"] == "videos" and first["config"]["training"]["batch_size"] == 4
    assert second["id"] == "abc123" and second["resume"] == "allow"


def test_weights_and_biases_that_is_not_to_be_had_is_bad_input(tmp_path, wandb, monkeypatch):
    wandb.broken = True
    with pytest.raises(UserError, match="--wandb: api_key not configured; fix that"):
        RunFolder(tmp_path / "r", tiny(), 0, wandb="videos")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'--wandb needs the package wandb: pip install "fastvgan\[wandb\]", or omit'):
        RunFolder(tmp_path / "r", tiny(), 0, wandb="videos")
    assert logger.handlers == []
    with open_folder(tmp_path / "r"):  # and without the flag nobody asks for it
        pass
