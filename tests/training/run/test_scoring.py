"""Scores as training goes: of which data which, when, which checkpoint they choose, and that nothing else changes."""

import itertools
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Unscored, tiny, weights

from fastvgan.data.digits import DigitsSource
from fastvgan.data.fingerprint import Fingerprint
from fastvgan.data.source import Clips
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import output, samples
from fastvgan.training.run.resume import Start, find_start
from fastvgan.training.run.samples import Samples
from fastvgan.training.run.scoring import Scored, Scoring, choice, describe
from fastvgan.training.step.adversarial import AdversarialStep

DIGITS = {"digit", "colour", "motion", "joint", "diversity", "copies", "same_digit", "frechet", "kernel"}
ARTEFACTS = {"end_sharpness", "grid_pattern"}
DIGITS |= ARTEFACTS


class Noise:
    """Clips of noise under two captions: data of which nothing is known."""

    captions, classes, remarks, decoder = ("a dark clip", "a bright clip"), (), (), "none"
    fingerprint = Fingerprint("", 0, 2, 0)

    def __init__(self, size):
        self.size, self.drawn = size, 0

    def batches(self, batch_size, seed, start=0, rank=0, world_size=1):
        for number in itertools.count(start):
            self.drawn += batch_size
            draw = torch.Generator().manual_seed(number)
            caption = torch.arange(batch_size) % 2
            video = torch.randint(0, 100, (batch_size, 16, 16, 16, 3), generator=draw, dtype=torch.uint8)
            yield Clips(video + 150 * caption.to(torch.uint8)[:, None, None, None, None], caption)


def scoring_of(source, model=None, **training):
    config = tiny(model, **training)
    config = config.model_copy(update={"model": add_vocabulary(config.model, source)})
    step = AdversarialStep(config.model, config.training, torch.device("cpu"), torch.float32)
    drawn = Samples(source, Conditions(config.model, source), step, config.training.seed)
    drawn.settle()
    return Scoring(config, source, step, drawn), step


def train(folder, resume=None, **training):
    trainer = TrainingLoop(tiny(**training), find_start("t", folder, resume) if resume else Start(folder))
    assert trainer.run() == 0
    return trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]


def test_the_digits_are_read(monkeypatch):
    scoring, step = scoring_of(DigitsSource(), evaluate_clips=240)
    found = scoring.measure()
    assert found.scores.keys() == DIGITS and found.choice == choice(found.scores) and found.clips == 240
    assert found.scores["digit"] < 0.3 and found.scores["frechet"] > 50 and found.warnings
    assert scoring.measure() == found

    real = next(DigitsSource(split="test").batches(240, seed=9)).video
    parts = iter(real.split(64))
    monkeypatch.setattr(scoring, "_generate", lambda z, condition: next(parts))
    better = scoring.measure()
    assert better.choice < found.choice and better.scores["frechet"] < 30


def test_held_out_captions_are_asked_for():
    scoring, _ = scoring_of(DigitsSource(hold_out=0.1))
    assert scoring.measure().scores.keys() == DIGITS | {"held_out_joint"}


@pytest.mark.parametrize("size", [20, 300])
def test_other_data_is_drawn_once_and_compared_from_afar(size):
    source = Noise(size)
    scoring, _ = scoring_of(source, evaluate_clips=20)
    drawn = source.drawn
    found = scoring.measure()
    assert found.scores.keys() == {"coarse_frechet", "kernel", "diversity", "copies", "frame_similarity", *ARTEFACTS}
    assert found.choice == found.scores["coarse_frechet"] > 0 and source.drawn == drawn
    assert found.clips == samples._ROUNDS * samples._POOL  # whatever --evaluate-clips
    assert scoring.measure() == found


