"""A run is resumed on the data that it was trained on; on others only when that is asked for, and where they fit."""

import json
import math
import shutil

import commands
import numpy as np
import pytest
from PIL import Image
from tiny import FLAGS, Unscored, tiny

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import read_tensors
from fastvgan.models import ModelConfig
from fastvgan.runs.checkpoint import list_complete, read_record
from fastvgan.runs.config import TrainingConfig, find_differences
from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import BatchMaker
from fastvgan.training.feed import read_steps
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.parallel import Parallel
from fastvgan.training.report.collect import write_report
from fastvgan.training.run import output
from fastvgan.training.run.resume import find_start
from fastvgan.training.run.scoring import Scored

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230)}
CAPTION = "a {} square"


def add(folder, name, colour="red", caption=CAPTION, frames=18):
    """Write a clip, a strip of square frames, and its caption."""
    strip = np.zeros((16, 16 * frames, 3), np.uint8)
    for t in range(frames):
        strip[4:12, 16 * t + t % 8 : 16 * t + t % 8 + 8] = COLOURS[colour]
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip).save(path)
    path.with_suffix(".txt").write_text(caption.format(colour) + "\n")


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    monkeypatch.setattr(output, "Scoring", Unscored)


def begin(folder, data, resume=None, parallel=None, model=None, changed_data=False, **training):
    config = tiny(model, **{"steps": 4, "checkpoint_every": 2, "keep": 9, **training})
    config = config.model_copy(update={"data": config.data.model_copy(update={"data": str(data), "workers": 0})})
    return TrainingLoop(config, find_start("t", folder, resume)._replace(changed_data=changed_data), parallel)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A run on five clips with two captions, to step 4."""
    folder = tmp_path_factory.mktemp("trained")
    for number in range(5):
        add(folder / "clips", number, ("red", "green")[number % 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "Scoring", Unscored)
        patch.setattr(output, "write_report", lambda folder: None)
        assert begin(folder / "r", folder / "clips").run() == 0
    return folder


@pytest.fixture
def run_copy(trained_run, tmp_path):
    """The same in a separate folder."""
    shutil.copytree(trained_run, tmp_path / "copied")
    return tmp_path / "copied"


def resume(run_copy, **options):
    return begin(run_copy / "r", run_copy / "clips", "auto", **{"steps": 6, **options})


def data_of(folder, step):
    return read_record(folder / "r" / "checkpoints" / f"step-{step}").data


def test_on_the_same_data_nothing_is_said_wherever_they_lie(trained_run, run_copy, caplog):
    before = data_of(trained_run, 4)
    assert before[1:] == (5, 2, 0) and len(before.checksum) == 64
    for trainer in (begin(trained_run / "r", trained_run / "clips", "auto"), resume(run_copy)):
        assert trainer.done == 4 and not [remark for remark in trainer.remarks if "data" in remark]
    assert trainer.run() == 0 and data_of(run_copy, 6) == before
    assert not [record for record in caplog.records if "other data" in record.getMessage()]


CHANGES = {
    "more": (
        lambda clips: add(clips, "x"),
        r"on 5 clips with 2 captions, and .*clips holds 6 clips with 2 captions now",
    ),
    "gone": (lambda clips: (clips / "0.png").unlink(), r"and .*clips holds 4 clips with 2 captions now"),
    "longer": (lambda clips: add(clips, "0", frames=20), "holds as many, but other or changed ones"),
    "redrawn": (
        lambda clips: add(clips, "0", "blue", CAPTION.format("red")),
        "holds as many, but other or changed ones",
    ),
    "captions": (lambda clips: (clips / "0.txt").write_text("a red red\n"), "holds 5 clips with 3 captions now"),
    "classes": (
        lambda clips: (add(clips / "a", "x"), add(clips / "b", "y")),
        "holds 7 clips with 2 captions and 2 classes now",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_on_changed_data_it_goes_on_only_when_asked_to(run_copy, change, caplog):
    before = data_of(run_copy, 4)
    CHANGES[change][0](run_copy / "clips")
    with pytest.raises(UserError, match=CHANGES[change][1]) as raised:
        resume(run_copy)
    said = str(raised.value)
    assert "step-4 was trained on other data" in said and "pass --changed-data to use them anyway" in said
    assert "another --run-dir" in said and "\n" not in said
    trainer = resume(run_copy, changed_data=True)
    assert trainer.run() == 0 and trainer.done == 6
    messages = [record.getMessage() for record in caplog.records if "trained on other data" in record.getMessage()]
    assert len(messages) == 1 and messages[0].endswith("; continuing with them because of --changed-data")
    assert data_of(run_copy, 4) == before
    assert data_of(run_copy, 6) == trainer.source.fingerprint != before
    assert not [remark for remark in resume(run_copy).remarks if "data" in remark]  # they are its data now


def test_scores_on_the_data_of_before_do_not_count(tmp_path, monkeypatch):
    for number in range(5):
        add(tmp_path / "clips", number)
    scores = iter([1.0, 2.0, 5.0, 3.0])
    monkeypatch.setattr(Unscored, "measure", lambda self: Scored({}, next(scores), []))
    assert begin(tmp_path / "r", tmp_path / "clips", steps=2, checkpoint_every=1).run() == 0
    assert resume(tmp_path)._record.score == 2.0
    add(tmp_path / "clips", "x")
    trainer = resume(tmp_path, changed_data=True, steps=4, checkpoint_every=100, evaluate_every=1)
    assert trainer._record.score is None
    assert trainer.run() == 0
    assert [path.name for path in list_complete(tmp_path / "r" / "checkpoints")] == [f"step-{n}" for n in (1, 2, 3, 4)]
    assert (
        read_tensors(tmp_path / "r" / "export" / "best.safetensors")[1].items() >= {"step": "4", "score": "3.0"}.items()
    )


def test_numbers_that_depend_on_the_clips_are_counted_again(run_copy):
    for name in "xyz":
        add(run_copy / "clips", name)
    trainer = resume(run_copy, changed_data=True, steps=None, epochs=5)
    assert trainer.steps == 5 * 8 // 4
    read = read_steps(trainer.config.training, trainer.source, trainer.parallel, trainer.done, trainer.device)
    assert next(read).video.equal(next(trainer.source.batches(4, seed=0, start=4)).video)
    # Batches of 4: with step 4 a new epoch of 8 clips begins.
    assert sorted(trainer.source.sampler.clips(0, range(4 * 4, 6 * 4))) == list(range(8))
    assert trainer.run() == 0 and trainer.done == 10


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("a blue round {} square", r"has words in its captions \('blue', 'round'\) other than those that"),
        ("a {} red green square", r"has captions of 5 words, longer than the 3 that"),
    ],
)
def test_captions_that_do_not_fit_the_networks_are_refused(run_copy, caption, sentence):
    add(run_copy / "clips", "x", "red", caption)
    for changed_data in (False, True):
        with pytest.raises(UserError, match=sentence + " the networks of .*step-4 were built for") as raised:
            resume(run_copy, changed_data=changed_data)
        assert "--changed-data" not in str(raised.value) and "train into another --run-dir" in str(raised.value)


def test_classes_that_do_not_fit_the_networks_are_refused(tmp_path):
    for name in ("a/0", "a/1", "b/0", "b/1"):
        add(tmp_path / "clips", name)
    model = {"condition": ("class",)}
    assert begin(tmp_path / "r", tmp_path / "clips", model=model, steps=2).run() == 0
    (tmp_path / "clips" / "a").rename(tmp_path / "clips" / "c")
    with pytest.raises(UserError, match=r"has the classes 'b', 'c', not 'a', 'b', which the networks of .*step-2 were"):
        resume(tmp_path, model=model, changed_data=True)


def test_words_that_are_left_mean_what_they_meant(run_copy):
    """Without the green clips "green" is in no caption, and the words behind it must not move up."""
    for number in (1, 3):
        (run_copy / "clips" / f"{number}.png").unlink()
    trainer = resume(run_copy, changed_data=True)
    words = trainer.config.model.vocabulary
    assert words == ("a", "green", "red", "square")
    text, _ = trainer.conditions.right(next(trainer.source.batches(2, seed=0)))
    assert [[words[i - 2] for i in row] for row in text.tolist()] == [["a", "red", "square"]] * 2
    assert trainer.run() == 0
    assert resume(run_copy).config.model.vocabulary == words


def forget(folder, version=2):
    """Make the checkpoints what versions wrote that noted no data."""
    for path in list_complete(folder / "r" / "checkpoints"):
        state = json.loads((path / "state.json").read_text())
        del state["data"]
        state = state if version == 2 else {"format": 1, "step": state["step"]}
        (path / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("version", [1, 2])
def test_of_an_older_checkpoint_it_is_said_once_that_nobody_knows(trained_run, tmp_path, version):
    shutil.copytree(trained_run / "r", tmp_path / "r")
    forget(tmp_path, version)
    trainer = begin(tmp_path / "r", trained_run / "clips", "auto", steps=6)
    (said,) = [remark for remark in trainer.remarks if "data" in remark]
    assert "step-4 was written by an earlier version" in said and said.endswith("clips is unchanged")
    assert trainer.run() == 0 and data_of(tmp_path, 6) == trainer.source.fingerprint
    again = begin(tmp_path / "r", trained_run / "clips", "auto", steps=6)
    assert not [remark for remark in again.remarks if "data" in remark]


def test_an_older_checkpoint_goes_on_with_data_of_another_name_only_when_asked_to(run_copy, trained_run):
    forget(run_copy)
    sentence = (
        rf"step-4 was trained on --data {trained_run}/clips, and --data is {run_copy}/clips now; pass --changed-data"
    )
    with pytest.raises(UserError, match=sentence):
        resume(run_copy)
    assert any("cannot check" in remark for remark in resume(run_copy, changed_data=True).remarks)


def test_a_fingerprint_that_is_damaged_is_a_damaged_checkpoint(run_copy):
    path = run_copy / "r" / "checkpoints" / "step-4" / "state.json"
    for data in ("x", {"checksum": "x"}, {"checksum": "x", "clips": "many", "captions": 0, "classes": 0}):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
        with pytest.raises(UserError, match=r"state\.json is damaged"):
            read_record(path.parent)
        assert resume(run_copy).done == 2


def test_a_setback_returns_to_a_checkpoint_of_the_data_of_before(run_copy, monkeypatch):
    add(run_copy / "clips", "x")
    trainer = resume(run_copy, changed_data=True, steps=9, checkpoint_every=100, max_skipped=2)
    make = BatchMaker.make

    def make_poisoned(self, number, part, clips):
        inputs = make(self, number, part, clips)
        return inputs._replace(z=inputs.z * math.nan) if trainer._record.rate == 1 else inputs

    monkeypatch.setattr(BatchMaker, "make", make_poisoned)
    assert trainer.run() == 0 and trainer._record.setbacks == 1
    assert data_of(run_copy, 9) == trainer.source.fingerprint != data_of(run_copy, 4)


class Later(Parallel):
    """A process other than the first, which receives the first one's results."""

    def run_on_first(self, function):
        raise UserError("what the first process says")


