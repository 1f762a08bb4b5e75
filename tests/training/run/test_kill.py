"""Killed at any moment, and before every call to the system within a save, a run resumes from a good checkpoint."""

import os
import random
import shutil
import signal
import time

import killed
import pytest
import torch
from forks import context
from killed import FINISHED, SAVED
from toy import Toy, same, state_of

from fastvgan.files.tensor_file import read_tensors
from fastvgan.runs.checkpoint import Record, find_newest_good, verify
from fastvgan.training.run import checkpoint
from fastvgan.training.run.checkpoint import restore
from fastvgan.training.run.resume import find_start

ROUNDS = 100 if os.environ.get("FASTVGAN_LONG") else 10


@pytest.fixture(scope="module")
def forks():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # here too, where what they compute is compared to the bit
    yield context()
    torch.set_num_threads(threads)


def wait_for_end(process, seconds=60):
    """The exit status of a process."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        pytest.fail("it hangs")
    return process.exitcode


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [3, 2], ids=["a new step", "the newest step again"])
@pytest.mark.parametrize("afresh", [True, False], ids=["afresh", "on what the last kill left"])
def test_killed_before_each_call_of_a_save_there_is_a_good_checkpoint(tmp_path, forks, number, afresh):
    """Steps 1 and 2 are there; step 3 removes step 1, step 2 replaces itself."""
    for step in (1, 2):
        checkpoint.save(tmp_path / "before", Toy().train(step), Record(step), keep=2)
    old, new = state_of(Toy().train(2)), state_of(Toy().train(5))
    folder, points, replaced = tmp_path / "c", 0, False
    shutil.copytree(tmp_path / "before", folder)
    while True:
        if afresh:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "before", folder)
        points += 1
        process = forks.Process(target=killed.save_toy, args=(folder, number, 5, points))
        process.start()
        status = wait_for_end(process)
        checkpoint.put_back(folder)
        found, faults = find_newest_good(folder)
        assert faults == [] and found.name in ("step-2", f"step-{number}"), names(folder)
        toy = Toy()
        restore(found, toy)
        is_new = same(state_of(toy), new)
        assert is_new or (found.name == "step-2" and same(state_of(toy), old))
        assert is_new or not replaced, "what was saved once is lost"
        replaced = is_new and (replaced or not afresh)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        if afresh:
            checkpoint.recover(folder)
            assert all(name.startswith("step-") for name in names(folder))
    assert is_new and points > 10
    assert names(folder) == (["step-2", "step-3"] if number == 3 else ["step-1", "step-2"])


def steps_of(folder):
    return int(folder.name.removeprefix("step-"))


def test_killed_over_and_over_a_run_ends_as_if_it_never_was(tmp_path, forks):
    """Every other kill falls into a save; the others come at a random moment."""
    folder, draw = tmp_path / "r", random.Random(0)
    progress = forks.Array("q", 2, lock=False)
    reached = 0
    for i in range(ROUNDS):
        before = progress[FINISHED]
        die_at = draw.randint(1, 30) if i % 2 else None
        process = forks.Process(target=killed.train, args=(folder, 10**6, progress, die_at))
        process.start()
        if not die_at:
            end = time.monotonic() + 60
            while process.is_alive() and time.monotonic() < end and progress[FINISHED] <= before:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
        assert wait_for_end(process) == -signal.SIGKILL
        start = find_start("t", folder, "auto")
        if start.checkpoint is None:
            assert progress[SAVED] == 0
            continue
        assert start.remarks == ()
        verify(start.checkpoint)
        last, reached = reached, steps_of(start.checkpoint)
        assert reached >= max(progress[SAVED], progress[FINISHED] - 1, last)
    assert reached >= ROUNDS / 2 - 1  # each random kill comes after one more step, the last of which may be unsaved
    whole, states = tmp_path / "whole", []
    for run in (folder, whole):
        process = forks.Process(target=killed.train, args=(run, reached + 2, progress))
        process.start()
        assert wait_for_end(process, 300) == 0
        assert names(run / "checkpoints") == sorted([f"step-{reached + 1}", f"step-{reached + 2}"])  # by letters
        states.append(read_tensors(run / "checkpoints" / f"step-{reached + 2}" / "state.safetensors")[0])
    assert states[0].keys() == states[1].keys() and any("exp_avg" in name for name in states[0])
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []
