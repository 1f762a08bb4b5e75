"""Generating from a run: by Python, and by `python -m fastvgan.generate`."""

import hashlib
import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from commands import ROOT, call, run_afresh
from commands import run as command_run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_generators import make_generator

import fastvgan
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import tensor_bytes
from fastvgan.generate import main
from fastvgan.generation.files import export
from fastvgan.models import ModelConfig
from fastvgan.runs.config import RunConfig


def make(path, **values):
    generator = make_generator(**values)
    path.parent.mkdir(parents=True, exist_ok=True)
    export(generator.network.state_dict(), generator.config, path)
    return path


def save_as_checkpoint(generator, folder):
    """As `checkpoint.save` writes one; that a real one is read is shown by test_checkpoint.py."""
    folder.mkdir(parents=True)
    average = {f"ema/{name}": tensor for name, tensor in generator.network.state_dict().items()}
    latest = {f"generator/{name}": torch.zeros_like(tensor) for name, tensor in generator.network.state_dict().items()}
    data = tensor_bytes(average | latest)
    (folder / "state.safetensors").write_bytes(data)
    files = {"state.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    state = {"format": 2, "step": 3, "score": None, "setbacks": 0, "rate": 1.0, "files": files}
    (folder / "state.json").write_text(json.dumps(state))
    (folder.parents[1] / "config.yaml").write_text(RunConfig(model=generator.config).to_yaml())
    return data


@pytest.fixture
def run(tmp_path):
    make(tmp_path / "run" / "export" / "generator.safetensors")
    return tmp_path / "run"


def test_the_best_generator_of_a_run_is_taken_where_there_is_one(run):
    last = fastvgan.load(run)
    assert last.path == run / "export" / "generator.safetensors"
    tensors = load_file(last.path)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, run / "x", metadata(last.path))
    (run / "x").rename(run / "export" / "best.safetensors")
    best = fastvgan.load(run)
    assert best.path == run / "export" / "best.safetensors"
    assert not torch.equal(best.generate(text="a red"), last.generate(text="a red"))


def test_a_checkpoint_gives_its_averaged_generator(tmp_path, run, capsys):
    generator = fastvgan.load(run)
    folder = tmp_path / "other" / "checkpoints" / "step-3"
    data = save_as_checkpoint(generator, folder)
    loaded = fastvgan.load(folder)
    assert loaded.path == folder
    assert torch.equal(loaded.generate(text="a red", n=2), generator.generate(text="a red", n=2))
    main(["--run", str(folder), "--text", "a red", "--out", str(tmp_path / "x.gif")])
    assert capsys.readouterr().out == f"{tmp_path / 'x.gif'}: 4 of {folder}\n"
    (folder / "state.safetensors").write_bytes(data[:-9] + b"123456789")
    with pytest.raises(UserError, match=r"state\.safetensors is damaged \(its checksum .*pass another checkpoint"):
        fastvgan.load(folder)
    (folder / "state.json").unlink()
    with pytest.raises(UserError, match=r"step-3 is no checkpoint: cannot read state\.json"):
        fastvgan.load(folder)


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_same_seed_gives_the_same_clips(run):
    generator = fastvgan.load(run)
    clips = generator.generate(text="a red", n=3, seed=5)
    assert clips.shape == (3, 16, 16, 16, 3) and clips.dtype == torch.uint8
    assert torch.equal(
        clips, fastvgan.load(run / "export" / "generator.safetensors").generate(text="A RED!", n=3, seed=5)
    )
    assert not torch.equal(clips, generator.generate(text="a red", n=3, seed=6))
    assert not torch.equal(clips, generator.generate(text="a green", n=3, seed=5))
    assert not torch.equal(clips[0], clips[1])
    assert len(generator.generate(text="red", n=130)) == 130


