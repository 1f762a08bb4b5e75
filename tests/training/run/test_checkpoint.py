"""Checkpoints: bit-exact, and complete or absent."""

import errno
import json
import shutil

import pytest
import torch
from safetensors import safe_open
from saved import cut_short, names, train
from small_disk import fill, small_disk
from tiny import Unscored, tiny, weights
from toy import Toy, same, state_of

import fastvgan
from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.runs.checkpoint import (
    Record,
    find_best,
    find_newest_good,
    list_complete,
    read_averaged_weights,
    read_record,
    verify,
)
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import checkpoint
from fastvgan.training.run.checkpoint import restore, save
from fastvgan.training.run.resume import find_start
from fastvgan.training.run.scoring import Scored
from fastvgan.training.schedule import rate_share, share_passed
from fastvgan.training.step.tensors import tensors_of

pytestmark = pytest.mark.usefixtures("bare")


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_a_resumed_run_is_bit_identical(tmp_path, family):
    settings = {
        "model": {"family": family, "condition": ("image", "class", "text")},
        "checkpoint_every": 3,
        "lr_decay": 0.5,
    }
    whole = weights(train(tmp_path / "whole", **settings).step)
    from_the_middle = find_start("t", tmp_path / "parts", str(tmp_path / "whole" / "checkpoints" / "step-3"))
    trainer = TrainingLoop(tiny(**settings), from_the_middle)
    assert trainer.done == 3 and trainer.run() == 0
    parts = weights(trainer.step)
    assert whole.keys() == parts.keys() and any("exp_avg" in name for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_run_that_no_longer_fits_into_memory_resumes_in_smaller_parts(tmp_path, monkeypatch):
    train(tmp_path / "r", steps=2, checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_run_step", _run_out_of_memory)
        with pytest.raises(
            UserError, match=r"out of memory in step 3 \(.*\); resume with --accumulate 2, .* --batch-size$"
        ):
            train(tmp_path / "r", resume="auto", steps=4)
    resumed = train(tmp_path / "r", resume="auto", steps=4, accumulate=2)
    assert resumed.done == 4 and resumed.remarks[-1].startswith(
        "--accumulate is 2 instead of 1: the clips stay the same"
    )
    assert not any("--accumulate" in remark for remark in train(tmp_path / "r", "auto", steps=5, accumulate=2).remarks)
    with pytest.raises(UserError, match=r"another configuration \(training.batch_size is 4 there and 2 here\)"):
        train(tmp_path / "r", resume="auto", steps=6, batch_size=2)


def _run_out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_learning_rate_falls_at_the_end():
    assert [rate_share(done, 10, 0.5) for done in (0, 4, 5, 6, 9)] == [1, 1, 1, 0.8, 0.2]
    assert rate_share(9, 10, 0) == 1 and rate_share(0, 10, 1) == 1
    assert [share_passed(done, 10, 0.4) for done in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert share_passed(0, 10, 0) == 1


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
    assert [path.name for path in list_complete(run / "checkpoints")] == ["step-2", "step-4", "step-6"]
    train(tmp_path / "r", checkpoint_every=1, keep=2)
    assert sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir()) == ["step-5", "step-6"]


def test_what_is_saved_comes_back_in_place(tmp_path):
    saved = Toy().train(2)
    path = save(tmp_path, saved, Record(2, score=3.5, setbacks=1, rate=0.25), keep=2)
    other = Toy().train(5)
    before = {name: tensor.data_ptr() for name, tensor in tensors_of(other).items()}
    assert restore(path, other) == Record(2, 3.5, 1, 0.25)
    assert same(state_of(saved), state_of(other))
    assert before == {name: tensor.data_ptr() for name, tensor in tensors_of(other).items()}


def test_moments_that_are_not_there_are_made_as_the_optimiser_would(tmp_path):
    saved = Toy().train(2)
    other = Toy()
    restore(save(tmp_path, saved, Record(2), keep=2), other)
    assert same(state_of(saved), state_of(other))
    for mine, theirs in zip(saved.generator.parameters(), other.generator.parameters(), strict=True):
        for slot, value in saved.g_update.optimizer.state[mine].items():
            made = other.g_update.optimizer.state[theirs][slot]
            assert (made.stride(), made.dtype, made.requires_grad) == (value.stride(), value.dtype, False)
    torch.manual_seed(1)
    saved.train()
    torch.manual_seed(1)
    assert same(state_of(saved), state_of(other.train()))


def test_moments_that_were_not_there_yet_become_zero_in_place(tmp_path):
    path = save(tmp_path, Toy(), Record(0), keep=2)
    other = Toy().train(3)
    slots = [slot for slots in other.g_update.optimizer.state.values() for slot in slots.values()]
    assert any(slot.any() for slot in slots)
    restore(path, other)
    assert slots and not any(slot.any() for slot in slots) and other.scale == 4
    new = Toy()
    torch.manual_seed(1)
    new = state_of(new.train())
    torch.manual_seed(1)
    assert [name for name, tensor in state_of(other.train()).items() if not torch.equal(tensor, new[name])] == []


def test_counters_that_a_checkpoint_lacks_stay(tmp_path):
    bare = Toy()
    bare.state = dict
    other = Toy().train()
    restore(save(tmp_path, bare, Record(0), keep=2), other)
    assert other.scale == 8
    restore(save(tmp_path, Toy().train(3), Record(3), keep=2), bare)  # and those that nobody asks for do no harm


def test_a_checkpoint_of_format_1_is_read(tmp_path):
    saved = Toy().train()
    path = save(tmp_path, saved, 1, keep=2)
    (path / "state.json").write_text('{"format": 1, "step": 1}')
    other = Toy()
    assert restore(path, other) == Record(1) and same(state_of(saved), state_of(other))
    assert find_newest_good(tmp_path) == (path, [])
    cut_short(path / "state.safetensors")
    with pytest.raises(UserError, match="truncated"):
        verify(path)


def test_the_best_is_kept_beside_the_newest(tmp_path):
    toy = Toy()
    scores = [5.0, 2.0, float("nan"), float("nan"), 3.0, 2.0, None, 4.0, 9.0]
    kept = []
    for number, score in enumerate(scores, 1):
        save(tmp_path, toy, Record(number, score), keep=2)
        kept.append([int(name.removeprefix("step-")) for name in names(tmp_path)])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8], [6, 8, 9]]


