"""`fastvgan.Trainer` against the command: the same run, and what callbacks and datasets of one's own add to it."""

import json
import logging
import threading

import commands
import numpy as np
import pytest
import torch
from recorded import _READS
from safetensors.torch import load_file
from tiny import FLAGS, Unscored
from torch.utils._python_dispatch import TorchDispatchMode

import fastvgan
from fastvgan.data import ClipShape, DatasetSource
from fastvgan.errors import UserError
from fastvgan.runs.checkpoint import find_best
from fastvgan.runs.log import has_ended
from fastvgan.training.run import output
from fastvgan.training.run.scoring import Scored

SMALL = {"base_width": 2, "batch_size": 4, "latent": 4, "log_every": 2, "precision": "fp32", "evaluate_clips": 16}
SMALL |= {"steps": 4, "checkpoint_every": 2, "sample_every": 2}
# Losses without second derivatives, and small clips: what surrounds the steps is tested here.
FAST = {**SMALL, "frames": 4, "sample_every": 100, "checkpoint_every": 100, "diversity": 0.0}


@pytest.fixture
def unscored(monkeypatch):
    monkeypatch.setattr(output, "Scoring", Unscored)


class Clips(torch.utils.data.Dataset):
    """Captioned noise, other noise whenever it is read, as a random augmentation draws it."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"video": torch.rand(4, 16, 16, 3) / (1 + index), "caption": f"clip {'abcdefg'[index]}"}


class Notes(fastvgan.Callback):
    """Notes each call: the event, the step, and what came with it."""

    def __init__(self, act=lambda event, trainer: None):
        self.events, self._act = [], act

    def _note(self, event, trainer, *more):
        self.events.append((event, trainer.step, *more))
        self._act(event, trainer)

    def on_train_start(self, trainer):
        self._note("start", trainer)

    def on_step_end(self, trainer, metrics):
        self._note("step", trainer, metrics)

    def on_evaluate(self, trainer, scores):
        self._note("evaluate", trainer, scores)

    def on_checkpoint(self, trainer, path):
        self._note("checkpoint", trainer, path)

    def on_sample(self, trainer, path):
        self._note("sample", trainer, path)

    def on_train_end(self, trainer):
        self._note("end", trainer)

    def steps_of(self, event):
        return [step for name, step, *_ in self.events if name == event]


def state(folder, step):
    return load_file(folder / "checkpoints" / f"step-{step}" / "state.safetensors")


def assert_same(a, b):
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def files(folder):
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("tb/")}


def test_it_leaves_what_the_command_leaves(tmp_path):
    flags = ["--preset", "clips", "--data", "digits", "--steps", "4", "--checkpoint-every", "2", "--sample-every", "2"]
    flags += ["--frames", "4", "--evaluate-every", "4"]
    status, _, errors = commands.call("fastvgan.train", [*FLAGS, *flags, "--run-dir", str(tmp_path / "command")])
    assert status == 0, errors
    logging.getLogger().setLevel(logging.WARNING)  # of an application that shows only warnings
    notes = Notes()
    trainer = fastvgan.Trainer(
        "clips", "digits", run_dir=tmp_path / "python", callbacks=[notes], **SMALL, frames=4, evaluate_every=4
    )
    result = trainer.train()
    (a, b) = (tmp_path / name for name in ("command", "python"))
    assert_same(state(a, 4), state(b, 4))
    assert files(a) == files(b)
    for name in ("config.yaml", "evaluation.jsonl"):
        assert (a / name).read_text() == (b / name).read_text()
    for ours, theirs in zip(lines(b, "metrics.jsonl"), lines(a, "metrics.jsonl"), strict=True):
        assert ours.keys() == theirs.keys() and ours["d_loss"] == theirs["d_loss"] and ours["step"] == theirs["step"]
    assert "trained to the last step, 4" in (b / "log.txt").read_text()
    assert logging.getLogger("fastvgan").level == logging.NOTSET

    expected = lines(a, "evaluation.jsonl")[-1]
    assert (result.run_dir, result.step, result.stopped) == (b, 4, None)
    assert result.scores == {name: value for name, value in expected.items() if name != "step"}
    clip = result.generator.generate("a blue 5 moving left and right", seed=3)
    assert torch.equal(clip, fastvgan.load(a).generate("a blue 5 moving left and right", seed=3))

    names = [name for name, *_ in notes.events]
    steps = ["step", "step", "checkpoint", "sample", "step", "step", "evaluate", "checkpoint", "sample"]
    assert names == ["start", *steps, "end"]
    by_step = {step: metrics for name, step, *more in notes.events if name == "step" for metrics in more}
    written = {line["step"]: {k: v for k, v in line.items() if k != "step"} for line in lines(b, "metrics.jsonl")}
    assert by_step == {1: {}, 2: written[2], 3: {}, 4: written[4]}
    assert [more[0] for name, _, *more in notes.events if name == "checkpoint"] == [
        b / "checkpoints" / f"step-{step}" for step in (2, 4)
    ]
    assert all(more[0].is_file() for name, _, *more in notes.events if name == "sample")
    with pytest.raises(UserError, match="has trained .* already; create another one, with resume='auto'"):
        trainer.train()


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_dataset_resumes_with_the_next_batch(tmp_path, unscored, is_stream):
    data = Clips()
    if is_stream:
        data = Stream()
    whole = fastvgan.Trainer(None, data, run_dir=tmp_path / "whole", **FAST)
    assert whole.config.model.condition == ("text",) and whole.config.model.frames == 4
    whole.train()
    stop = Notes(lambda event, trainer: trainer.stop() if event == "step" and trainer.step == 3 else None)
    first = fastvgan.Trainer(None, data, run_dir=tmp_path / "parts", callbacks=[stop], **FAST)
    result = first.train()
    assert (result.step, result.stopped) == (3, "a callback") and stop.events[-1] == ("end", 3)
    with pytest.raises(UserError, match="already holds a run"):
        fastvgan.Trainer(None, data, run_dir=tmp_path / "parts", **FAST)
    again = fastvgan.Trainer(data=data, run_dir=tmp_path / "parts", resume="auto", workers=1 + is_stream)
    assert again.step == 3 and again.train().stopped is None
    longer = fastvgan.Trainer(data=data, run_dir=tmp_path / "parts", resume="auto", epochs=12)
    assert longer.steps == 12 * 7 // longer.config.training.batch_size
    assert_same(state(tmp_path / "whole", 4), state(tmp_path / "parts", 4))
    other = torch.rand(9, 4, 16, 16, 3).numpy()
    with pytest.raises(UserError, match="9 clips now; pass --changed-data|no caption"):
        fastvgan.Trainer(data=other, run_dir=tmp_path / "parts", resume="auto")
    status, _, errors = commands.call("fastvgan.train", ["--run-dir", str(tmp_path / "parts"), "--resume", "auto"])
    assert status == 2 and "was an object in Python; pass it to fastvgan.Trainer" in errors


def test_the_log_tells_whether_a_run_has_ended(tmp_path, unscored):
    found = {}

    def look(event, trainer):
        found.setdefault((event, trainer.step), has_ended(tmp_path / "r" / "log.txt"))
        if (event, trainer.step) == ("step", 2):
            trainer.stop()

    settings = {**FAST, "callbacks": [Notes(look)], "run_dir": tmp_path / "r"}
    fastvgan.Trainer("clips", **settings).train()
    assert found[("start", 0)] is found[("step", 2)] is False and found[("end", 2)] is True
    fastvgan.Trainer("clips", **settings, resume="auto").train()
    assert found[("start", 2)] is found[("step", 4)] is False and found[("end", 4)] is True
    assert not has_ended(tmp_path / "missing.txt")


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return map(Clips().__getitem__, range(7))

    def __len__(self):
        return 7


def test_an_error_in_a_callback_ends_the_run_with_its_state_saved(tmp_path, unscored):
    def fail(event, trainer):
        if event == "step" and trainer.step == 3:
            raise OSError("the disk of the callback")  # an error that a failed write of our own survives

    trainer = fastvgan.Trainer("clips", run_dir=tmp_path / "r", callbacks=[Notes(fail)], **FAST)
    with pytest.raises(OSError, match="the disk of the callback"):
        trainer.train()
    assert fastvgan.Trainer("clips", run_dir=tmp_path / "r", resume="auto", **FAST).step == 3

    def fail_late(event, trainer):
        if event == "checkpoint":
            raise UserError("no")

    late = fastvgan.Trainer("clips", run_dir=tmp_path / "l", callbacks=[Notes(fail_late)], **FAST)
    with pytest.raises(UserError, match="^no$"):
        late.train()
    assert len(state(tmp_path / "l", 4)) > 10


@pytest.mark.parametrize("event", ["on_evaluate", "on_checkpoint"])
def test_an_error_in_a_callback_leaves_the_score_of_its_checkpoint(tmp_path, monkeypatch, event):
    monkeypatch.setattr(output, "Scoring", Unscored)
    monkeypatch.setattr(Unscored, "measure", lambda self: Scored({}, 3.0, []))

    def fail(*_):
        raise RuntimeError("pruned")

    callback = type("Fails", (fastvgan.Callback,), {event: fail})()
    trainer = fastvgan.Trainer("clips", run_dir=tmp_path / "r", callbacks=[callback], **{**FAST, "checkpoint_every": 2})
    with pytest.raises(RuntimeError, match="pruned"):
        trainer.train()
    assert "step-2" in str(find_best(tmp_path / "r" / "checkpoints"))
    assert fastvgan.load(tmp_path / "r").path.name == "best.safetensors"


def test_stopped_by_an_evaluation_it_trains_one_more_step(tmp_path, unscored):
    notes = Notes(lambda event, trainer: trainer.stop() if event == "evaluate" else None)
    settings = {**FAST, "steps": 9, "checkpoint_every": 2, "keep": 9}
    found = []

    def run():  # in another thread, as of a page: no signal handlers there
        found.append(fastvgan.Trainer("clips", run_dir=tmp_path / "r", callbacks=[notes], **settings).train())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0].step == 3 and found[0].stopped == "a callback"
    assert notes.steps_of("checkpoint") == [2, 3] and notes.steps_of("evaluate") == [2, 3]


def test_a_callback_that_ends_a_run_leaves_a_line_for_its_last_steps(tmp_path, unscored):
    notes = Notes(lambda event, trainer: trainer.stop() if trainer.step == 3 else None)
    settings = {**FAST, "steps": 9, "log_every": 2}
    fastvgan.Trainer("clips", run_dir=tmp_path / "r", callbacks=[notes], **settings).train()
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3]


class Reads(TorchDispatchMode):
    """Counts the values that the host reads."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in _READS
        return function(*args, **(kwargs or {}))


