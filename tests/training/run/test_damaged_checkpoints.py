"""Damaged and foreign checkpoints: named in one sentence, never half restored, replaced by the newest good one."""

import hashlib
import json
import pickle
import shutil

import pytest
import torch
from saved import cut_short, names, train
from tiny import tiny
from toy import Toy, same, state_of

from fastvgan.errors import UserError
from fastvgan.runs.checkpoint import Record, list_complete, verify
from fastvgan.runs.config import read_config
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run.checkpoint import restore, save
from fastvgan.training.run.folder import RunFolder
from fastvgan.training.run.resume import find_start

pytestmark = pytest.mark.usefixtures("bare")


def one_bit(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


HARMS = {
    "one bit": (one_bit, r"state\.safetensors is damaged \(its checksum"),
    "cut short": (cut_short, r"state\.safetensors is truncated \([\d,]+ of [\d,]+ bytes\)"),
    "empty": (lambda path: path.write_bytes(b""), r"state\.safetensors is truncated \(0 of"),
    "longer": (
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        r"state\.safetensors is damaged \([\d,]+ bytes",
    ),
    "another": (lambda path: path.write_text("not a checkpoint"), r"state\.safetensors is truncated"),
    "gone": (lambda path: path.unlink(), r"state\.safetensors does not exist"),
    "no state": (lambda path: (path.parent / "state.json").unlink(), r"cannot read state\.json"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path, harm):
    path = save(tmp_path, Toy().train(), Record(6), keep=2)
    verify(path)
    HARMS[harm][0](path / "state.safetensors")
    toy = Toy().train(2)
    before = state_of(toy)
    for refuse in (verify, lambda path: restore(path, toy)):
        with pytest.raises(UserError, match=HARMS[harm][1]) as raised:
            refuse(path)
        assert "step-6" in str(raised.value) and "\n" not in str(raised.value)
    assert same(before, state_of(toy))


@pytest.mark.parametrize("harm", HARMS)
def test_the_newest_good_one_is_gone_on_from(tmp_path, run, harm):
    shutil.copytree(run, tmp_path / "r")
    damaged = tmp_path / "r" / "checkpoints" / "step-6"
    HARMS[harm][0](damaged / "state.safetensors")
    for resume in ("auto", str(tmp_path / "r")):
        start = find_start("t", tmp_path / "r", resume)
        assert start.checkpoint.name == "step-4" and start.checkpoint.parent == damaged.parent
        (remark,) = start.remarks
        assert str(damaged) in remark and remark.endswith("; using step-4 instead")
    with pytest.raises(UserError, match=HARMS[harm][1]):
        TrainingLoop(tiny(), find_start("t", None, str(damaged)))


def test_damaged_checkpoints_are_not_met_again(tmp_path, run):
    shutil.copytree(run, tmp_path / "r")
    folder = tmp_path / "r" / "checkpoints"
    cut_short(folder / "step-6" / "state.safetensors")
    train(tmp_path / "r", resume="auto", steps=7, keep=2)
    assert names(folder) == ["damaged-step-6", "step-4", "step-7"]
    cut_short(folder / "step-7" / "state.safetensors")
    assert find_start("t", tmp_path / "r", "auto").checkpoint.name == "step-4"


def test_later_checkpoints_are_kept_under_another_name(tmp_path, run, caplog):
    shutil.copytree(run, tmp_path / "r")
    folder = tmp_path / "r" / "checkpoints"
    TrainingLoop(tiny(), find_start("t", None, str(folder / "step-2")))
    assert names(folder) == ["step-2", "step-4", "step-6"]  # to look is not to write
    cut_short(folder / "step-6" / "state.safetensors")
    for _ in range(2):
        RunFolder(tmp_path / "r", read_config(run / "config.yaml"), 2).close()
        assert find_start("t", tmp_path / "r", "auto").checkpoint.name == "step-2"
        shutil.copytree(run / "checkpoints" / "step-4", folder / "step-4")
    assert names(folder) == ["abandoned-step-4", "abandoned-step-4-2", "damaged-step-6", "step-2", "step-4"]
    assert "abandoned-step-4: the run continues from step 2" in caplog.text
    abandoned = find_start("t", None, str(folder / "abandoned-step-4"))
    assert abandoned.folder == tmp_path / "r" and TrainingLoop(tiny(), abandoned).done == 4


def test_where_all_are_damaged_all_are_named(tmp_path, run):
    shutil.copytree(run, tmp_path / "r")
    for path in list_complete(tmp_path / "r" / "checkpoints"):
        cut_short(path / "state.safetensors")
    for resume in ("auto", str(tmp_path / "r")):
        with pytest.raises(
            UserError, match=r"step-6.*truncated.*step-4.*truncated.*step-2.*truncated.*another --run-dir"
        ):
            find_start("t", tmp_path / "r", resume)


def test_one_about_to_be_replaced_is_gone_on_from(tmp_path, run):
    shutil.copytree(run, tmp_path / "r")
    folder = tmp_path / "r" / "checkpoints"
    (folder / "step-6").rename(folder / ".replaced-6")
    assert find_start("t", tmp_path / "r", "auto").checkpoint.name == "step-6"


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "write", [lambda path: path.write_bytes(pickle.dumps(Trap())), lambda path: torch.save(Trap(), path)]
)
def test_a_pickle_is_refused_unread(tmp_path, write):
    path = save(tmp_path, Toy(), Record(6), keep=2)
    write(path / "state.safetensors")
    agree(path)
    with pytest.raises(UserError, match="no safetensors file"):
        restore(path, Toy())


def agree(path):
    """Bring size and checksum in state.json to those of the file, as only somebody who means to would."""
    data, state = (path / "state.safetensors").read_bytes(), json.loads((path / "state.json").read_text())
    state["files"]["state.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", '["x"]', "7", '{"format": 3, "step": 6}', '{"format": 2, "step": 6}', '{"format": 1, "step": "x"}'),
        *('{"format": 1, "step": Infinity}', '{"format": 2, "step": 6, "score": null, "setbacks": 0, "rate": 1}'),
    ],
)
def test_a_damaged_state_is_named(tmp_path, text):
    path = save(tmp_path, Toy(), Record(6), keep=2)
    (path / "state.json").write_text(text)
    for refuse in (verify, lambda path: restore(path, Toy())):
        with pytest.raises(UserError, match=r"state\.json"):
            refuse(path)
    save(tmp_path, Toy(), Record(7), keep=1)
    assert names(tmp_path) == ["step-7"]


