"""The flag --deterministic: the steps that run twice, the state after them, and the log."""

import logging
import warnings

import pytest
import torch
from tiny import Unscored, tiny, weights

from fastvgan.runs.config import TrainingConfig
from fastvgan.training import determinism
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import output
from fastvgan.training.run.resume import Start
from fastvgan.training.step.adversarial import AdversarialStep


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The process's settings are put back; scores and the report are not what is tested."""
    monkeypatch.setattr(output, "Scoring", Unscored)
    monkeypatch.setattr(output, "write_report", lambda folder: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def train(folder, **settings):
    return TrainingLoop(tiny(steps=5, r1=0.1, r1_every=2, **settings), Start(folder))


def test_steps_that_are_run_twice_leave_what_one_run_leaves(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        plain, asked = (train(tmp_path / str(on), deterministic=on) for on in (False, True))
        for trainer in (plain, asked):
            assert trainer.run() == 0
    assert torch.are_deterministic_algorithms_enabled()
    said = [r.getMessage() for r in caplog.records if "--deterministic" in r.getMessage()]
    assert said == [
        f"--deterministic: step {number}, run twice from the same state on cpu, is bitwise reproducible"
        for number in (3, 5)
    ]
    mine, theirs = weights(asked.step), weights(plain.step)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_what_does_not_repeat_is_named(tmp_path, caplog):
    trainer = train(tmp_path / "run", deterministic=True)
    runner, calls = trainer.runner, []

    def unsteady(number, batch):
        calls.append(number)
        runner(number, batch)
        with torch.no_grad():
            next(trainer.step.generator.parameters()).add_(1e-3 * len(calls))

    trainer.runner = unsteady
    with caplog.at_level(logging.WARNING):
        assert trainer.run() == 0
    assert calls == [0, 1, 2, 2, 3, 4, 4]
    name = next(name for name, _ in trainer.step.generator.named_parameters())
    said = [r.getMessage() for r in caplog.records if "--deterministic" in r.getMessage()]
    assert len(said) == 2 and all(f"differs in 1 tensors (generator/{name})" in sentence for sentence in said)


def test_operations_that_pytorch_warns_of_are_named(caplog):
    """As torch puts it (aten/src/ATen/Context.cpp), by a run that warns so."""
    config = tiny({"condition": ()})
    step = AdversarialStep(config.model, config.training, torch.device("cpu"), torch.float32)

    def run():
        text = "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set"
        warnings.warn(text, UserWarning, stacklevel=1)

    differing, operations = determinism.compare_two_runs(step, run)
    assert (differing, operations) == ([], ["grid_sampler_2d_backward_cuda"])
    determinism.log_comparison(2, torch.device("cpu"), differing, operations)
    assert "PyTorch has no deterministic grid_sampler_2d_backward_cuda on cpu" in caplog.text


@pytest.mark.parametrize(("r1", "every", "compared"), [(0.0, 16, [2]), (0.1, 16, [2, 16]), (0.1, 1, [2, 3])])
def test_one_plain_step_and_one_with_the_penalty_are_compared(r1, every, compared):
    training = TrainingConfig(r1=r1, r1_every=every)
    assert [number for number in range(40) if determinism.is_compared(number, training)] == compared
