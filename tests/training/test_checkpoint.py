"""Checkpoints: bit-exact, complete or absent, and clear about what is wrong with a bad one."""

import errno
import json
import pickle
import shutil

import pytest
import torch
from tiny import tiny, weights

from fastvgan.errors import UserError
from fastvgan.training import checkpoint
from fastvgan.training.resume import Start, find_start
from fastvgan.training.trainer import Trainer, rate_share


def train(folder, resume=None, model=None, **training):
    start = find_start("t", folder, resume) if resume else Start(folder)
    trainer = Trainer(tiny(model, **training), start)
    assert trainer.run() == 0
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    train(folder, checkpoint_every=2, keep=9)
    return folder


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_a_resumed_run_is_bit_identical(tmp_path, family):
    settings = {
        "model": {"family": family, "condition": ("image", "class", "text")},
        "checkpoint_every": 3,
        "lr_decay": 0.5,
    }
    whole = weights(train(tmp_path / "whole", **settings).step)
    from_the_middle = find_start("t", tmp_path / "parts", str(tmp_path / "whole" / "checkpoints" / "step-3"))
    trainer = Trainer(tiny(**settings), from_the_middle)
    assert trainer.done == 3 and trainer.run() == 0
    parts = weights(trainer.step)
    assert whole.keys() == parts.keys() and any("exp_avg" in name for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_the_learning_rate_falls_at_the_end():
    assert [rate_share(done, 10, 0.5) for done in (0, 4, 5, 6, 9)] == [1, 1, 1, 0.8, 0.2]
    assert rate_share(9, 10, 0) == 1 and rate_share(0, 10, 1) == 1


def test_a_resumed_run_counts_each_step_once(tmp_path):
    train(tmp_path / "r", steps=4)
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 9, "d_loss": 0}\n{"step": 1'
        )  # what a kill leaves: steps without a checkpoint, half a line
    train(tmp_path / "r", resume="auto", steps=8)
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]


def test_the_newest_are_kept(tmp_path, run):
    assert [path.name for path in checkpoint.complete(run / "checkpoints")] == ["step-2", "step-4", "step-6"]
    train(tmp_path / "r", checkpoint_every=1, keep=2)
    assert sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir()) == ["step-5", "step-6"]


def test_a_save_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    trainer = train(tmp_path / "r", steps=2)
    before = weights(trainer.step)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(UserError, match=r"the disk is full.*--resume auto"):
        train(tmp_path / "r", resume="auto", steps=4)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-2"]
    again = Trainer(tiny(), find_start("t", tmp_path / "r", "auto"))
    assert again.done == 2
    after = weights(again.step)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_text("not a checkpoint"), "no safetensors file"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, run, harm, sentence):
    shutil.copytree(run, tmp_path / "r")
    harm(tmp_path / "r" / "checkpoints" / "step-6" / "state.safetensors")
    with pytest.raises(UserError, match=sentence) as raised:
        Trainer(tiny(), find_start("t", tmp_path / "r", "auto"))
    assert "step-6" in str(raised.value) and "\n" not in str(raised.value)


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "save", [lambda path: path.write_bytes(pickle.dumps(Trap())), lambda path: torch.save(Trap(), path)]
)
def test_a_pickle_is_refused_unread(tmp_path, run, save):
    shutil.copytree(run, tmp_path / "r")
    save(tmp_path / "r" / "checkpoints" / "step-6" / "state.safetensors")
    with pytest.raises(UserError, match="no safetensors file"):
        Trainer(tiny(), find_start("t", tmp_path / "r", "auto"))


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2, "step": 6}', '["x"]', '{"format": 1, "step": "x"}'])
def test_a_damaged_state_is_named(tmp_path, run, text):
    shutil.copytree(run, tmp_path / "r")
    (tmp_path / "r" / "checkpoints" / "step-6" / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json"):
        Trainer(tiny(), find_start("t", tmp_path / "r", "auto"))


def test_another_configuration_is_named(tmp_path, run):
    with pytest.raises(UserError, match=r"another configuration \(model.base_width is 2 there and 3 here\)"):
        Trainer(tiny({"base_width": 3}), find_start("t", run, "auto"))
    with pytest.raises(UserError, match=r"training.seed is 0 there and 1 here"):
        Trainer(tiny(seed=1), find_start("t", run, "auto"))
    Trainer(tiny(steps=50, checkpoint_every=7, keep=1), find_start("t", run, "auto"))


def test_weights_of_another_network_are_refused(tmp_path, run):
    """config.yaml says one thing, the tensors another: somebody copied a file."""
    train(tmp_path / "other", model={"latent": 5}, steps=2)
    shutil.copytree(run, tmp_path / "r")
    foreign = tmp_path / "other" / "checkpoints" / "step-2" / "state.safetensors"
    shutil.copy(foreign, tmp_path / "r" / "checkpoints" / "step-6" / "state.safetensors")
    with pytest.raises(UserError, match="another configuration"):
        Trainer(tiny(), find_start("t", tmp_path / "r", "auto"))


def test_where_a_run_begins(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_start("digits", None, None).folder.as_posix() == "runs/digits-1"
    assert find_start("digits", None, "auto") == find_start("digits", None, None)
    shutil.copytree(run, "runs/digits-9")
    assert find_start("digits", None, None).folder.as_posix() == "runs/digits-10"
    assert find_start("digits", None, "auto").checkpoint.as_posix() == "runs/digits-9/checkpoints/step-6"
    assert find_start("digits", None, "runs/digits-9").checkpoint.name == "step-6"
    assert find_start("digits", tmp_path / "new", "runs/digits-9/checkpoints/step-4").folder == tmp_path / "new"
    with pytest.raises(UserError, match="already holds a run"):
        find_start("digits", tmp_path / "runs/digits-9", None)
    with pytest.raises(UserError, match="no such folder"):
        find_start("digits", None, "runs/digits-8")
    with pytest.raises(UserError, match="cannot read"):
        find_start("digits", None, str(tmp_path / "runs"))
