"""The step with discriminators without batch statistics: one power iteration, graphs, resuming, rollback."""

import copy

import pytest
import torch
from recorded import Recorder
from test_graphs import ALL, everything, make, run, same_kernels, step_field  # noqa: F401  same_kernels is a fixture

from fastvgan.layers import spectral
from fastvgan.training.determinism import compare_two_runs
from fastvgan.training.step import adversarial
from fastvgan.training.step.graphs import StepRunner
from fastvgan.training.step.tensors import copy_into, tensors_of

NORMS = ("none", "group", "spectral")
SETTINGS = {"r1": 0.1, "r1_every": 2, "diversity": 1.0, "contrast": 0.5, "wrong_conditions": 3}


def model(norm, family="conv3d", blocks=1):
    return {"family": family, "d_norm": norm, "d_blocks": blocks, **ALL}


def vectors(step):
    return {name: value.clone() for name, value in step.discriminator.named_buffers()}


@pytest.mark.parametrize(
    ("norm", "family", "precision"),
    [
        ("group", "conv3d", torch.float32),
        ("spectral", "conv3d", torch.float16),
        ("none", "recurrent", torch.float32),
        ("spectral", "recurrent", torch.bfloat16),
    ],
)
def test_a_recorded_step_is_the_eager_one(norm, family, precision):
    """With a step whose noise is not finite, whose changes to D's vectors are undone, before the capture and after."""
    small = model(norm, family) | {"discriminators": ("clip", "frame")}
    settings = SETTINGS | {"r1_every": 1, "parts": ("text",)}
    results = []
    for backend in (None, Recorder()):
        step, maker, _ = make(precision, model=small, **settings)
        results.append(run(step, maker, "auto" if backend else "off", backend, 14, poison=(5, 13)))
        assert backend is None or backend.captured == 3
    eager, replayed = results
    assert [name for name in eager if not torch.equal(eager[name], replayed[name])] == []
    assert eager["totals"][0, step_field("skipped")] >= 2
    assert all(torch.isfinite(tensor).all() for tensor in eager.values())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_a_step_takes_one_power_iteration_before_d_s_first_pass(family, accumulate):
    """Whatever the number of passes: real clips, wrong first frames, the penalty, generated clips, G's update."""
    step, maker, _ = make(model=model("spectral", family), accumulate=accumulate, batch_size=8, **SETTINGS)
    first = vectors(step)
    expected = copy.deepcopy(step.discriminator)
    spectral.iterate(expected)
    seen = []
    step.discriminator.head.register_forward_pre_hook(lambda *_: seen.append(vectors(step)))
    StepRunner(step, maker, "off")(0)
    wanted = dict(expected.named_buffers())
    assert len(seen) >= 3 * accumulate and wanted
    for found in (*seen, vectors(step)):
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(first[name], wanted[name]) for name in wanted)


def test_a_step_that_is_skipped_restores_the_vectors():
    step, maker, _ = make(model=model("spectral"))
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(step).items()}
    run(step, maker, "off", steps=1, poison=(0,))
    after = tensors_of(step)
    assert any("_u" in name for name in before)
    # The count of steps that were not finite changes; weights, moments, statistics and vectors do not.
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(name.startswith(("state/", "ema/")) for name in changed), changed


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_a_resumed_run_computes_the_same_bits(norm, family):
    step, maker, _ = make(model=model(norm, family), **SETTINGS)
    runner = StepRunner(step, maker, "off")
    for number in range(4):
        if number == 2:
            saved = {name: tensor.detach().clone() for name, tensor in tensors_of(step).items()}
        runner(number)
    other, maker, _ = make(model=model(norm, family), **SETTINGS)
    copy_into(other, saved)
    runner = StepRunner(other, maker, "off")
    for number in (2, 3):
        runner(number)
    mine, theirs = tensors_of(step), tensors_of(other)
    assert mine.keys() == theirs.keys() and [n for n in mine if not torch.equal(mine[n], theirs[n])] == []


@pytest.mark.parametrize("norm", NORMS)
def test_two_runs_of_a_step_are_the_same_bits(norm):
    step, maker, _ = make(model=model(norm), **SETTINGS)
    runner = StepRunner(step, maker, "off")
    torch.use_deterministic_algorithms(True)
    try:
        assert compare_two_runs(step, lambda: runner(0)) == ([], [])
    finally:
        torch.use_deterministic_algorithms(False)


def test_reset_restores_the_first_weights_and_vectors():
    step, maker, _ = make(model=model("spectral"))
    before = {name: tensor.detach().clone() for name, tensor in everything(step).items()}
    run(step, maker, "off", steps=2)
    step.reset()
    after = everything(step)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["totals"]


def test_the_average_and_low_precision_copies_are_of_weights_that_layers_read(monkeypatch):
    step, _, _ = make(model=model("spectral"))
    assert not any("parametrizations" in name for name in step.ema.state_dict())
    monkeypatch.setattr(adversarial, "reads_copies", lambda device: True)
    step, maker, _ = make(torch.bfloat16, model=model("spectral"))
    of_d = step._copies[1]._entries
    originals = {id(p) for name, p in step.discriminator.named_parameters() if spectral.is_original(name)}
    assert originals and not originals & {id(entry.weight) for entry in of_d}
    with_copies = run(step, maker, "off", steps=2)
    monkeypatch.setattr(adversarial, "reads_copies", lambda device: False)
    step, maker, _ = make(torch.bfloat16, model=model("spectral"))
    without = run(step, maker, "off", steps=2)
    for name, value in without.items():
        torch.testing.assert_close(with_copies[name], value, rtol=1e-3, atol=1e-3)


def test_g_s_update_normalises_each_weight_once(monkeypatch):
    """D's weights are constants in it, whatever the number of its passes and of a batch's parts."""
    pairs = {"objective": "relativistic", "accumulate": 2, "contrast": 0.5}
    step, maker, _ = make(model=model("spectral"), **pairs)
    inputs = maker.make(torch.tensor(0), torch.tensor(0))
    start = step.begin(inputs)
    step.update_discriminator(inputs, start)
    calls, forward = [], spectral.SpectralNorm.forward
    monkeypatch.setattr(spectral.SpectralNorm, "forward", lambda self, w: calls.append(self) or forward(self, w))
    step.update_generator(inputs, start)
    assert len(calls) == len(set(calls)) == sum("_u" in name for name in vectors(step))
