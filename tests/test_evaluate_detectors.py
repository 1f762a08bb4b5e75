"""`python -m fastvgan.evaluate --detector`: scores against the same clips and formulas by hand, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import scipy.special
import scripted
import torch
from commands import run as command_run
from test_evaluate import FILE, evaluate, expect_refusal, make, write_clips

from fastvgan.data.digits import DigitsSource
from fastvgan.files.pixels import to_uint8
from fastvgan.generation.loading import load
from fastvgan.metrics.detectors import comparison
from fastvgan.metrics.detectors.detector import Detector
from fastvgan.metrics.kernel import kernel_distance
from fastvgan.models import Condition
from fastvgan.models.vocabulary import Vocabulary
from fastvgan.runs.config import DataConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache is a new folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastvgan" / "real-features"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Detectors and classifiers by name."""
    folder = tmp_path_factory.mktemp("detectors")
    modules = {"i3d": scripted.I3DLike(), "other": scripted.I3DLike(1), "means": scripted.Means()}
    modules |= {"probabilities": scripted.Probabilities(), "infinite": scripted.Infinite()}
    modules |= {"unpooled": scripted.Unpooled(), "fixed": scripted.FixedSize()}
    paths = {name: scripted.save_scripted(module, folder / f"{name}.pt") for name, module in modules.items()}
    torch.save(scripted.Means().state_dict(), folder / "weights.pt")
    return paths | {"weights": folder / "weights.pt"}


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run", DataConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def inputs(video, size):
    """Clips as the detectors see them, by torch alone: in [-1, 1], scaled to a square."""
    x = video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return torch.nn.functional.interpolate(x, (x.shape[2], size, size), mode="trilinear")


def frechet(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
    )


def clips_by_hand(run, clips, seed):
    """Generated and real clips as the protocol describes them, all at once."""
    source, generator = DigitsSource(split="test"), load(run)
    asked = next(source.batches(clips, seed + 1)).caption
    vocabulary = Vocabulary(generator.config.vocabulary, generator.config.caption_length)
    text = vocabulary.encode([source.captions[i] for i in asked])
    generated = generator.network(generator.network.noise(clips, seed), Condition(text=text))
    return to_uint8(generated), next(source.batches(clips, seed)).video


@torch.no_grad()
def test_scores_are_those_of_the_same_clips_by_hand(run, files, tmp_path, capsys):
    arguments = ["--detector", files["i3d"], files["means"], "--detector-name", "I3D", "means"]
    arguments += ["--detector-size", 24, 0, "--classifier", files["other"], "--classifier-size", 12]
    out = evaluate(capsys, "--run", run, "--clips", 44, "--seed", 3, *arguments, "--json", tmp_path / "x.json")
    values = json.loads((tmp_path / "x.json").read_text())
    generated, real = clips_by_hand(run, 44, 3)
    how = {"rescale": False, "resize": False, "return_features": True}
    features = [scripted.I3DLike()(inputs(video, 24), **how) for video in (generated, real)]
    assert values["scores"]["I3D.frechet"] == pytest.approx(frechet(*features), rel=1e-4)
    assert values["scores"]["I3D.kernel"] == pytest.approx(kernel_distance(*features), rel=1e-4, abs=1e-5)
    halves = features[1][:22], features[1][22:]
    row = next(row for row in values["table"] if row["measure"] == "I3D: Fréchet distance, FVD")
    assert row["real"]["value"] == pytest.approx(frechet(*halves), rel=1e-3)
    assert row["generated"]["low"] < row["generated"]["value"] < row["generated"]["high"]
    means = [scripted.Means()(inputs(video, 16)) for video in (generated, real)]
    assert values["scores"]["means.frechet"] == pytest.approx(frechet(*means), rel=1e-3)
    logits = scripted.I3DLike(1)(inputs(generated, 12), **how).double().numpy()
    p = scipy.special.softmax(logits, 1)
    score = np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), 1)))
    assert values["scores"]["classifier other.inception"] == pytest.approx(score, rel=1e-5)
    lines = out.splitlines()
    assert lines[0].split() == ["measure", "generated", "real", "clips"] and len(values["table"]) == 7
    assert "distances of real clips: of 22 from 22 others" in lines


def test_the_protocol_is_printed_and_stored(run, files, tmp_path, capsys):
    out = evaluate(capsys, "--run", run, "--detector", files["means"], "--clips", 16, "--json", tmp_path / "x.json")
    protocol = json.loads((tmp_path / "x.json").read_text())["protocol"]
    detector = protocol["detectors"]["means"]
    assert detector["size"] == 224 and detector["range"] == "signed" and detector["resize"] == "bilinear"
    assert len(detector["sha256"]) == 64 and detector["features"] == 6
    assert protocol["split"] == "test" and protocol["seed"] == 0 and protocol["resamples"] == 100
    assert protocol["real clips"]["fingerprint"] == DigitsSource(split="test").fingerprint.checksum
    assert f"fingerprint {protocol['fingerprint']}" in out and f"sha256 {detector['sha256'][:12]}" in out
    assert "scaled to 224x224 (bilinear without antialiasing, proportions not kept), pixels in [-1, 1]" in out
    assert "warning: these scores compare 16 clips of 16 frames; most published ones compare 2,048 clips" in out
    assert "too few" not in out


