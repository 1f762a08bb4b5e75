"""The generator that ships with the package: where `generate` takes it, what makes it, and the file itself."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, call
from PIL import Image
from safetensors.torch import load_file
from small_generators import make_generator

import fastvgan
from fastvgan.data.digits import COLOURS, MOTIONS
from fastvgan.data.digits.phrases import phrasings
from fastvgan.files.video import grid, write_video
from fastvgan.generation.files import export
from fastvgan.generation.shipped import DEFAULT, SHIPPED
from fastvgan.metrics.caption_match import match, read_words
from fastvgan.metrics.evaluation import Evaluation, Row
from fastvgan.metrics.intervals import Interval
from fastvgan.metrics.oracle import load_oracle
from fastvgan.metrics.table import json_values, text_table
from fastvgan.models import ModelConfig
from fastvgan.models.vocabulary import Vocabulary
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.runs.presets import preset

SENTENCE, OTHER = "a blue 5 moving left and right", "in red, the number seven is going in a circle"
WORDS = Vocabulary.of(
    [
        text
        for digit in range(10)
        for colour in COLOURS
        for motion in MOTIONS
        for text in phrasings(digit, colour, motion)
    ]
).words
MODEL = ModelConfig(
    family="recurrent",
    condition=("text",),
    text_model="sequence",
    vocabulary=tuple(WORDS),
    caption_length=20,
    base_width=2,
    latent=4,
)


def write_generator(path: Path) -> Path:
    """A generator of the shipped one's form, with random weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    export(make_generator(**MODEL.model_dump()).network.state_dict(), MODEL, path)
    return path


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A stand-in for the shipped generator, and an empty folder to work in."""
    path = write_generator(tmp_path / "package" / "digits.safetensors")
    monkeypatch.setitem(SHIPPED, DEFAULT, path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return path


def generate(*arguments):
    return call("fastvgan.__main__", ["generate", *map(str, arguments)])


def test_without_a_run_the_shipped_generator_is_used_and_named(shipped):
    status, out, err = generate("--text", SENTENCE, "--out", "five.gif")
    assert (status, out) == (0, "five.gif: 4 of digits\n")
    assert err == "runs/ holds no run; using `digits`, which ships with fastvgan\n"
    clips = fastvgan.load(shipped).generate(text=SENTENCE, n=4)
    write_video(Path("expected.gif"), grid(clips), 8)
    assert Path("five.gif").read_bytes() == Path("expected.gif").read_bytes()


def test_it_is_used_by_name_and_a_run_or_a_path_comes_first(shipped):
    run = Path("runs/digits-1")
    other = write_generator(run / "export" / "generator.safetensors")
    (run / "config.yaml").write_text("{}")
    assert generate("--text", SENTENCE)[1:] == (f"generated.gif: 4 of {other}\n", "")
    assert generate("--text", SENTENCE, "--run", "digits")[1:] == ("generated.gif: 4 of digits\n", "")
    write_generator(Path("digits/export/generator.safetensors"))
    expected = "generated.gif: 4 of digits/export/generator.safetensors\n"
    assert generate("--text", SENTENCE, "--run", "digits")[1] == expected


def test_a_run_of_any_name_comes_first(shipped):
    other = write_generator(Path("runs/five/export/generator.safetensors"))
    Path("runs/five/config.yaml").write_text("{}")
    assert generate("--text", SENTENCE)[1:] == (f"generated.gif: 4 of {other}\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "this model follows text: pass --text; name a colour (red, green, "),
        (["--text", "a pink 5 moving up"], "the caption 'a pink 5 moving up' has words that were not in the training "),
        (["--text", SENTENCE, "the red 7"], "the caption 'the red 7' names no motion; name a colour (red, green, "),
        (["--text", *"a blue 5".split()], "the caption 'a' names no colour, no digit and no motion; "),
        (
            ["--text", SENTENCE, "--run", "digit"],
            "--run digit does not exist; pass a run folder, a checkpoint folder, ",
        ),
        # Neither is looked for on the Hub: runs/ may be in another folder.
        (["--text", SENTENCE, "--run", "runs/typo"], "--run runs/typo does not exist; pass a run folder, "),
        (["--text", SENTENCE, "--run", "models/b.safetensors"], "--run models/b.safetensors does not exist; pass "),
        (["--text", SENTENCE, "--seed", "5-3"], "--seed 5-3: the range 5-3 ends before it begins; pass 3-5"),
        (["--text", SENTENCE, "--seed", "0", "x"], "--seed 0 x: expected whole numbers of at least 0, or ranges such "),
        (["--text", SENTENCE, "--seed=-1"], "--seed -1: expected whole numbers of at least 0, or ranges such as 0-7"),
        (["--text", SENTENCE, "--seed", f"0-{2**63}"], "--seed 0-9223372036854775808: must be less than 92"),
        (["--text", SENTENCE, "--seed", f"0-{2**63 - 1}"], f"--seed 0-{2**63 - 1}: expected at most 100,000 seeds"),
        (["--text", SENTENCE, OTHER, "--n", "60000"], "120,000 videos: at most 100,000 can be made at once"),
    ],
)
def test_what_is_unsuitable_is_one_sentence_and_nothing_is_written(shipped, arguments, sentence):
    status, out, err = generate(*arguments)
    last = err.splitlines()[-1]
    assert (status, out) == (2, "") and last.startswith(f"error: {sentence}"), err
    assert err.count("\n") <= 2 and not list(Path().iterdir())
    if arguments[1:] and " " not in arguments[1]:
        assert last.endswith('; put quotes around a caption of several words: --text "…"')


def test_several_sentences_take_a_row_each_with_every_seed(shipped):
    assert generate("--text", SENTENCE, OTHER, "--seed", "3-5", "9", "--out", "x.gif", "--scale", 1)[0] == 0
    generator = fastvgan.load(shipped)
    clips = [generator.generate(text=text, seed=seed) for text in (SENTENCE, OTHER) for seed in (3, 4, 5, 9)]
    write_video(Path("expected.gif"), grid(torch.cat(clips), columns=4, scale=1), 8)
    assert Path("x.gif").read_bytes() == Path("expected.gif").read_bytes()
    assert generate("--text", OTHER, "--seed", "3", "4", "--n", 2, "--out", "x.png", "--scale", 1)[1].startswith(
        "x.png: 4"
    )
    rows = np.asarray(Image.open("x.png")).reshape(4, 17, 16, 17, 3)[:, :16, :, :16].swapaxes(1, 2)
    assert np.array_equal(rows, torch.cat([generator.generate(text=OTHER, n=2, seed=seed) for seed in (3, 4)]))


def test_the_grid_of_rows_is_checked_before_clips_are_made(shipped):
    """Near-square, 36 clips would fit; two rows of 18 are too wide for .mp4."""
    wide = ["--seed", "0-17", "--scale", 64, "--out", "x.mp4"]
    status, _, err = generate("--text", SENTENCE, OTHER, *wide)
    assert status == 2 and "frames of 2060x18576 pixels; .mp4 is limited to 16384 pixels per side" in err


def test_a_clip_is_made_within_five_seconds_without_slow_imports(shipped):
    program = (
        "import sys; from fastvgan.__main__ import main; from fastvgan.generation.shipped import SHIPPED\n"
        "from pathlib import Path\n"
        f"SHIPPED['digits'] = Path({str(shipped)!r})\n"
        f"try: main(['generate', '--text', {SENTENCE!r}, '--out', 'five.gif'])\n"
        "finally: print(*{'triton', 'torch.onnx', 'torch._dynamo', 'sklearn', 'tensorboard'} & set(sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout == "five.gif: 4 of digits\n\n", done.stderr
    # Processor time, since other processes may keep this one waiting; starting takes one thread.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def write_run(folder: Path) -> Path:
    """A run folder as `train` leaves one, of a model of random weights."""
    base = preset("digits")
    config = RunConfig(model=MODEL, data=base.data.model_copy(update={"captions": "free"}), training=base.training)
    write_generator(folder / "export" / "best.safetensors")
    (folder / "config.yaml").write_text(config.to_yaml())
    command = [
        "/home/someone/bin/fastvgan",
        "train",
        "--captions",
        "free",
        "--run-dir",
        "/home/someone/run",
        "--seed",
        "0",
    ]
    environment = {"command": command, "torch": "2.99", "python": "3.11.7", "cuda": None, "gpu": None, "threads": 2}
    (folder / "env.json").write_text(json.dumps(environment))
    # 10 steps at one batch per second, and 20 steps at half of that: 50 seconds.
    batch = config.training.batch_size
    lines = [{"step": 10, "videos_per_second": batch}, {"step": 30, "videos_per_second": batch / 2}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def write_evaluation(run: Path, file: Path, generator: Path, **scores) -> Path:
    """What `evaluate --json` writes, in short; its table is tested below."""
    digest = hashlib.sha256(generator.read_bytes()).hexdigest()[:12]
    table = [{"measure": "right joint", "unit": "%", "generated": 0.97, "real": 1.0}]
    interval = {"value": 4.25, "low": 3.5, "high": 5.25}
    table += [{"measure": "kernel distance", "unit": "", "generated": interval, "real": interval, "shuffled": None}]
    values = {
        "protocol": {"clips": 960, "averaged weights of": str(generator), "sha256": digest},
        "scores": {"joint": 0.97, "paraphrased_joint": 0.9, **scores},
        "table": table,
        "warnings": [],
    }
    file.write_text(json.dumps(values))
    return file


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def make(*arguments):
    return call("fastvgan.generation.make_shipped", list(map(str, arguments)))


@pytest.mark.parametrize("half", [False, True])
def test_a_run_becomes_a_shipped_generator_with_its_card(run, tmp_path, half, shipped):
    best, out = run / "export" / "best.safetensors", tmp_path / "out"
    out.mkdir()
    evaluation = write_evaluation(run, tmp_path / "e.json", best)
    status, said, err = make(run, evaluation, "--out", out, *(["--half"] if half else []))
    assert (status, err) == (0, "") and said.startswith(f"{out / 'digits.safetensors'}: 0.")
    made = load_file(out / "digits.safetensors")
    for name, tensor in load_file(best).items():
        expected = tensor.half() if half and tensor.is_floating_point() else tensor
        assert torch.equal(made[name], expected) and made[name].dtype == expected.dtype
    loaded = fastvgan.load(out / "digits.safetensors")
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}
    clips = [one.generate(text=SENTENCE).float() for one in (loaded, fastvgan.load(best))]
    assert (clips[0] - clips[1]).abs().mean() < (1 if half else 1e-9)
    assert (out / "digits.yaml").read_text() == (run / "config.yaml").read_text()
    card = (out / "digits.md").read_text()
    assert card.startswith("---\nlibrary_name: fastvgan\nlicense: mit\n") and "/home" not in card
    for fact in (
        "| command | `fastvgan train --captions free --seed 0` |",
        "| seed | 0 |",
        ", 1 minutes |",
        "| machine | CPU, 2 threads |",
        "| versions | python 3.11.7, torch 2.99 |",
        hashlib.sha256((out / "digits.safetensors").read_bytes()).hexdigest(),
        "right joint      97.0%              100.0%\n",
        "kernel distance  4.25 [3.50, 5.25]  4.25 [3.50, 5.25]\n",
        "before rounding to half precision (clips 960" if half else "of these weights (clips 960",
    ):
        assert fact in card, card
    # The scores of the file that was written are as good a source of the card.
    again = write_evaluation(run, tmp_path / "e.json", out / "digits.safetensors")
    assert make(run, again, "--out", out, "--machine", "a laptop", *(["--half"] if half else []))[0] == 0
    card = (out / "digits.md").read_text()
    assert "of these weights (clips 960" in card and "| machine | a laptop |" in card


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"joint": 0.5}, "e.json: joint 50.0% below 80.0%; train longer, or pass a lower --least"),
        (
            {"paraphrased_joint": 0.1, "held_out_joint": 0.7},
            "e.json: held_out_joint 70.0%, paraphrased_joint 10.0% below",
        ),
    ],
)
def test_a_generator_with_bad_scores_is_not_shipped(run, tmp_path, change, sentence):
    evaluation = write_evaluation(run, tmp_path / "e.json", run / "export" / "best.safetensors", **change)
    refuse(run, evaluation, tmp_path, sentence)
    assert make(run, evaluation, "--least", "0.05", "--out", tmp_path)[0] == 0


def refuse(run, evaluation, folder, sentence):
    before = sorted(folder.rglob("*"))
    status, out, err = make(run, evaluation, "--out", folder)
    assert (status, out) == (2, "") and sentence in err and err.count("\n") == 1, err
    assert sorted(folder.rglob("*")) == before


def test_scores_of_other_weights_or_with_a_warning_are_refused(run, tmp_path):
    best = run / "export" / "best.safetensors"
    good = write_evaluation(run, tmp_path / "e.json", best).read_text()
    for text, sentence in {
        good.replace(hashlib.sha256(best.read_bytes()).hexdigest()[:12], "0" * 12): "e.json is not of ",
        good.replace('"warnings": []', '"warnings": ["all alike"]'): "e.json has a warning: all alike",
        good.replace('"joint"', '"sharpness"'): "e.json has no score `joint`",
        "[]": "e.json is not a JSON object",
        "{": "e.json is not a JSON file",
    }.items():
        (tmp_path / "e.json").write_text(text)
        refuse(run, tmp_path / "e.json", tmp_path, sentence)
    refuse(run, tmp_path / "none.json", tmp_path, "cannot read")
    (tmp_path / "e.json").write_text(good)
    (run / "metrics.jsonl").write_text("{}\n")
    refuse(run, tmp_path / "e.json", tmp_path, "metrics.jsonl does not say how fast the steps were")
    (run / "env.json").write_text("[]")
    refuse(run, tmp_path / "e.json", tmp_path, "env.json is not a JSON object; pass a whole run folder")


def test_the_card_has_the_table_of_evaluate(run, tmp_path):
    rows = [
        Row("right joint", 0.975, 1.0, 0.01, 0.93, "%", 0.9),
        Row("  of frozen real clips", real=Interval(1.25, 0.5, 2.0)),
    ]
    file = write_evaluation(run, tmp_path / "e.json", run / "export" / "best.safetensors")
    values = json.loads(file.read_text()) | {"table": json_values(Evaluation(rows, {}, []))["table"]}
    file.write_text(json.dumps(values))
    assert make(run, file, "--out", tmp_path)[0] == 0
    lines = [line.split() for line in (tmp_path / "digits.md").read_text().splitlines()]
    assert all(line.split() in lines for line in text_table(rows).splitlines())


def test_evaluate_knows_the_run_of_a_shipped_generator(run, shipped, monkeypatch):
    settings = shipped.with_suffix(".yaml")
    settings.write_text((run / "config.yaml").read_text())
    seen = []
    monkeypatch.setattr(
        "fastvgan.evaluate._own_scores",
        lambda parsed, generator, model, config: seen.append((generator.path, config)) or (Evaluation([], {}, []), {}),
    )
    assert call("fastvgan.evaluate", ["--run", "digits"])[0] == 0
    assert seen == [(shipped, read_config(settings))] and seen[0][1].data.captions == "free"


@pytest.mark.skipif(not SHIPPED[DEFAULT].is_file(), reason="the trained file is not in this checkout")
def test_the_shipped_file_shows_what_its_sentence_says():
    path = SHIPPED[DEFAULT]
    assert path.stat().st_size <= 6_000_000
    digest, card = hashlib.sha256(path.read_bytes()).hexdigest(), path.with_suffix(".md").read_text()
    assert digest in card and f"sha256 {digest[:12]}, oracle" in card  # the file, and the one that was evaluated
    clips = fastvgan.load(path).generate(text=SENTENCE, n=16)
    wanted = {"digit": 5, "colour": list(COLOURS).index("blue"), "motion": MOTIONS.index("left and right")}
    shown = read_words(clips, load_oracle().read(clips))
    rates = match(shown, {name: torch.full((16,), value) for name, value in wanted.items()})
    assert rates["joint"] >= 0.75, rates