def test_only_scores_of_the_same_data_and_number_of_clips_are_compared(tmp_path):
    old, new = (Fingerprint(checksum, 20, 0, 0) for checksum in ("old", "new"))
    scores = [(1.0, old, 240), (2.0, old, 32), (5.0, new, 32), (4.0, new, 32), (6.0, new, 32), (None, new, 32)]
    kept = []
    for number, (score, data, clips) in enumerate(scores, 1):
        save(tmp_path, Toy(), Record(number, score, data=data, scored_clips=clips), keep=1)
        kept.append([int(name.removeprefix("step-")) for name in names(tmp_path)])
    assert kept == [[1], [2], [3], [4], [4, 5], [4, 6]]
    assert find_best(tmp_path, Record(7, data=old, scored_clips=32)) is None
    assert find_best(tmp_path, Record(7, data=new, scored_clips=32, on_test_frames=True)) is None
    state = tmp_path / "step-4" / "state.json"
    earlier = {name: value for name, value in json.loads(state.read_text()).items() if name != "scored_clips"}
    state.write_text(json.dumps(earlier))
    assert read_record(state.parent) == Record(4, 4.0, data=new)
    assert find_best(tmp_path, Record(7, data=new, scored_clips=240)) == (
        state.parent,
        4.0,
    )  # what is unknown may be equal


def read_export(folder, name):
    with safe_open(folder / "export" / f"{name}.safetensors", "pt") as file:
        facts = file.metadata()
        return int(facts["step"]), float(facts.get("score", "nan")), {key: file.get_tensor(key) for key in file.keys()}


def is_average_of(path, tensors):
    saved = read_averaged_weights(path)
    return saved.keys() == tensors.keys() and all(torch.equal(saved[name], tensors[name]) for name in saved)


def test_the_best_and_the_last_are_exported(tmp_path, monkeypatch):
    """Also after the run resumes, and after it resumes from a step before the best one."""
    folder, scores = tmp_path / "r", iter([5.0, 2.0, 3.0, 2.5, None, 1.5, 7.0, 6.0])
    monkeypatch.setattr(Unscored, "measure", lambda self: Scored({}, next(scores), []))
    train(folder, steps=3, checkpoint_every=1, keep=9)
    step, score, tensors = read_export(folder, "best")
    assert (step, score) == (2, 2.0) and is_average_of(folder / "checkpoints" / "step-2", tensors)
    step, _, tensors = read_export(folder, "generator")
    assert step == 3 and is_average_of(folder / "checkpoints" / "step-3", tensors)
    train(folder, resume="auto", steps=5, checkpoint_every=1, keep=1)
    assert read_export(folder, "best")[:2] == (2, 2.0) and read_export(folder, "generator")[0] == 5
    assert fastvgan.load(folder).path == folder / "export" / "best.safetensors"
    train(folder, resume="auto", steps=6, checkpoint_every=1, keep=9)
    assert read_export(folder, "best")[:2] == (6, 1.5)
    loaded = fastvgan.load(folder / "checkpoints" / "step-6")
    assert is_average_of(folder / "checkpoints" / "step-6", loaded.network.state_dict())
    train(folder, resume=str(folder / "checkpoints" / "step-2"), steps=3, checkpoint_every=1, keep=9)
    step, score, tensors = read_export(folder, "best")
    assert (step, score) == (2, 2.0) and is_average_of(folder / "checkpoints" / "step-2", tensors)


