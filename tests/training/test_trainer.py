"""What a run does about what happens to it: losses that are not finite, signals, and folders and clips that vanish."""

import json
import math
import os
import random
import shutil
import signal
import statistics
import types

import pytest
import torch
from commands import ROOT
from tiny import Unscored, tiny, weights

from fastvgan.errors import UserError
from fastvgan.files.tensor_file import read_tensors
from fastvgan.generation.files import EXPORTED
from fastvgan.runs.checkpoint import find_newest_good
from fastvgan.training.batches import BatchMaker
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import checkpoint, output
from fastvgan.training.run.resume import Start, find_start

STEPS = 24
SETTINGS = {"steps": STEPS, "checkpoint_every": 4, "log_every": 2, "max_skipped": 3, "keep": 2}


def begin(folder, resume=None, model=None, before_step=lambda trainer, number: None, **settings):
    """A trainer that calls `before_step` before each step."""
    start = find_start("t", folder, resume) if resume else Start(folder)
    trainer = TrainingLoop(tiny(model, **{**SETTINGS, **settings}), start)
    runner = trainer.runner

    def run_hook(number, clips):
        before_step(trainer, number)
        runner(number, clips)

    trainer.runner = run_hook
    return trainer


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture
def poison(monkeypatch):
    """Makes the noise of the steps that a function picks NaN, and so their losses."""
    when = [lambda number: False]
    make = BatchMaker.make

    def make_poisoned(self, number, part, clips):
        inputs = make(self, number, part, clips)
        return inputs._replace(z=inputs.z * math.nan) if when[0](number.item()) else inputs

    monkeypatch.setattr(BatchMaker, "make", make_poisoned)
    return lambda function: when.__setitem__(0, function)


def test_a_few_steps_that_are_not_finite_are_left_out(tmp_path, poison):
    poison(lambda number: number in (5, 6, 11))
    trainer = begin(tmp_path / "r")
    assert trainer.run() == 0
    assert sum(line["skipped"] for line in lines(tmp_path / "r")) == 3
    assert trainer._record.setbacks == 0
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer.step).values())


def test_many_in_a_row_take_the_run_back_with_lower_rates(tmp_path, poison, caplog):
    trainer = begin(tmp_path / "r")
    poison(lambda number: number >= 9 and trainer._record.rate == 1)
    assert trainer.run() == 0
    assert (trainer.done, trainer._record.setbacks, trainer._record.rate) == (STEPS, 1, 0.5)
    messages = [record.getMessage() for record in caplog.records if "back to step" in record.getMessage()]
    assert len(messages) == 1 and "back to step 8, with 0.5 of the learning rates" in messages[0]
    found = lines(tmp_path / "r")
    assert [line["step"] for line in found] == list(range(2, STEPS + 1, 2))
    assert [line["lr_generator"] == pytest.approx(4e-4 / (1 + (line["step"] > 8))) for line in found] == [True] * 12
    saved = json.loads((tmp_path / "r" / "checkpoints" / f"step-{STEPS}" / "state.json").read_text())
    assert saved["setbacks"] == 1 and saved["rate"] == 0.5


def test_what_was_trained_after_a_setback_goes_on_exactly(tmp_path, poison):
    """The rate and the count are part of what a resumed run takes up."""
    results = []
    for stop in (None, 18):
        folder = tmp_path / str(stop)

        def at(trainer, number, stop=stop):
            if number == stop and not trainer.resumed:
                trainer._signal = signal.SIGTERM

        trainer = begin(folder, before_step=at)
        trainer.resumed = False
        poison(lambda number, trainer=trainer: number >= 9 and trainer._record.rate == 1)
        status = trainer.run()
        if stop:
            assert status == 128 + signal.SIGTERM and trainer.done in (stop + 1, stop + 2)
            trainer = begin(folder, "auto")
            assert trainer._record.rate == 0.5
            assert trainer.run() == 0
        results.append(weights(trainer.step))
    assert [name for name in results[0] if not torch.equal(results[0][name], results[1][name])] == []