def test_fewer_clips_than_features(run, tmp_path, capsys):
    path = scripted.save_scripted(scripted.Flat(), tmp_path / "flat.pt")
    out = evaluate(capsys, "--run", run, "--detector", path, "--detector-size", 2, "--clips", 16, "--resamples", 10)
    assert "16 clips are too few for the covariance of 192 features of flat" in out


def test_no_clip_depends_on_the_batch_and_no_more_clips_are_in_memory(run, files, tmp_path, capsys, monkeypatch):
    counts, scores = [], []
    call = Detector.__call__
    monkeypatch.setattr(Detector, "__call__", lambda *a: counts.append(len(a[1])) or call(*a))
    for batch, name in ((16, "a"), (7, "b")):
        arguments = ["--detector", files["means"], "--detector-size", 8, "--detector-batch", batch]
        arguments += ["--clips", 16, "--cache", tmp_path / name, "--json", tmp_path / "x.json"]
        evaluate(capsys, "--run", run, *arguments)
        scores.append(json.loads((tmp_path / "x.json").read_text())["scores"])
    assert counts == [16, 16, *[7, 7, 2] * 2]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_real_features_are_cached(run, files, cache, tmp_path, capsys, monkeypatch):
    kinds = []
    call = Detector.__call__
    monkeypatch.setattr(Detector, "__call__", lambda *a: kinds.append(a[2]) or call(*a))

    def scores(*more):
        kinds.clear()
        arguments = ["--detector", files["means"], "--detector-size", 8, "--clips", 16, *more]
        out = evaluate(capsys, "--run", run, *arguments, "--json", tmp_path / "x.json")
        return out, (tmp_path / "x.json").read_bytes(), sorted(set(kinds))

    out, first, seen = scores()
    (file,) = cache.iterdir()
    assert seen == ["generated", "real"] and "real features computed" in out
    out, second, seen = scores()
    assert seen == ["generated"] and f"real features read from {file}" in out and first == second
    file.write_bytes(file.read_bytes()[:-1])
    out, third, seen = scores()
    assert seen == ["generated", "real"]
    values = json.loads(third)
    assert f"the cached features {file} are damaged" in values["warnings"][0] and "damaged" in out
    assert values["scores"] == json.loads(first)["scores"]
    assert scores("--seed", 1)[2] == scores("--detector-range", "unit")[2] == ["generated", "real"]
    assert scores("--detector-resize", "antialias")[2] == scores("--split", "train")[2] == ["generated", "real"]
    assert len(list(cache.iterdir())) == 5 and scores()[2] == ["generated"]


@pytest.mark.parametrize("change", [{"stride": 2}, {"crop": "center"}, {"mirror": True}, {"reverse": True}])
def test_features_of_clips_that_are_cut_in_another_way_are_not_reused(files, folder, tmp_path, capsys, change):
    arguments = ["--detector", files["means"], "--detector-size", 8, "--clips", 16]

    def evaluate_run(name, **cut):
        data = DataConfig(data=str(folder), workers=0, **cut)
        return evaluate(capsys, "--run", make(tmp_path / name, data, condition=(), frames=4), *arguments)

    assert "real features computed" in evaluate_run("plain")
    assert "real features computed" in evaluate_run("other", **change)
    assert "real features read from" in evaluate_run("again")


def test_lengths(files, tmp_path, capsys, monkeypatch):
    """Recurrent models make clips of the published length, 3D-convolutional ones of the training length."""
    arguments = ["--detector", files["means"], "--detector-size", 8, "--clips", 16]
    recurrent = make(tmp_path / "recurrent", DataConfig(), family="recurrent", frames=8)
    assert "frames 16," in evaluate(capsys, "--run", recurrent, *arguments)
    out = evaluate(capsys, "--run", recurrent, *arguments, "--frames", 9)
    assert "frames 9," in out and "16 clips of 9 frames" in out
    conv = make(tmp_path / "conv", DataConfig(), frames=8)
    monkeypatch.setattr(comparison, "PUBLISHED_CLIPS", 16)  # only the length differs now, and then nothing
    assert "warning: these scores compare 16 clips of 8 frames" in evaluate(capsys, "--run", conv, *arguments)
    assert "warning" not in evaluate(capsys, "--run", recurrent, *arguments)
    assert "makes clips of 8 frames only" in expect_refusal("--run", conv, *arguments, "--frames", 16)


