"""`python -m fastvgan.evaluate`: on runs of the digits and of a folder of clips, and what it refuses."""

import hashlib
import json
import shutil

import pytest
import torch
from commands import run as command_run
from commands import run_afresh

from fastvgan import evaluate as evaluate_module
from fastvgan.data import open_source
from fastvgan.data.digits import DigitsSource
from fastvgan.data.folders import layouts
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.errors import UserError
from fastvgan.evaluate import main
from fastvgan.files.video import write_video
from fastvgan.generation.files import export
from fastvgan.generation.loading import load
from fastvgan.metrics import readers
from fastvgan.metrics.oracle import ORACLE
from fastvgan.models import ModelConfig, build_generator
from fastvgan.models.vocabulary import Vocabulary
from fastvgan.runs.config import DataConfig, RunConfig

FILE = "export/generator.safetensors"


def make(run, data=None, **values):
    """A run folder with an untrained generator, and a config.yaml where `data` says what it was trained on."""
    vocabulary = Vocabulary.of(DigitsSource().captions)
    known = {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length}
    known |= {"class_names": DigitsSource.classes, "base_width": 2, "latent": 4}
    model = ModelConfig(**{**known, **values})
    torch.manual_seed(0)
    (run / "export").mkdir(parents=True)
    export(build_generator(model).state_dict(), model, run / FILE)
    if data is not None:
        (run / "config.yaml").write_text(RunConfig(model=model, data=data).to_yaml())
    return run


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run", DataConfig(hold_out=0.1))


@pytest.fixture
def few_training_clips(monkeypatch):
    """Copies are looked for among 4,096 of the digits' training clips: drawing 131,072 takes most of an evaluation."""
    monkeypatch.setattr(readers, "_MOST_CELLS", 2**20)