def test_callbacks_read_nothing_between_lines_of_metrics(tmp_path, unscored):
    """On a GPU each read would make the host wait; the one per step that remains is of the vote, on the host."""
    settings = {**FAST, "steps": 6, "log_every": 6, "matching_aware": False, "condition": ()}
    reads = {}

    def count(name, callbacks):
        trainer = fastvgan.Trainer("clips", run_dir=tmp_path / name, callbacks=callbacks, **settings)
        train_on, at = trainer._loop._train_on, []
        mode = Reads()
        trainer._loop._train_on = lambda clips: (at.append(mode.count), train_on(clips))
        with mode:
            trainer.train()
        return [after - before for before, after in zip(at, at[1:], strict=False)]

    reads = [count("without", []), count("with", [Notes(), Notes()])]
    assert reads[0] == reads[1] == [1] * 5


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (("nonsense",), {}, "unknown preset 'nonsense'; use one of digits,"),
        (("missing.yaml",), {}, "cannot read the configuration missing.yaml"),
        (("clips", "missing-folder"), {}, "missing-folder"),
        (("clips",), {"stepss": 3}, "'stepss' is not a setting; did you mean 'steps'?"),
        (("clips",), {"steps": 0}, "steps 0: must be at least 1"),
        (("clips",), {"changed_data": True}, "changed_data needs a run to resume"),
        (("clips",), {"callbacks": [Notes]}, r"expected instances of fastvgan.Callback, not Notes; .* Notes\(\)"),
        (("clips",), {"callbacks": Notes()}, r"expected a list of callbacks, not a single one; pass \[callback\]"),
        (({"steps": 5},), {}, "config: expected the name of a preset, a YAML file or a RunConfig, not dict"),
        ((None, [np.zeros((4, 16, 16, 3), "U1")]), {}, "item 0 of the dataset is an array of <U1; return uint8"),
        (("clips",), {"resume": "nowhere"}, "nowhere: this folder does not exist"),
        (("clips", 3), {}, "expected a path, a torch Dataset or a fastvgan.data.Source, not int"),
        (("clips", torch.utils.data.DataLoader(Clips())), {}, "not DataLoader; pass its dataset"),
        (("clips", Clips()), {}, "have 4 frames of 16x16x3 .* the model takes 16 frames .* pass frames=4, height=16"),
        (("clips", Clips()), {"frames": 4, "mirror": True}, "mirror True does not apply to python:Clips"),
        ((None, torch.rand(3, 4, 20, 16, 3)), {}, "20x16x3.*height 20: must be a power of two.*; resize them"),
        ((None, []), {}, "the dataset list has 0 items; it needs at least one"),
        (("clips", Clips()), {"frames": 4, "workers": 5000}, "workers 5000: must be at most"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, arguments, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        fastvgan.Trainer(*arguments, run_dir=tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_settings_that_suit_a_dataset_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey = [(torch.zeros(1, 8, 32, 64, dtype=torch.uint8), i % 3) for i in range(6)]  # (C, T, H, W), and a class
    settings = {"base_width": 2, "batch_size": 4, "latent": 4, "precision": "fp32"}
    trainer = fastvgan.Trainer(data=grey, run_dir=tmp_path / "r", **settings)
    model = trainer.config.model
    assert (model.frames, model.height, model.width, model.channels) == (8, 32, 64, 1)
    assert (model.condition, model.class_names) == (("class",), ("0", "1", "2"))
    assert trainer.config.data.data == "python:list" and trainer.config.data.workers == 0
    assert "6 clips" in trainer.describe() and not (tmp_path / "r").exists()
    assert str(fastvgan.Trainer(data=grey, **settings).run_dir) == "runs/list-1"
    source = DatasetSource(grey, ClipShape(8, 32, 64, 1))
    again = fastvgan.Trainer(data=source, run_dir=tmp_path / "r", **settings)
    assert again.config.model.condition == () and again.config.model.height == 32
    assert "6 clips are few: training with --augment" in again.describe() and "few" not in trainer.describe()
    unlabelled = fastvgan.Trainer(data=grey, run_dir=tmp_path / "u", condition="none", **settings)
    assert unlabelled.config.training.augment and "6 clips are few" in unlabelled.describe()