@pytest.mark.parametrize("condition", [(), ("class",), ("image",)])
def test_other_data(files, folder, tmp_path, capsys, condition):
    names = ("class-0", "class-1")
    run = make(tmp_path / "run", DataConfig(data=str(folder), workers=0), condition=condition, class_names=names)
    arguments = ["--run", run, "--detector", files["means"], "--detector-size", 8]
    out = evaluate(capsys, *arguments, "--clips", 20)
    assert "clips 20, frames 16" in out and "split train" in out and "held out" not in out
    assert "published scores compare 2,048 clips, but the data has 20; pass --clips 20" in expect_refusal(*arguments)
    assert "--clips 21: the data has only 20 clips" in expect_refusal(*arguments, "--clips", 21)


def test_conditions_that_do_not_fit(files, folder, tmp_path):
    run = make(tmp_path / "run", DataConfig(), condition=("class",))
    arguments = ["--run", run, "--data", folder, "--detector", files["means"], "--detector-size", 8, "--clips", 16]
    assert "not trained on the class 'class-0'" in expect_refusal(*arguments)
    few = tmp_path / "few"
    shutil.copytree(folder / "class-0", few)
    plain = make(tmp_path / "plain", DataConfig(), condition=())
    assert "the data has 10 clips, but an evaluation needs at least 16" in expect_refusal(
        *arguments, "--data", few, "--run", plain
    )


@pytest.mark.parametrize(
    ("names", "arguments", "sentence"),
    [
        (["missing"], [], "does not exist; pass a TorchScript file"),
        (["weights"], [], "weights alone, as torch.save writes them, do not suffice"),
        (["unpooled"], [], "must return features of shape (8, F)"),
        (["infinite"], [], "returns NaN or infinite features for generated clips"),
        (["fixed"], ["--detector-size", "9"], "does not take clips of shape (8, 3, 16, 9, 9)"),
        (["i3d"], ["--detector-range", "byte"], "pass the range signed, not byte"),
        (["means", "means"], [], "two detectors are named 'means'; pass another name"),
        (["means"], ["--detector-name", "a", "b"], "--detector-name a b: pass one name per file"),
        (["means", "i3d"], ["--detector-size", "1", "2", "3"], "--detector-size 1 2 3: pass one value, or one per"),
        (["means"], ["--detector-size", "-1"], "--detector-size -1: must be at least 0"),
        (["means"], ["--detector-range", "percent"], "expected one or more of signed, unit, byte, imagenet"),
        (["means"], ["--detector-batch", "0"], "--detector-batch 0: must be at least 1"),
        (["means"], ["--resamples", "1"], "--resamples 1: must be at least 10"),
        (["means"], ["--clips", "8"], "--clips 8: must be at least 16"),
        (["means"], ["--cache", "file"], "cannot write --cache file: File exists; pass another folder"),
    ],
)
def test_bad_input(run, files, tmp_path, monkeypatch, names, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if "infinite" in names:  # noticed once clips are made
        (tmp_path / "cache" / "fastvgan" / "real-features").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    paths = [files.get(name, name) for name in names]
    json_path = ["--json", "x.json"]
    small = [] if "--detector-size" in arguments else ["--detector-size", "8"]
    clips = [] if "--clips" in arguments else ["--clips", "16"]
    assert sentence in expect_refusal("--run", run, "--detector", *paths, *small, *clips, *json_path, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_classifier_of_probabilities_is_refused(run, files):
    arguments = ["--classifier", files["probabilities"], "--classifier-size", 8, "--clips", 16]
    assert "returns probabilities, which add up to 1; pass a classifier that returns logits" in expect_refusal(
        "--run", run, *arguments
    )


def test_a_generator_of_nan(run, files, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(run / FILE, "pt") as file:
        metadata = file.metadata()
    weights = {name: value * torch.nan for name, value in load_file(run / FILE).items()}
    save_file(weights, run / FILE, metadata)
    arguments = ["--detector", files["means"], "--detector-size", 8, "--clips", 16]
    assert "makes NaN or infinite values" in expect_refusal("--run", run, *arguments)


def test_the_command_ends_with_status_2_and_one_sentence(run, files, tmp_path):
    done = command_run("fastvgan.evaluate", "--run", run, "--detector", files["weights"], cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {files['weights']} is not a TorchScript")


@pytest.mark.slow
def test_the_command(run, files, tmp_path):
    small = ["--detector", files["means"], "--detector-size", "8", "--clips", "16", "--cache", tmp_path / "c"]
    done = command_run("fastvgan.evaluate", "--run", run, *small, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and "means: Fréchet distance" in done.stdout