def test_every_condition_at_once_and_any_length(tmp_path):
    path = make(tmp_path / "g.safetensors", family="recurrent", condition=("text", "class", "image"), channels=1)
    generator = fastvgan.load(path)
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    clips = generator.generate(text="a red", image=image, label="dog", frames=33)
    assert clips.shape == (1, 33, 16, 16, 1)
    assert torch.equal(clips, generator.generate(text="a red", image=image, label=1, frames=33))
    assert not torch.equal(clips, generator.generate(text="a red", image=image, label=0, frames=33))
    assert not torch.equal(clips, generator.generate(text="a red", image=255 - image, label=1, frames=33))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "this model follows text: pass text"),
        ({"text": "zebra"}, "no word of the caption 'zebra' was in the training captions; known words: a, green"),
        (
            {"text": "a blue ZEBRA, red"},
            "the caption 'a blue ZEBRA, red' has words that were not in the training captions: 'blue', 'zebra'; known "
            "words: a, green, moving, red",
        ),
        ({"text": "a", "label": "dog"}, "label was given, but this model follows text"),
        ({"text": "a", "n": 0}, "n 0: the number of clips"),
        ({"text": "a", "frames": 8}, "makes clips of 16 frames only, not 8"),
    ],
)
def test_unusable_arguments(run, arguments, sentence):
    with pytest.raises(UserError) as raised:
        fastvgan.load(run).generate(**arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_unusable_image_and_class(tmp_path):
    generator = fastvgan.load(make(tmp_path / "g.safetensors", condition=("class", "image")))
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(UserError, match="unknown class 'bird'; the classes are cat, dog"):
        generator.generate(label="bird", image=image)
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(UserError, match=r"x\.png cannot be used \(is not a picture"):
        generator.generate(label="cat", image=tmp_path / "x.png")
    with pytest.raises(UserError, match=r"the image has the shape \(3, 9, 9\)"):
        generator.generate(label="cat", image=np.zeros((3, 9, 9), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_sees_the_picture_as_it_sees_first_frames_in_training(tmp_path, channels):
    generator = fastvgan.load(make(tmp_path / "g.safetensors", condition=("image",), channels=channels))
    seen = []
    generator.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].image))
    picture = np.random.default_rng(0).integers(0, 256, (48, 66, 3), np.uint8)
    # 16 x 22: the mean over 3x3 pixels, and the middle of the columns.
    expected = Image.fromarray(picture).convert("RGB" if channels == 3 else "L").resize((22, 16), Image.Resampling.BOX)
    expected = np.asarray(expected)[:, 3:19].reshape(16, 16, channels) / 127.5 - 1
    floats = torch.from_numpy(picture.transpose(2, 0, 1) / 255)
    forms = [picture, Image.fromarray(picture), torch.from_numpy(picture), floats]
    clips = [generator.generate(image=form, n=2) for form in forms]
    for image, clip in zip(seen, clips, strict=True):
        assert image.shape == (2, channels, 16, 16)
        np.testing.assert_allclose(image[1].permute(1, 2, 0), expected, atol=1e-6)
        assert torch.equal(clip, clips[0])


def test_files_that_are_no_generator(tmp_path, run):
    good = (run / "export" / "generator.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(good[:-9])
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "other", {"fastvgan": ModelConfig().model_dump_json()})
    save_file({"x": torch.zeros(1)}, tmp_path / "newer", {"fastvgan": '{"new_setting": 1}'})
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "cut": "truncated",
        "foreign": "is not a fastvgan generator",
        "other": "does not fit",
        "newer": "new_setting: is not a setting",
        "empty": "holds no generator",
        "missing": "does not exist",
    }.items():
        with pytest.raises(UserError, match=sentence) as raised:
            fastvgan.load(tmp_path / name)
        assert name in str(raised.value) and "\n" not in str(raised.value)


def command(*arguments, cwd):
    return command_run("fastvgan.generate", *arguments, cwd=cwd)


