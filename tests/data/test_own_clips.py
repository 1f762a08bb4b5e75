"""`python -m fastvgan.train --data …` with nothing else: size, frames, channels, condition and preset of the clips."""

import shlex

import numpy as np
import pytest
import torch
import yaml
from commands import call, run
from make_videos import encode, make_numbered
from PIL import Image

import fastvgan
from fastvgan.data import open_source
from fastvgan.data.datasets import ClipShape, Examined
from fastvgan.data.source import Clips
from fastvgan.models import ModelConfig
from fastvgan.runs.config import DataConfig, RunConfig
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.defaults import fit_settings_to_shape

TINY = "--base-width 2 --batch-size 4 --latent 4 --precision fp32 --evaluate-clips 16".split()


def videos(folder, height=48, width=64, frames=20, names=("a", "b"), captions=None):
    for place, name in enumerate(names):
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, make_numbered(frames, height, width))
        if captions:
            path.with_suffix(".txt").write_text(captions[place])
    return folder


def strips(folder, side=40, frames=9, count=2, mode="L"):
    """Strips of square frames, as grey or coloured PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        pixels = draw.integers(0, 256, (side, side * frames, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")
    return folder


def settings(*flags):
    """What --print-config prints for these flags, and what it says beside it."""
    status, out, err = call("fastvgan.train", [*map(str, flags), "--print-config"])
    assert status == 0, err
    return yaml.safe_load(out), err


def size(config):
    return config["model"]["height"], config["model"]["width"]


@pytest.mark.parametrize(
    ("height", "width", "expected", "preset", "rate"),
    [(240, 320, (64, 64), "clips-64", 2e-4), (90, 160, (32, 64), "clips-64", 2e-4), (36, 40, (32, 32), "clips", 4e-4)],
)
def test_the_clips_decide_size_and_preset_which_is_said(tmp_path, height, width, expected, preset, rate):
    config, said = settings("--data", videos(tmp_path / "v", height, width), "--device", "cpu")
    assert size(config) == expected and config["training"]["lr_generator"] == rate
    assert config["training"]["steps"] == 1500  # a hundred epochs of two clips would be six steps
    assert f"clips are {width}x{height} (width x height): training at --height {expected[0]} --width" in said
    assert f"by the preset {preset}" in said
    assert ("on a CPU this is slow; --height" in said) == (preset == "clips-64")


def test_flags_win(tmp_path):
    folder = videos(tmp_path / "v", 90, 160, captions=["one", "two"])
    config, _ = settings("--data", folder, "--height", 16, "--frames", 12, "--condition", "none", "--channels", 1)
    assert size(config) == (16, 32) and config["training"]["batch_size"] == 64
    assert config["model"]["frames"] == 12 and config["model"]["channels"] == 1 and config["model"]["condition"] == []
    config, _ = settings("--data", folder, "--width", 128)
    assert size(config) == (64, 128)
    config, said = settings("--data", folder, "--height", 64, "--width", 16, "--epochs", 3, "--batch-size", 8)
    assert size(config) == (64, 16) and config["training"]["steps"] is None and "preset clips-64; --preset" in said
    config, said = settings("--data", folder, "--preset", "clips")
    assert size(config) == (16, 16) and "clips are" not in said


@pytest.mark.parametrize(
    ("names", "captions", "expected", "says"),
    [
        (("a", "b"), ["one", "two"], ["text"], "clips have captions"),
        (("x/a", "y/b"), None, ["class"], "conditioned on their 2 classes"),
        (("a", "b"), None, [], "--condition none"),
    ],
)
def test_the_clips_decide_the_condition(tmp_path, names, captions, expected, says):
    config, said = settings("--data", videos(tmp_path / "v", 64, 64, names=names, captions=captions))
    assert config["model"]["condition"] == expected and says in said
    assert config["training"]["matching_aware"]  # captions are learnt by wrong ones at 64x64, too


def test_few_clips_are_augmented_unless_the_user_decides(tmp_path):
    folder = videos(tmp_path / "v")
    config, said = settings("--data", folder)
    assert sorted(config["training"]["augment"]) == ["color", "cutout", "translation"]
    assert "2 clips are few: training with --augment color translation cutout; --augment none turns it off" in said
    for given, expected in (("none", []), ("cutout", ["cutout"])):
        config, said = settings("--data", folder, "--augment", given)
        assert config["training"]["augment"] == expected and "few" not in said
    config, said = settings("--data", folder, "--preset", "clips")
    assert config["training"]["augment"] == [] and "few" not in said


def test_few_clips_with_captions_are_augmented_only_if_these_are_not_used(tmp_path):
    folder = videos(tmp_path / "v", captions=["one", "two"])
    config, said = settings("--data", folder)
    assert config["training"]["augment"] == [] and "few" not in said
    config, said = settings("--data", folder, "--condition", "none")
    assert config["training"]["augment"] and "2 clips are few" in said


@pytest.mark.parametrize(
    ("count", "condition", "is_augmented"), [(1, (), True), (1999, (), True), (2000, (), False), (9, ("class",), False)]
)
def test_many_clips_are_not_augmented(count, condition, is_augmented):
    found = Examined(ClipShape(16, 16, 16, 3), condition, count)
    run, remarks = fit_settings_to_shape(found, RunConfig(), ())
    assert bool(run.training.augment) == is_augmented == any("few" in remark for remark in remarks)


def test_short_clips_are_trained_on_as_they_are(tmp_path):
    config, said = settings("--data", videos(tmp_path / "v", frames=9))
    assert config["model"]["frames"] == 8 and "have fewer than 16 usable frames: training with --frames 8" in said
    config, _ = settings("--data", tmp_path / "v", "--stride", 2)
    assert config["model"]["frames"] == 4


def test_the_clips_are_looked_through_once(tmp_path, monkeypatch):
    from fastvgan.data import clips

    seen = []
    monkeypatch.setattr(clips, "examine", lambda entry, *rest, real=clips.examine: seen.append(entry) or real(entry))
    flags = ["--data", str(videos(tmp_path / "v", 32, 32)), *TINY, "--dry-run"]
    status, out, err = call("fastvgan.train", flags)
    assert status == 0, err
    assert "16 frames of 32x32x3, condition: none" in out and "clips are 32x32" in out and len(seen) == 2


def test_a_resumed_run_keeps_its_size(tmp_path):
    flags = ["--data", str(videos(tmp_path / "v", 32, 32)), "--run-dir", str(tmp_path / "r"), *TINY]
    status, _, err = call("fastvgan.train", [*flags, "--steps", "2", "--height", "16", "--width", "16"])
    assert status == 0, err
    assert size(yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())) == (16, 16)
    status, _, err = call("fastvgan.train", [*flags, "--steps", "3", "--resume", "auto"])
    assert status == 0, err
    assert size(yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())) == (16, 16)


def test_several_processes_take_what_the_first_one_found(tmp_path):
    folder = videos(tmp_path / "v", 32, 32, 9, captions=["one", "two"])
    together = ["--standalone", "--nproc-per-node", "2", "-m", "fastvgan.train"]
    flags = ["--data", folder, *TINY, "--steps", "2", "--run-dir", tmp_path / "r"]
    done = run("torch.distributed.run", *together, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("clips are 32x32") == 1
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["model"]["frames"] == 8


@pytest.mark.parametrize("name", ["clips", "clips-64", "clips-128"])
def test_a_named_preset_takes_the_condition_of_the_clips_and_enough_steps(tmp_path, name):
    """As the same preset does where the clips choose it."""
    folder = ["--data", videos(tmp_path / "v", 32, 32, captions=["one", "two"]), "--preset", name]
    config, said = settings(*folder)
    model, training = config["model"], config["training"]
    assert model["condition"] == ["text"] and "clips have captions" in said
    assert training["matching_aware"] and training["steps"] == 1500
    few = "100 epochs of 2 clips are too few steps: training for --steps 1500; --epochs 100 keeps them"
    assert (few in said) == (name != "clips")
    assert (model["height"], training["batch_size"]) == {"clips": (16, 64), "clips-64": (64, 32)}.get(name, (128, 16))
    config, said = settings(*folder, "--condition", "none", "--epochs", "100", "--no-matching-aware")
    assert config["model"]["condition"] == [] and not config["training"]["matching_aware"]
    assert config["training"]["steps"] is None and "too few steps" not in said and "captions" not in said
    classes = videos(tmp_path / "c", 32, 32, 5, ("x/a", "y/b"))
    assert settings("--data", classes, "--preset", name)[0]["model"]["condition"] == ["class"]
    items = [{"video": torch.zeros(3, 4, 16, 16), "caption": word} for word in ("one", "two")]
    size = {"frames": 4, "height": 16, "width": 16, "base_width": 2}
    trainer = fastvgan.Trainer(name, items, run_dir=tmp_path / "r", **size)
    assert trainer.config.model.condition == ("text",) and trainer.steps == 1500


def test_a_run_of_a_named_preset_resumes_by_the_same_command(tmp_path):
    """Also one that was unconditional because the user named that."""
    folder, names = videos(tmp_path / "v", 32, 32, 5, captions=["one", "two"]), (None, "none")
    for name in names:
        condition = ["--condition", name] if name else []
        flags = ["--preset", "clips-64", "--data", str(folder), "--run-dir", str(tmp_path / f"r-{name}"), *TINY]
        flags += ["--height", "16", "--width", "16", "--frames", "4"]
        status, _, err = call("fastvgan.train", [*flags, *condition, "--steps", "1"])
        assert status == 0, err
        status, out, err = call("fastvgan.train", [*flags, "--resume", "auto", "--steps", "2", "--dry-run"])
        assert status == 0, err
        assert f"condition: {name or 'text'};" in out and "2 steps, resuming after 1" in out


def make_captioned(folder):
    return videos(folder, 46, 62, captions=["a dog", "a cat"])


def make_classes(folder):
    return videos(folder, 30, 30, 5, ("x/a", "y/b"))


KINDS = {
    "videos": make_captioned,
    "classes": make_classes,
    "strips": strips,
    "tiny": lambda f: strips(f, 7, 2, 3, "RGB"),
}
SQUARE = ["--to", "shards", "--height", "32", "--width", "32"]
PAIRS = [(kind, form) for kind in KINDS for form in ([], SQUARE)] + [
    ("strips", [*SQUARE, "--channels", "1"]),
    ("videos", ["--to", "shards", "--height", "16", "--width", "128"]),
    ("videos", ["--to", "tars", "--height", "20", "--width", "36"]),
    ("strips", ["--to", "clips"]),
]


def read_printed_flags(folder, out, *flags):
    """The flags of the command that `prepare` prints."""
    status, shown, err = call("fastvgan.prepare", [str(folder), str(out), *flags])
    assert status == 0, err
    (line,) = [line for line in shown.splitlines() if line.startswith("train on: ")]
    words = shlex.split(line.removeprefix("train on: "))
    assert words[:3] == ["python", "-m", "fastvgan.train"], line
    return words[3:]


@pytest.mark.parametrize(("kind", "form"), PAIRS)
def test_the_command_that_prepare_prints_works(tmp_path, kind, form):
    flags = read_printed_flags(KINDS[kind](tmp_path / "src"), tmp_path / "out", *form)
    status, out, err = call("fastvgan.train", [*flags, "--dry-run"])
    assert status == 0, err
    frames, condition = {"videos": (16, "text"), "classes": (4, "class"), "strips": (8, "none"), "tiny": (4, "none")}[
        kind
    ]
    assert f"{frames} frames of " in out and f"condition: {condition};" in out
    if "shards" in form:
        channels = form[-1] if "--channels" in form else "3"
        assert f" frames of {form[3]}x{form[5]}x{channels}," in out


def test_it_trains_on_grey_shards(tmp_path):
    flags = read_printed_flags(strips(tmp_path / "src"), tmp_path / "out", *SQUARE, "--channels", "1")
    more = [*TINY, "--steps", "2", "--run-dir", str(tmp_path / "r")]
    status, _, err = call("fastvgan.train", [*flags, *more])
    assert status == 0, err
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["model"]["channels"] == 1


@pytest.mark.parametrize("name", ["digits", "-out", "x.jsonl"])
def test_odd_names_of_folders_are_printed_so_that_they_are_understood(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_captioned(tmp_path / "src")
    status, shown, err = call("fastvgan.prepare", ["--to", "clips", "--", "src", name])
    assert status == 0, err
    flags = shlex.split(shown.split("fastvgan.train ")[1])
    config, said = settings(*flags)
    assert size(config) == (32, 32) and "clips are 62x46" in said


def test_shards_that_no_model_takes_are_said_in_the_place_of_a_command(tmp_path):
    folder = make_captioned(tmp_path / "src")
    status, shown, err = call(
        "fastvgan.prepare", [str(folder), str(tmp_path / "out"), "--to", "shards", "--height", "40", "--width", "48"]
    )
    assert status == 0, err
    assert "train on: nothing yet: the shards hold frames of 54x40, made for no size" in shown
    status, _, err = call("fastvgan.train", ["--data", str(tmp_path / "out"), "--dry-run"])
    assert status == 2 and "made for no size that models have; prepare the data again" in err


def test_links_that_prepare_followed_are_followed_by_the_command(tmp_path):
    videos(tmp_path / "elsewhere", 32, 32)
    (tmp_path / "src").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "src" / name).symlink_to(tmp_path / "elsewhere" / name)
    flags = read_printed_flags(tmp_path / "src", tmp_path / "out", "--follow-links")
    assert "--follow-links" in flags and size(settings(*flags)[0]) == (32, 32)


def test_a_url_of_tars(tmp_path):
    read_printed_flags(make_captioned(tmp_path / "src"), tmp_path / "out", "--to", "tars")
    config, said = settings("--data", f"file://{tmp_path / 'out'}")
    assert size(config) == (32, 32) and config["model"]["condition"] == ["text"] and "clips are 62x46" in said


def test_lines_of_one_captions_file_are_no_wrong_captions_of_each_other(tmp_path):
    """Paraphrases share most words, which is what makes a wrong caption likely to be drawn."""
    captions = ["a man sings a song\na man is singing a song", "a man cooks a meal\na man is cooking a meal"]
    for names, parts in ((("a", "b"), ("text",)), (("a",), ())):
        folder = videos(tmp_path / "".join(names), names=names, captions=captions)
        data = DataConfig(data=str(folder), workers=0)
        source = open_source(data, ModelConfig(frames=4))
        conditions = Conditions(add_vocabulary(ModelConfig(frames=4), source), source)
        assert conditions.can_be_wrong == parts
        if not parts:
            continue
        right = torch.arange(4).repeat_interleave(50)
        clips = Clips(torch.zeros(200, 4, 16, 16, 3, dtype=torch.uint8), right)
        wrong, _ = conditions.wrong(clips, torch.rand(200, 1, 2, dtype=torch.float64), None, torch.tensor(0))
        of_clip = {tuple(row.tolist()): i // 2 for i, row in enumerate(conditions.table(torch.arange(4), None))}
        assert all(of_clip[tuple(row.tolist())] != i // 2 for row, i in zip(wrong[:, 0], right.tolist(), strict=True))