@pytest.mark.parametrize(("clips", "brightness"), [(16, 200), (15, 50)])
def test_frames_for_tests_are_the_real_clips_if_there_are_enough(tmp_path, monkeypatch, caplog, clips, brightness):
    """The first half of each clip is dark, the second half, kept for tests, is bright."""
    (tmp_path / "clips").mkdir()
    for number in range(clips):
        strip = np.repeat(np.array([50, 200], np.uint8), 4 * 16)[None, :, None].repeat(16, 0).repeat(3, 2)
        Image.fromarray(strip).save(tmp_path / "clips" / f"{number}.png")
    compared = []
    monkeypatch.setattr(output, "Scoring", lambda *arguments: compared.append(arguments[-1]) or Unscored())
    monkeypatch.setattr(samples, "CoarseScore", lambda real: compared.append(real.float().mean().item()))
    config = tiny({"condition": (), "frames": 4}, steps=1)
    data = config.data.model_copy(update={"data": str(tmp_path / "clips"), "workers": 0, "test_share": 0.5})
    assert TrainingLoop(config.model_copy(update={"data": data}), Start(tmp_path / "r")).run() == 0
    assert compared[0] == brightness and (compared[1] is not None) == (clips == 16)
    messages = [record.getMessage() for record in caplog.records if "compare with" in record.getMessage()]
    few = "scores compare with training clips: only 15 clips have frames for tests, and 16 are needed"
    assert messages == [few] * (clips == 15)


def test_data_of_few_clips_is_compared_from_afar_alone():
    assert scoring_of(Noise(9))[0].measure().scores.keys() == {"coarse_frechet"}


@pytest.mark.parametrize("source", [DigitsSource(), Noise(20), Noise(9)])
def test_a_generator_that_is_not_finite_has_no_scores(source, caplog):
    scoring, step = scoring_of(source)
    next(step.ema.parameters()).data.fill_(math.nan)
    assert scoring.measure() == Scored({}, None, [])
    assert [record.getMessage() for record in caplog.records] == [
        "no scores: the averaged generator's clips are not finite"
    ]


def test_no_random_state_is_touched():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    scoring, step = scoring_of(DigitsSource())
    before, average = states(), weights(step)
    scoring.measure()
    assert states() == before
    assert all(torch.equal(average[name], tensor) for name, tensor in weights(step).items())


def test_the_highest_joint_match_is_chosen_and_of_equal_ones_the_smallest_distance():
    ranked = [
        {"joint": 0.95, "frechet": 9.0},
        {"joint": 0.9, "frechet": 5.0},
        {"joint": 0.9, "frechet": 8.0},
        {"joint": 0.1, "frechet": 3.0},
    ]
    assert sorted(reversed(ranked), key=choice) == ranked
    assert choice({"frechet": 2.0}) < choice({"frechet": 3.0})


def test_scores_in_one_line():
    scores = {"frechet": 4.123456, "joint": 0.9333, "copies": 0.0, "diversity": 0.81234}
    assert describe(scores) == "joint 93.3%, diversity 0.8123, frechet 4.123"


def test_when_it_is_evaluated_and_what_that_leaves(tmp_path, caplog):
    caplog.set_level(logging.INFO, "fastvgan")
    trainer = train(tmp_path / "a", steps=7, checkpoint_every=3, keep=9)
    assert [line["step"] for line in lines(tmp_path / "a")] == [3, 6, 7]
    last = lines(tmp_path / "a")[-1]
    assert trainer.scores == {name: value for name, value in last.items() if name != "step"}
    assert f"step 7: {describe(trainer.scores)}" in [record.getMessage() for record in caplog.records]
    curves = EventAccumulator(str(tmp_path / "a" / "tb")).Reload()
    assert [event.step for event in curves.Scalars("evaluation/joint")] == [3, 6, 7]
    assert [event.step for event in curves.Images("samples")] == [7]

    train(tmp_path / "b", steps=7, checkpoint_every=3, evaluate_every=2, keep=9)
    assert [line["step"] for line in lines(tmp_path / "b")] == [2, 4, 6, 7]
    saved = {
        path.parent.name: json.loads(path.read_text())["score"]
        for path in (tmp_path / "b" / "checkpoints").glob("*/state.json")
    }
    by_step = {f"step-{line['step']}": choice(line) for line in lines(tmp_path / "b")}
    if by_step["step-4"] >= by_step["step-2"]:  # not the best so far, and no checkpoint was due
        del by_step["step-4"]
    assert saved == {"step-3": None, **by_step}