def test_command_writes_each_format(tmp_path, run):
    for name in ("x.mp4", "x.gif", "x.png"):
        done = command("--run", run, "--text", "a red", "--n", 2, "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{name}: 2 of {run / 'export' / 'generator.safetensors'}\n"
    with av.open(tmp_path / "x.mp4") as file:
        assert sum(1 for _ in file.decode(video=0)) == 16
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 16
    with Image.open(tmp_path / "x.png") as still:
        assert still.width > 16 * 16


def test_command_takes_the_newest_run(tmp_path, run):
    (tmp_path / "runs").mkdir()
    (run / "config.yaml").write_text("{}")
    run.rename(tmp_path / "runs" / "mine")
    done = run_afresh("fastvgan.generate", "--text", "a red", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "generated.gif").is_file(), done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "zebra"], "no word of the caption 'zebra'"),
        (["--text", "a red zebra"], "not in the training captions: 'zebra'; known words: a, green, moving, red"),
        (["--text", "red", "--out", "x.txt"], "x.txt"),
        (["--text", "red", "--out", "no/such/folder/x.gif"], "no/such/folder"),
        (["--text", "red", "--out", "/proc/x.gif"], "/proc/x.gif"),
        (["--text", "red", "--nonsense"], "unknown flag --nonsense"),
        (["--text", "red", "--n", "0"], "--n 0: must be at least 1"),
        (["--text", "red", "--run", "missing"], "missing does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path, run, arguments, sentence):
    before = sorted(tmp_path.rglob("*"))
    arguments = arguments if "--run" in arguments else [*arguments, "--run", run]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and sentence in last and "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_command_turns_a_photograph_and_scales_16_bits_as_training_does(tmp_path):
    make(tmp_path / "g.safetensors", condition=("image",), channels=1)
    levels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(levels).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(np.rot90(levels).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(levels * np.uint16(257)).save(tmp_path / "deep.png")
    Image.fromarray(levels).convert("LA").save(tmp_path / "alpha.png")
    Image.fromarray(np.rot90(levels).copy()).save(tmp_path / "other.png")
    made = {}
    for name in ("plain", "turned", "deep", "alpha", "other"):
        arguments = ["--run", tmp_path / "g.safetensors", "--image", tmp_path / f"{name}.png", "--out"]
        status, _, said = call("fastvgan.generate", [*map(str, arguments), str(tmp_path / "made.png")])
        assert not status, said
        made[name] = (tmp_path / "made.png").read_bytes()
    assert made["plain"] == made["turned"] == made["deep"] == made["alpha"] != made["other"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.png", "missing.png cannot be used (No such file or directory); pass a PNG, JPEG, "),
        ("folder", "folder cannot be used (is a folder); pass"),
        ("words.txt", "words.txt cannot be used (is not a picture of a kind that can be read); pass"),
        ("cut.jpg", "cut.jpg cannot be used (image file is truncated"),
        ("film.mp4", "film.mp4 cannot be used (is a video; `ffmpeg -i VIDEO -frames:v 1 first.png` saves its first"),
        ("large.png", "large.png cannot be used (is 8200x200 pixels large, more than 8192 a side); pass"),
    ],
)
def test_an_unusable_image_is_refused_before_the_generator_is_loaded(tmp_path, name, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "words.txt").write_text("a red 7")
    Image.new("RGB", (99, 99)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-100])
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    Image.new("L", (8200, 200)).save(tmp_path / "large.png")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--run", tmp_path, "--image", tmp_path / name, "--out", tmp_path / "x.gif"]
    status, out, said = call("fastvgan.generate", list(map(str, arguments)))
    assert (status, out) == (2, "") and said.count("\n") == 1
    assert said.startswith("error: the image ") and sentence in said
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_implementation_in_the_environment(tmp_path, run, monkeypatch):
    monkeypatch.setenv("FASTVGAN_IMPL", "nonsense")
    for module, arguments in [("generate", ["--run", run, "--text", "red"]), ("train", []), ("info", [])]:
        done = command_run(f"fastvgan.{module}", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("error: FASTVGAN_IMPL must be one of auto, reference")


def test_generating_imports_nothing_that_only_training_needs(run, tmp_path):
    """Neither from an exported file nor from a checkpoint, by Python or by the command."""
    checkpoint, out = tmp_path / "other" / "checkpoints" / "step-3", tmp_path / "a.gif"
    save_as_checkpoint(fastvgan.load(run), checkpoint)
    program = (
        "import sys, fastvgan, fastvgan.generate\n"
        f"for path in ({str(run)!r}, {str(checkpoint)!r}):\n"
        "    fastvgan.load(path)\n"
        f"    fastvgan.generate.main(['--run', path, '--text', 'a red', '--out', {str(out)!r}])\n"
        "loaded = {'tensorboard', 'matplotlib', 'sklearn', 'jinja2', 'wandb', 'fastvgan.training.loop'}\n"
        "print(*sorted(loaded & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert out.is_file() and done.stdout.splitlines()[-1] == ""