def test_the_first_process_decides(run_copy):
    add(run_copy / "clips", "x")
    with pytest.raises(UserError, match="what the first process says"):
        resume(run_copy, parallel=Later())


def test_the_command_says_so_without_training_too(run_copy):
    flags = [*FLAGS, "--run-dir", run_copy / "r", "--resume", "auto", "--data", run_copy / "clips", "--dry-run"]
    flags = list(map(str, flags))
    status, out, _ = commands.call("fastvgan.train", flags)
    assert status == 0 and "5 clips" in out and "trained on" not in out
    add(run_copy / "clips", "x")
    status, _, err = commands.call("fastvgan.train", flags)
    assert status == 2 and err.count("error: ") == 1 and "holds 6 clips with 2 captions now; pass --changed-data" in err
    status, out, _ = commands.call("fastvgan.train", [*flags, "--changed-data"])
    assert status == 0 and "holds 6 clips with 2 captions now; continuing with them" in out
    assert "changed" not in (run_copy / "r" / "config.yaml").read_text()


def test_the_flag_belongs_to_a_run_that_is_resumed(tmp_path):
    status, _, err = commands.call("fastvgan.train", ["--changed-data", "--run-dir", str(tmp_path / "r"), "--dry-run"])
    assert status == 2 and "--changed-data needs --resume; pass --resume auto" in err
    more = ["--changed-data", "--resume", "auto", "--run-dir", str(tmp_path / "r"), "--dry-run"]
    assert commands.call("fastvgan.train", [*FLAGS, *more])[0] == 0  # as a scheduler's command that begins it, too


def test_the_environment_and_the_report_name_the_data(run_copy):
    data = json.loads((run_copy / "r" / "env.json").read_text())["data"]
    assert data == f"5 clips with 2 captions, checksum {data_of(run_copy, 4).checksum[:8]}"
    assert data in write_report(run_copy / "r").read_text()


def test_a_fingerprint_comes_back_as_it_was_saved(run_copy):
    state = json.loads((run_copy / "r" / "checkpoints" / "step-4" / "state.json").read_text())
    assert state["data"].keys() == {"checksum", "clips", "captions", "classes"}
    assert Fingerprint(**state["data"]) == data_of(run_copy, 4)


def test_what_conditions_decide_may_differ_without_any():
    """clips-64 had no matching-aware loss once, which has no effect on its models without a condition."""
    before = PRESETS["clips-64"].model_copy(update={"training": TrainingConfig(matching_aware=False)})
    after = before.model_copy(update={"training": TrainingConfig(matching_aware=True)})
    assert find_differences(before, after) == []
    before, after = (c.model_copy(update={"model": ModelConfig(condition=("class",))}) for c in (before, after))
    assert find_differences(before, after) == ["training.matching_aware is False there and True here"]