def test_an_old_checkpoint_that_cannot_be_removed_is_only_reported(tmp_path, caplog, monkeypatch):
    save(tmp_path, Toy(), Record(1), keep=1)

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", refuse)
        save(tmp_path, Toy(), Record(2), keep=1)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "removed-1: Permission denied" in message
    assert [path.name for path in list_complete(tmp_path)] == ["step-2"]
    save(tmp_path, Toy(), Record(3), keep=1)
    assert names(tmp_path) == ["step-3"]


def test_a_checkpoint_that_is_rewritten_is_never_missing(tmp_path, monkeypatch):
    old = save(tmp_path, Toy().train(1), Record(3), keep=2)
    rename, seen = checkpoint.Path.rename, []

    def fail(path, target):
        seen.append(names(tmp_path))
        if path.name.startswith(".unfinished"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output"):
            save(tmp_path, Toy().train(2), Record(3), keep=2)
    assert seen[1] == [".replaced-3", ".unfinished-3"] and names(tmp_path) == ["step-3"]
    other = Toy()
    restore(old, other)
    assert same(state_of(other), state_of(Toy().train(1)))
    restore(save(tmp_path, Toy().train(2), Record(3), keep=2), other)
    assert names(tmp_path) == ["step-3"] and same(state_of(other), state_of(Toy().train(2)))


def test_what_a_kill_leaves_is_brought_in_order(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path, Toy(), Record(number), keep=9)
    shutil.copytree(tmp_path / "step-2", tmp_path / ".replaced-2")
    (tmp_path / "step-3").rename(tmp_path / ".replaced-3")
    shutil.copytree(tmp_path / "step-1", tmp_path / ".unfinished-4")
    (tmp_path / "step-1").rename(tmp_path / ".removed-1")
    assert find_newest_good(tmp_path)[0].name == "step-2"
    checkpoint.put_back(tmp_path)
    assert find_newest_good(tmp_path)[0].name == "step-3" and (tmp_path / ".unfinished-4").exists()
    checkpoint.recover(tmp_path)
    assert names(tmp_path) == ["step-2", "step-3"]


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        for number in (1, 2):
            save(disk / "c", Toy().train(number), Record(number), keep=2)
        filler = fill(disk, leave=8192)
        for number in (2, 3):
            with pytest.raises(OSError, match="No space left") as raised:
                save(disk / "c", Toy().train(3), Record(number), keep=1)
            assert raised.value.errno == errno.ENOSPC
            assert names(disk / "c") == ["step-1", "step-2"]
        other = Toy()
        assert restore(disk / "c" / "step-2", other).step == 2
        assert same(state_of(other), state_of(Toy().train(2)))
        filler.unlink()
        save(disk / "c", Toy(), Record(3), keep=2)
        assert names(disk / "c") == ["step-2", "step-3"]


def test_a_run_whose_save_fails_goes_on_from_the_older_checkpoint(tmp_path, monkeypatch):
    trainer = train(tmp_path / "r", steps=2)
    before = weights(trainer.step)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "flush_to_disk", full)
    with pytest.raises(UserError, match=r"the disk is full.*--resume auto"):
        train(tmp_path / "r", resume="auto", steps=4)
    monkeypatch.undo()
    assert names(tmp_path / "r" / "checkpoints") == ["step-2"]
    again = TrainingLoop(tiny(), find_start("t", tmp_path / "r", "auto"))
    assert again.done == 2
    after = weights(again.step)
    assert all(torch.equal(before[name], after[name]) for name in before)


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
    with pytest.raises(UserError, match="this folder does not exist"):
        find_start("digits", None, "runs/digits-8")
    with pytest.raises(UserError, match="neither a run folder"):
        find_start("digits", None, str(tmp_path / "runs"))