def test_without_a_checkpoint_it_begins_again(tmp_path, poison):
    trainer = begin(tmp_path / "r", checkpoint_every=100)
    poison(lambda number: trainer._record.rate == 1)
    assert trainer.run() == 0 and trainer._record.setbacks == 1
    fresh = begin(tmp_path / "f", checkpoint_every=100, lr_generator=2e-4, lr_discriminator=2e-4)
    assert fresh.run() == 0
    mine, theirs = weights(trainer.step), weights(fresh.step)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_without_one_of_its_own_it_returns_to_the_checkpoint_that_it_continues(tmp_path, poison):
    begin(tmp_path / "a", steps=4).run()
    start = find_start("t", tmp_path / "b", str(tmp_path / "a" / "checkpoints" / "step-4"))
    trainer, numbers = TrainingLoop(tiny(steps=12, max_skipped=3, checkpoint_every=100), start), []

    def is_bad(number):
        numbers.append(number)
        return number >= 5 and trainer._record.rate == 1

    poison(is_bad)
    assert trainer.run() == 0 and (trainer.done, trainer._record.setbacks) == (12, 1)
    assert min(numbers) == 4


def test_losses_that_stay_so_end_the_run_and_keep_its_last_good_state(tmp_path, poison):
    poison(lambda number: number >= 10)
    trainer = begin(tmp_path / "r", max_setbacks=2)
    with pytest.raises(
        UserError, match=r"not finite, in \d+ steps in a row.*did not help 2 times; .*another --run-dir with lower --lr"
    ):
        trainer.run()
    good, remarks = find_newest_good(tmp_path / "r" / "checkpoints")
    assert good.name == "step-8" and not remarks
    poison(lambda number: False)
    assert begin(tmp_path / "r", "auto").run() == 0


@pytest.mark.parametrize(
    ("steps", "log_every", "most", "bad"),
    [
        (15, 10, 10, lambda number: number >= 1),  # the last metrics line comes after the tenth bad step
        (8, 100, 10, lambda number: number >= 1),  # fewer steps than --max-skipped
        (2, 1, 10, lambda number: number == 1),
        (1, 1, 10, lambda number: True),
        (15, 4, 10, lambda number: number % 2 == 0),  # never two in a row
        (9, 9, 3, lambda number: number >= 6),
    ],
)
def test_a_run_whose_updates_were_left_out_does_not_end_as_trained(tmp_path, poison, steps, log_every, most, bad):
    poison(bad)
    trainer = begin(
        tmp_path / "r", steps=steps, log_every=log_every, max_skipped=most, max_setbacks=1, checkpoint_every=100
    )
    with pytest.raises(UserError, match=r"not finite.*another --run-dir with lower --lr-gen"):
        trainer.run()
    assert find_newest_good(tmp_path / "r" / "checkpoints") == (None, [])


def test_a_few_skipped_steps_at_the_end_are_reported(tmp_path, poison, caplog):
    poison(lambda number: number in (3, 6, 7))
    assert begin(tmp_path / "r", steps=8, checkpoint_every=100).run() == 0
    assert "3 of 8 steps were not finite and changed nothing" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("family, times", [("conv3d", 7), ("recurrent", 10)])  # each stop builds the trainer again
def test_stopped_many_times_at_random_it_computes_the_same(tmp_path, family, times):
    settings = {"steps": 60, "lr_decay": 0.5, "checkpoint_every": 7, "diversity": 1.0, "r1": 0.1, "r1_every": 3}
    settings["model"] = {"family": family, "condition": ("text",)}
    settings["model"] |= {"discriminators": ("clip", "frame", "difference"), "frame_every": 2}
    settings["model"] |= {"warp": True, "clock": True}
    settings |= {"contrast": 1.0, "wrong_conditions": 3, "redraw": 3.0, "diversity_rise": 0.8}
    settings |= {"feature_diversity": 2.0}
    whole = begin(tmp_path / "whole", **settings)
    assert whole.run() == 0
    stops = set(random.Random(family).sample(range(59), times))

    def at(trainer, number):
        if number in stops:
            stops.discard(number)
            trainer._signal = signal.SIGINT

    count = 0
    while True:
        trainer = begin(tmp_path / "parts", "auto", before_step=at, **settings)
        status = trainer.run()
        if status == 0:
            break
        assert status == 128 + signal.SIGINT
        count += 1
    assert count >= 3 * times // 4 and trainer.done == 60  # a stop in the step after a stop comes with it
    mine, theirs = weights(whole.step), weights(trainer.step)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    steps = [line["step"] for line in lines(tmp_path / "parts")]
    assert steps == sorted(set(steps)) and steps[-1] == 60