def write_clips(folder, seed=0):
    """Write twenty clips of 18 frames without captions, in two folders, one per class; return the folder."""
    for i, clip in enumerate(next(DigitsSource(frames=18, height=32, width=32).batches(20, seed)).video):
        (folder / f"class-{i % 2}").mkdir(parents=True, exist_ok=True)
        write_video(folder / f"class-{i % 2}" / f"{i:02}.mp4", clip, 8)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def evaluate(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_the_digits(run, tmp_path, capsys):
    out = evaluate(capsys, "--run", run, "--clips", 64, "--seed", 3, "--json", tmp_path / "x.json")
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["measure", "generated"] and lines[0].endswith("held-out captions")
    sha = hashlib.sha256((run / FILE).read_bytes()).hexdigest()[:12]
    protocol = next(line for line in lines if line.startswith("clips 64"))
    assert (
        f"seed 3, data digits, split test, held out 0.1, by seed 0, averaged weights of {run / FILE}, sha256 {sha}"
        in protocol
    )
    assert hashlib.sha256(ORACLE.read_bytes()).hexdigest()[:12] in protocol
    assert sum(line.startswith("warning: the ") for line in lines) >= 2  # it is untrained
    values = json.loads((tmp_path / "x.json").read_text())
    assert values["protocol"]["clips"] == 64 and values["scores"]["held_out_joint"] < 0.1
    assert {entry["measure"] for entry in values["table"]} >= {"right digit", "copies", "kernel distance"}
    assert [f"warning: {sentence}" for sentence in values["warnings"]] == lines[lines.index(protocol) + 1 :]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_training_clips")
def test_the_same_seed_gives_the_same_numbers(run, tmp_path, capsys):
    for name in ("a.json", "b.json"):
        evaluate(capsys, "--run", run / FILE, "--clips", 32, "--json", tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("few_training_clips")
def test_a_bare_file_that_knows_the_words_of_the_digits(run, tmp_path, capsys):
    shutil.copy(run / FILE, tmp_path / "bare.safetensors")
    out = evaluate(capsys, "--run", tmp_path / "bare.safetensors", "--clips", 16, "--split", "train")
    assert "data digits, split train" in out and "held-out" not in out


@pytest.mark.slow
@pytest.mark.usefixtures("few_training_clips")
def test_longer_clips_of_a_recurrent_model(tmp_path, capsys):
    run = make(tmp_path / "run", DataConfig(), family="recurrent", condition=("class",))
    out = evaluate(capsys, "--run", run, "--clips", 16, "--frames", 24)
    assert "clips 16, frames 24" in out and "right digit" in out and "right motion" not in out


@pytest.mark.parametrize("condition", [(), ("class",), ("image",)])
def test_a_run_of_a_folder_of_clips(tmp_path, capsys, folder, condition):
    data = DataConfig(data=str(folder), workers=0)
    names = ("class-0", "class-1")
    run = make(tmp_path / "run", data, condition=condition, frames=8, class_names=names)
    out = evaluate(capsys, "--run", run, "--json", tmp_path / "x.json")
    assert "clips 20, frames 8" in out, "the data has fewer than 960"
    assert "split train" in out and "oracle none" in out and "similarity of first, middle and last frame" in out
    scores = json.loads((tmp_path / "x.json").read_text())["scores"]
    own = "first_frame_psnr" if condition == ("image",) else "diversity"
    assert set(scores) == {own, "copies", "frame_similarity", "frechet", "kernel", "end_sharpness", "grid_pattern"}
    assert "Fréchet distance (real clips: two times 10)" in out
    assert scores["copies"] == 0


def test_clips_that_are_too_short_or_left_out_are_named(tmp_path, capsys, folder):
    """On stderr, as in training, but not more than twenty lines."""
    shutil.copytree(folder, tmp_path / "clips")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    data = DataConfig(data=str(tmp_path / "clips"), workers=0)
    run = make(tmp_path / "run", data, condition=(), frames=8, family="recurrent")

    def remarks(*flags):
        main(["--run", str(run), "--clips", "16", *flags])
        out, err = capsys.readouterr()
        assert ".mp4" not in out
        return [line for line in err.splitlines() if line and "checking files" not in line and not line.isspace()]

    (left_out,) = remarks()
    assert left_out.startswith("broken.mp4: ") and left_out.endswith("; left out")
    found = remarks("--frames", "20")
    assert found[0] == left_out and found[20:] == ["remarks on the data that are not shown: 1"]
    assert all(line.endswith("too short, 18 of 20 frames; its last frame is repeated") for line in found[1:20])


@pytest.mark.parametrize("spelling", ["{}/", "{}/../{}", "{}"])
def test_the_runs_own_folder_by_another_spelling_is_cut_as_the_runs(tmp_path, capsys, folder, spelling, monkeypatch):
    monkeypatch.chdir(folder.parent)
    data = DataConfig(data=folder.name, workers=0, test_share=0.4, stride=2)
    run = make(tmp_path / "run", data, condition=(), frames=4)
    spelt = spelling.format(*[folder.name] * spelling.count("{}"))
    wanted = evaluate(capsys, "--run", run, "--clips", 16)
    assert "split test" in wanted and evaluate(capsys, "--run", run, "--clips", 16, "--data", spelt) == wanted
    assert evaluate(capsys, "--run", run, "--clips", 16, "--data", folder.resolve()) == wanted


@pytest.mark.parametrize("trained_on", ["prepared", "clips", None])
def test_root_says_where_the_files_of_a_manifest_are(tmp_path, folder, trained_on, monkeypatch, capsys):
    """Whether the run was trained on this manifest, whose files have moved, on other clips, or on unknown ones."""
    prepare(folder, tmp_path / "prepared", PrepareConfig())
    known = {"prepared": str(tmp_path / "prepared"), "clips": str(folder), None: None}[trained_on]
    data = known and DataConfig(data=known, root="/gone" if trained_on == "prepared" else None, workers=0)
    run = make(tmp_path / "run", data or None, condition=(), frames=8)

    def score(generator, model, source, reference, *rest):
        assert next(reference.batches(2, 0)).video.shape == (2, 8, 16, 16, 3)
        raise UserError("scored")

    monkeypatch.setattr(evaluate_module, "_evaluate", score)
    flags = ["--run", str(run), "--clips", "16", "--data", str(tmp_path / "prepared")]
    if trained_on != "prepared":
        with pytest.raises(UserError, match=f"allow it with --root {folder}"):
            main(flags)
    with pytest.raises(UserError, match="scored"):
        main([*flags, "--root", str(folder)])
    assert "cannot be used" not in capsys.readouterr().err


def test_root_is_refused_for_data_that_are_drawn(tmp_path):
    run = make(tmp_path / "run", DataConfig(), condition=(), frames=8)
    with pytest.raises(UserError, match="--root mine has no effect on digits, which are drawn"):
        main(["--run", str(run), "--clips", "16", "--root", "mine"])


def test_copies_are_searched_among_the_training_clips_if_other_clips_are_compared_with(
    tmp_path, capsys, folder, monkeypatch
):
    """A generator that shows a training clip, compared with clips that it never saw."""
    other = write_clips(tmp_path / "other", seed=1)
    data = DataConfig(data=str(folder), workers=0, stride=2, crop="center")
    run = make(tmp_path / "run", data, condition=(), frames=4)
    clips = next(open_source(data, ModelConfig(frames=4, condition=())).batches(16, 0)).video
    monkeypatch.setattr(evaluate_module, "_generate_by", lambda generator: lambda z, c: clips[: len(z)])
    evaluate(capsys, "--run", run, "--clips", 16, "--data", other, "--json", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["protocol"]["data"] == str(other) and found["scores"]["copies"] > 0.9
    gone = make(tmp_path / "gone", DataConfig(data=str(tmp_path / "moved"), workers=0), condition=(), frames=4)
    main(["--run", str(gone), "--clips", "16", "--data", str(other), "--json", str(tmp_path / "y.json")])
    said = capsys.readouterr().err
    assert f"copies are searched among the clips of {other}, since the run's training data cannot be used" in said
    assert json.loads((tmp_path / "y.json").read_text())["scores"]["copies"] == 0


@pytest.mark.parametrize("name", ["checkpoints", "export"])
def test_a_run_in_a_folder_of_such_a_name_is_a_run(tmp_path, capsys, folder, name):
    data = DataConfig(data=str(folder), workers=0)
    outs = [
        evaluate(capsys, "--run", make(tmp_path / place / "mine", data, condition=(), frames=4), "--clips", 16)
        for place in (name, "plain")
    ]
    assert outs[0].splitlines()[:-2] == outs[1].splitlines()[:-2] != []


@pytest.mark.parametrize("split", ["test", "train"])
def test_the_frames_for_tests_are_compared_with_and_found_in_one_scan(tmp_path, capsys, monkeypatch, folder, split):
    scans, opened = [], []
    scan, sources = layouts.scan, evaluate_module._sources
    monkeypatch.setattr(layouts, "scan", lambda *a, **b: scans.append(a) or scan(*a, **b))
    monkeypatch.setattr(evaluate_module, "_sources", lambda *a: opened.append(sources(*a)) or opened[-1])
    data = DataConfig(data=str(folder), workers=0, test_share=0.4)
    run = make(tmp_path / "run", data, condition=(), frames=4)
    out = evaluate(capsys, "--run", run, "--clips", 20, *([] if split == "test" else ["--split", split]))
    assert len(scans) == 1 and f"split {split}" in out
    train, test = (open_source(data, load(run).config, split=name) for name in ("train", "test"))
    expected = train, {"train": train, "test": test}[split]
    assert [one.fingerprint for one in opened[0]] == [one.fingerprint for one in expected]
    assert train.fingerprint != test.fingerprint


def expect_refusal(*arguments):
    with pytest.raises(UserError) as raised:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--split", "valid"], "the digits have no split 'valid'; use one of train, test"),
        (["--clips", "8"], "--clips 8: must be at least 16"),
        (["--frames", "40"], "a conv3d model makes clips of 16 frames only"),
        (["--nonsense"], "unknown flag --nonsense"),
        (["--run", "missing"], "missing does not exist"),
        (["--data", "missing"], "missing does not exist"),
        (["--json", "no/such/folder/x.json"], "no/such/folder"),
        (["--json", "."], "cannot write .: it is a folder"),
        (["--json", "/proc/x.json"], "cannot write /proc/x.json"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert sentence in expect_refusal(*([] if "--run" in arguments else ["--run", run]), *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_data_that_does_not_fit_the_run(run, tmp_path, folder):
    assert "has no captions" in expect_refusal("--run", run, "--data", folder)
    classes = make(tmp_path / "classes", DataConfig(), condition=("class",))
    assert "not trained on the class 'class-0'" in expect_refusal("--run", classes, "--data", folder, "--clips", 20)
    plain = make(tmp_path / "plain", DataConfig(data=str(folder), workers=0), condition=(), frames=8)
    assert "--clips 21: the data has only 20 clips; use --clips 20 or fewer" in expect_refusal(
        "--run", plain, "--clips", 21
    )
    few = tmp_path / "few"
    shutil.copytree(folder / "class-0", few)
    assert "the data has 10 clips, but an evaluation needs at least 16" in expect_refusal("--run", plain, "--data", few)
    assert "has no split 'test'; the only split is 'train'" in expect_refusal("--run", plain, "--split", "test")


def test_a_bare_file_that_may_be_trained_on_anything(tmp_path):
    bare = make(tmp_path / "bare", condition=())
    assert "pass them with --data" in expect_refusal("--run", bare / FILE)
    assert "pass them with --data" in expect_refusal("--run", make(tmp_path / "words", vocabulary=("a", "dog")))


def test_the_command_ends_with_status_2_and_one_sentence(run, tmp_path):
    done = command_run("fastvgan.evaluate", "--run", run, "--split", "valid", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: the digits have no split 'valid'; use one of train, test\n"
    (tmp_path / "runs").mkdir()
    done = run_afresh("fastvgan.evaluate", cwd=tmp_path)
    assert done.returncode == 2 and "runs/ holds no run" in done.stderr


@pytest.mark.slow
def test_the_command_takes_the_newest_run(run, tmp_path):
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "digits-1")
    done = command_run("fastvgan.evaluate", "--clips", "16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/digits-1/export" in done.stdout and done.stderr == ""