def test_other_networks_and_optimisers_are_named(tmp_path):
    path = save(tmp_path, Toy(width=3).train(), Record(1), keep=9)
    toy = Toy()
    before = state_of(toy)
    with pytest.raises(
        UserError,
        match=r"another version of fastvgan: generator/0\.weight does not fit",
    ):
        restore(path, toy)
    more, fewer = Toy().train(), Toy().train()
    more.discriminator.add_module("2", torch.nn.Linear(1, 1))
    del fewer.discriminator[1]
    for number, other in enumerate((more, fewer), 2):
        with pytest.raises(UserError, match=r"another version of fastvgan: discriminator/"):
            restore(save(tmp_path, other, Record(number), keep=9), toy)
    odd = Toy().train()
    for slots in odd.g_update.optimizer.state.values():
        slots["exp_avg"] = torch.zeros(7)
    with pytest.raises(UserError, match=r"generator_optimizer/0\.bias/exp_avg does not fit"):
        restore(save(tmp_path, odd, Record(5), keep=9), toy)
    assert same(before, state_of(toy))


def test_another_configuration_is_named(tmp_path, run):
    with pytest.raises(UserError, match=r"another configuration \(model.base_width is 2 there and 3 here\)"):
        TrainingLoop(tiny({"base_width": 3}), find_start("t", run, "auto"))
    with pytest.raises(UserError, match=r"training.seed is 0 there and 1 here"):
        TrainingLoop(tiny(seed=1), find_start("t", run, "auto"))
    TrainingLoop(tiny(steps=50, checkpoint_every=7, keep=1), find_start("t", run, "auto"))


def test_weights_of_another_network_are_refused(tmp_path, run):
    """config.yaml says one thing, the tensors another: somebody copied a file."""
    train(tmp_path / "other", model={"latent": 5}, steps=2)
    shutil.copytree(run, tmp_path / "r")
    foreign = tmp_path / "other" / "checkpoints" / "step-2" / "state.safetensors"
    shutil.copy(foreign, tmp_path / "r" / "checkpoints" / "step-6" / "state.safetensors")
    agree(tmp_path / "r" / "checkpoints" / "step-6")
    with pytest.raises(UserError, match="another configuration"):
        TrainingLoop(tiny(), find_start("t", tmp_path / "r", "auto"))