def test_fewer_steps_than_a_checkpoint_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "Scoring", Unscored)
    folder, settings = tmp_path / "r", {"checkpoint_every": 100}
    assert begin(folder, steps=3, **settings).run() == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"step-3 has 3 steps already, .* ends after 2; use --steps 3 or more"):
        begin(folder, "auto", steps=2, **settings)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert begin(folder, "auto", steps=3, **settings).run() == 0


def test_a_run_that_is_stopped_leaves_a_line_for_its_last_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "Scoring", Unscored)
    folder, settings = tmp_path / "r", {"log_every": 4, "steps": 10, "checkpoint_every": 100}
    assert begin(folder, before_step=stop_at(5, signal.SIGTERM), **settings).run() == 128 + signal.SIGTERM
    assert [line["step"] for line in lines(folder)] == [4, 6]
    assert begin(folder, "auto", **settings).run() == 0
    assert [line["step"] for line in lines(folder)] == [4, 6, 8, 10]


def stop_at(number, by):
    def at(trainer, step):
        if step == number:
            trainer._signal = by

    return at


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_what_a_signal_ends_is_saved_before_it_is_scored(tmp_path, monkeypatch, by):
    """A second Ctrl-C, or a kill soon after SIGTERM, then costs no step."""
    asked = []

    def interrupt(scoring):
        asked.append([path.name for path in (tmp_path / "r" / "checkpoints").iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvgan.training.run.scoring.Scoring.measure", interrupt)
    trainer = begin(tmp_path / "r", before_step=stop_at(1, by), checkpoint_every=100, evaluate_every=100)
    if by == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert asked == [["step-2"]]
    else:
        assert trainer.run() == 128 + by and asked == []
    assert find_newest_good(tmp_path / "r" / "checkpoints")[0].name == "step-2"
    assert not list((tmp_path / "r" / "samples").iterdir())


def test_ctrl_c_scores_the_step_that_it_saves(tmp_path):
    trainer = begin(tmp_path / "r", before_step=stop_at(1, signal.SIGINT), checkpoint_every=100, evaluate_every=100)
    assert trainer.run() == 128 + signal.SIGINT
    assert [line["step"] for line in lines(tmp_path / "r", "evaluation.jsonl")] == [2]
    saved = json.loads((tmp_path / "r" / "checkpoints" / "step-2" / "state.json").read_text())
    assert saved["score"] is not None and list((tmp_path / "r" / "samples").iterdir())


def test_algorithms_are_timed_where_training_runs(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("fastvgan.training.loop.time_algorithms", asked.append)
    trainer = begin(tmp_path / "r")
    assert asked == [trainer.device]


def test_the_diversity_term_s_weight_rises(tmp_path):
    shares = []

    def at(trainer, number):
        shares.append(trainer.step._diversity_share.tensor.item())

    assert begin(tmp_path / "r", before_step=at, steps=8, diversity=1.0, diversity_rise=0.5).run() == 0
    assert shares == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]


@pytest.mark.parametrize("condition", [(), ("image",), ("class",), ("class", "image"), ("image", "text")], ids="+".join)
@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_every_condition_trains_with_everything_on(tmp_path, family, condition):
    model = {"family": family, "condition": condition, "refine": 1, "warm_up": 1, "channels": 1, "frames": 5}
    model |= {"discriminators": ("clip", "frame", "difference"), "frame_every": 2, "warp": True, "clock": True}
    settings = {"contrast": 1.0, "wrong_conditions": 3, "first_frame": 1.0, "diversity": 1.0, "r1": 0.1, "r1_every": 2}
    settings |= {"redraw": 1.0, "batch_size": 8}  # in two parts, each of which shows all of five frames
    for precision in ("fp32", "fp16"):
        trainer = begin(tmp_path / precision, model=model, steps=4, accumulate=2, precision=precision, **settings)
        assert trainer.run() == 0
        assert all(math.isfinite(value) for line in lines(tmp_path / precision) for value in line.values())


@pytest.mark.with_report
def test_a_run_folder_that_vanishes_is_rebuilt(tmp_path, caplog):
    folder = tmp_path / "r"

    def at(trainer, number):
        if number == 10:
            shutil.rmtree(folder)

    assert begin(folder, before_step=at).run() == 0
    assert [line["step"] for line in lines(folder)][-1] == STEPS
    assert find_newest_good(folder / "checkpoints")[0].name == f"step-{STEPS}"
    for name in ("config.yaml", "env.json", "export/generator.safetensors", "report.html"):
        assert (folder / name).is_file()
    assert any("vanish" in record.getMessage() for record in caplog.records)
    assert begin(folder, "auto", steps=STEPS + 2).run() == 0


def test_a_checkpoint_that_cannot_be_written_does_not_end_training(tmp_path, monkeypatch, caplog):
    save, failed = checkpoint.save, []

    def full(folder, step, record, keep):
        if record.step in (8, 12):
            failed.append(record.step)
            raise OSError(28, "No space left on device")
        return save(folder, step, record, keep)

    monkeypatch.setattr(checkpoint, "save", full)
    assert begin(tmp_path / "r").run() == 0
    messages = [r.getMessage() for r in caplog.records if "cannot write" in r.getMessage()]
    assert failed == [8, 12] and len(messages) == 2 and "the disk is full; make room; training continues" in messages[0]


def test_the_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    remedy = "the disk is full; make room, then resume from the beginning with --resume auto"
    with pytest.raises(UserError, match=remedy):
        begin(tmp_path / "r").run()


def test_data_that_cannot_be_read_any_more_costs_no_step(tmp_path):
    trainer = begin(tmp_path / "r", checkpoint_every=100)
    batches = trainer.source.batches

    def fail(*arguments):
        for number, clips in enumerate(batches(*arguments)):
            if number == 13:
                raise OSError(5, "Input/output error", "clip.mp4")
            yield clips

    trainer.source.batches = lambda size, *rest: fail(size, *rest) if size == 4 else batches(size, *rest)
    trainer.source.draws = 0  # so that clips are made ahead
    with pytest.raises(UserError, match=r"cannot read the data any more: .*clip\.mp4.*--resume auto"):
        trainer.run()
    assert find_newest_good(tmp_path / "r" / "checkpoints")[0].name == "step-13"
    # The generator has the statistics of its weights, as after a run that ends as it should.
    stopped = begin(tmp_path / "s", before_step=stop_at(12, signal.SIGTERM), checkpoint_every=100)
    assert stopped.run() == 128 + signal.SIGTERM and stopped.done == 13
    mine, theirs = (read_tensors(tmp_path / name / EXPORTED)[0] for name in "rs")
    assert any("running" in name for name in mine) and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_state_whose_statistics_cannot_be_computed_is_saved(tmp_path, monkeypatch, caplog):
    trainer = begin(tmp_path / "r", checkpoint_every=100, sample_every=100, evaluate_every=100)

    ema, known = trainer.step.ema, {}

    def fail(*_):
        if ema.training:  # in the second pass of those that settle the statistics
            known["passes"] = known.get("passes", 0) + 1
            if known["passes"] == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

    def stop(name, *_):
        trainer._output._settle()
        known["buffers"] = {name: buffer.clone() for name, buffer in ema.named_buffers()}
        ema.register_forward_pre_hook(fail)
        raise ValueError("from a callback")

    trainer._callbacks = types.SimpleNamespace(call=lambda name, *_: stop(name) if name == "on_step_end" else None)
    with pytest.raises(ValueError, match="from a callback"):
        trainer.run()
    assert find_newest_good(tmp_path / "r" / "checkpoints")[0].name == "step-1"
    assert "keeps the statistics of its last use: CUDA out of memory" in caplog.text
    assert not ema.training and known["passes"] == 2
    assert all(torch.equal(buffer, known["buffers"][name]) for name, buffer in ema.named_buffers())


def train_200_steps(folder, precision):
    settings = {"steps": 200, "precision": precision, "log_every": 50, "batch_size": 8, "checkpoint_every": 1000}
    trainer = begin(folder, model={"condition": (), "base_width": 4}, evaluate_clips=128, **settings)
    assert trainer.run() == 0
    assert trainer._record.setbacks == 0
    assert all(p.dtype == torch.float32 for p in trainer.step.generator.parameters())
    return lines(folder), lines(folder, "evaluation.jsonl")[-1]["frechet"]


@pytest.fixture(scope="module")
def in_full_precision(tmp_path_factory):
    return train_200_steps(tmp_path_factory.mktemp("full") / "r", "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16", pytest.param("tf32", marks=pytest.mark.gpu)])
def test_precisions_train_alike_over_200_steps(tmp_path, in_full_precision, precision):
    """No two runs of a GAN stay together, but what they reach in 200 steps is alike."""
    (full, full_score), (half, half_score) = in_full_precision, train_200_steps(tmp_path / "r", precision)
    for a, b in zip(full, half, strict=True):
        for key in ("d_loss", "g_loss", "d_real", "d_fake"):
            assert b[key] == pytest.approx(a[key], rel=0.25, abs=0.1), (key, a["step"])
    assert half_score == pytest.approx(full_score, rel=0.25)


def test_a_clip_that_is_removed_is_named_and_another_takes_its_place(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(ROOT / "tests" / "data")
    from make_videos import encode, square

    clips = tmp_path / "clips"
    clips.mkdir()
    for colour in ("red", "green", "blue"):
        encode(clips / f"{colour}.mp4", square(colour, "up and down", 18, 16, 16))

    def at(trainer, number):
        if number == 4:
            (clips / "green.mp4").unlink()

    config = tiny({"condition": ()}, **SETTINGS)
    config = config.model_copy(update={"data": config.data.model_copy(update={"data": str(clips), "workers": 0})})
    trainer = TrainingLoop(config, Start(tmp_path / "r"))
    runner = trainer.runner
    trainer.runner = lambda number, clips: (at(trainer, number), runner(number, clips))
    assert trainer.run() == 0 and trainer.done == STEPS
    messages = [r.getMessage() for r in caplog.records if "using another clip instead" in r.getMessage()]
    assert len(messages) == 1 and messages[0].startswith("green.mp4: ")


def test_memory_stays_flat(tmp_path):
    """FASTVGAN_LONG=1 takes 10,000 steps; with checkpoints, samples and metrics in between."""
    steps = 10_000 if os.environ.get("FASTVGAN_LONG") else 600
    often = {"log_every": 10, "checkpoint_every": steps // 10, "sample_every": steps // 10}
    # An evaluation takes and frees megabytes at once, of which the C library keeps some: more in a process that has run
    # other tests. Forty of them in a fresh one leave no trend.
    often["evaluate_every"] = steps
    trainer = begin(tmp_path / "r", model={"condition": (), "frames": 4, "base_width": 1}, steps=steps, **often)
    assert trainer.run() == 0
    memory = [line["memory_bytes"] for line in lines(tmp_path / "r")]
    quarter = len(memory) // 4
    early, late = (statistics.median(part) for part in (memory[quarter : 2 * quarter], memory[-quarter:]))
    assert late - early < 4e6, [round(value / 1e6, 1) for value in memory]