def test_a_best_score_is_saved_whatever_its_step(tmp_path, monkeypatch):
    scores = iter([5.0, 4.0, 4.0, math.nan, None, 1.5, 2.0, 3.0])
    monkeypatch.setattr(output.Scoring, "measure", lambda self: Scored({}, next(scores), []))
    train(tmp_path / "r", steps=8, checkpoint_every=100, evaluate_every=1, keep=9)
    assert {path.name for path in (tmp_path / "r" / "checkpoints").iterdir()} == {f"step-{n}" for n in (1, 2, 6, 8)}
    with safe_open(tmp_path / "r" / "export" / "best.safetensors", "pt") as best:
        assert best.metadata()["step"] == "6"


def test_a_best_score_that_cannot_be_looked_up_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(output.Scoring, "measure", lambda self: Scored({}, 1.0, []))
    monkeypatch.setattr(output, "find_best", fail)
    train(tmp_path / "r", steps=3, checkpoint_every=100, evaluate_every=2)
    assert "Stale file handle" in caplog.text and "training continues" in caplog.text


def test_what_is_due_after_a_step():
    training = TrainingConfig(sample_every=2, checkpoint_every=4, evaluate_every=3)
    asked = []

    def after(step):
        return tuple(output.Due.after(step, training, lambda: asked.append(step) or step >= 8))

    found = {step: after(step) for step in (2, 3, 4, 5, 8, 9)}
    assert found == {
        2: (True, False, False, False),
        3: (False, False, True, True),
        4: (True, True, False, True),
        5: (False, False, False, False),
        8: (True, False, False, False),
        9: (False, False, True, False),
    }
    assert asked == [3, 4, 8, 9]  # no other step waits for the device


def test_evaluating_changes_nothing_about_training(tmp_path):
    often = train(tmp_path / "a", steps=6, evaluate_every=1)
    train(tmp_path / "b", steps=3, evaluate_every=100)
    resumed = train(tmp_path / "b", "auto", steps=6, evaluate_every=2, evaluate_clips=17)
    mine, theirs = weights(often.step), weights(resumed.step)
    # The statistics of norms in the average depend on when it was last settled, here at the same step.
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_each_warning_comes_once_and_not_before_half_of_the_steps(tmp_path, caplog, monkeypatch):
    count = itertools.count()

    def measure(self):
        return Scored({"joint": 0.5}, 1.0, [f"the digit is ignored: {next(count)}", "all alike: really"])

    monkeypatch.setattr(output.Scoring, "measure", measure)
    train(tmp_path / "r", steps=8, evaluate_every=1)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["step 4: the digit is ignored: 3", "step 4: all alike: really"]


def test_clips_of_different_conditions_are_shown_first():
    clips = Clips(torch.zeros(6, 1), torch.arange(6), torch.tensor([0, 0, 1, 0, 2, 1]))
    assert samples._distinct(clips, ("class",)) == [0, 2, 4, 1, 3, 5]
    assert samples._distinct(clips, ("text",)) == samples._distinct(clips, ("text", "class")) == list(range(6))


def test_few_clips_at_a_time_settle_the_statistics_of_all(monkeypatch):
    """The mean over equal parts is the mean over all; of the first norm, whose input does not depend on others."""
    monkeypatch.setattr("fastvgan.training.run.samples._POOL", 128)
    monkeypatch.setattr("fastvgan.training.run.samples._ROUNDS", 4)
    settled = []
    for most in (128, 16, 48):
        config = tiny()
        config = config.model_copy(update={"model": add_vocabulary(config.model, DigitsSource())})
        torch.manual_seed(0)
        step = AdversarialStep(config.model, config.training, torch.device("cpu"), torch.float32)
        drawn = Samples(DigitsSource(), Conditions(config.model, DigitsSource()), step, 3, most)
        drawn.settle()
        assert drawn.score() is not None
        (norm, *_) = (module for module in step.ema.modules() if hasattr(module, "running_mean"))
        settled.append((norm.running_mean.clone(), norm.num_batches_tracked.item()))
    assert [count for _, count in settled] == [4, 32, 12]
    torch.testing.assert_close(settled[1][0], settled[0][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(settled[2][0], settled[0][0], rtol=0.5, atol=0.05)  # the last part is smaller
