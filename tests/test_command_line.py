"""What every command says of wrong flags, and how it ends; tyro, which draws the help, is the judge of right ones."""

import contextlib
import copy
import importlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
import yaml
from commands import call
from PIL import Image

import fastvgan.machine.memory as memory
from fastvgan.command_line import one_line, parse, read_flags, run_command, settings_from
from fastvgan.errors import UserError
from fastvgan.files.video import write_video
from fastvgan.generate import Arguments as GenerateArguments
from fastvgan.generation.files import export
from fastvgan.generation.loading import load
from fastvgan.models import ModelConfig, build, build_generator
from fastvgan.models.sizes import count_min_weights
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.runs.presets import PRESETS, preset
from fastvgan.settings import Settings
from fastvgan.train import Arguments as TrainArguments

TRAIN = [
    ("--steps five", "--steps five: expected a whole number"),
    ("--steps", "--steps: expected a whole number, got nothing"),
    ("--steps --seed", "--steps: expected a whole number, got the flag --seed"),
    ("--steps 5 6", "--steps 5 6: expected a whole number only"),
    ("--steps=", "--steps '': expected a whole number, got an empty one"),
    ("--steps 0", "--steps 0: must be at least 1"),
    (f"--steps {'٣' * 400}", f"--steps {'٣' * 60}…: must be at most 1000000000000"),
    ("--steps 1e3", "--steps 1e3: expected a whole number"),
    ("--betas 2 3", "--betas 2 3: must be less than 1"),
    ("--betas 0.5", "--betas 0.5: expected 2 numbers"),
    ("--batch_size 1", "--batch-size 1: must be at least 2"),
    ("--batch-size 1000000000", "--batch-size 1000000000: must be at most 1048576"),
    ("--seed 18446744073709551616", "--seed 18446744073709551616: must be less than 9223372036854775808"),
    ("--lr-generator inf", "--lr-generator inf: expected a finite number"),
    ("--lr-generator 1e-50", "--lr-generator 1e-50: is too small for float32; use at least 1.2e-38"),
    ("--penalty-scale 1e-30", "--penalty-scale 1e-30: must be at least 1e-06"),
    ("--lr-generator 1e39", "--lr-generator 1e39: must be at most 3.4e+38, the largest float32"),
    ("--device gpu", "--device gpu: expected one of auto, cpu, cuda"),
    ("--condition text sound", "--condition sound: expected one or more of text, class, image, none"),
    ("--augment color,blur", "--augment blur: expected one or more of color, translation, cutout, none"),
    ("--augment-target 0.6", "--augment-target needs changes to adapt; add --augment color translation cutout"),
    ("--share 0", "--share 0: must be more than 0"),
    ("--warp true", "--warp true: --warp takes no value; its opposite is --no-warp"),
    ("--warp=true", "--warp=true: --warp takes no value; its opposite is --no-warp"),
    ("--step 5", "unknown flag --step (did you mean --steps?); --help lists all flags"),
    ("--no-wrap", "unknown flag --no-wrap (did you mean --warp?); --help lists all flags"),
    ("steps=5", "unexpected argument steps=5 (did you mean --steps?); --help lists all flags"),
    ("--stride 100000000", "--stride 100000000: must be at most 10000"),
    ("--workers 100000", "--workers 100000: must be at most 4096"),
    ("--height 17", "--height 17: must be a power of two from 16 to 128"),
]
OTHERS = [
    ("generate", "--image a b", "--image a b: expected a path only; quote a value that contains spaces"),
    ("generate", "--text", "--text: expected one or more strings, got nothing"),
    ("generate", "--seed -1", "--seed -1: expected whole numbers of at least 0, or ranges such as 0-7"),
    ("generate", "--seed 0-7-9", "--seed 0-7-9: expected whole numbers of at least 0, or ranges such as 0-7"),
    ("generate", "--fps inf", "--fps inf: expected a finite number"),
    ("generate", "--scale 2000", "--scale 2000: must be at most 64"),
    ("generate", "--frames 1000000000000", "--frames 1000000000000: must be at most 10000"),
    ("generate", "--fps 60", "generated.gif: 60 frames per second; .gif supports 0.01 to 50, since viewers"),
    ("generate", "--out x.avi", "x.avi: unsupported video format; pass a .mp4, .gif or .png file"),
    ("generate", "--out no/x.gif", "cannot write no/x.gif: the folder no does not exist; create it first"),
    ("evaluate", "", "runs/ holds no run; train one with `python -m fastvgan.train`, or pass one with --run"),
    ("evaluate", "--clips x", "--clips x: expected a whole number"),
    ("evaluate", "--json", "--json: expected a path, got nothing"),
    ("prepare", "digits out", "SOURCE digits does not exist; the digits need no preparation"),
    ("prepare", "missing out", "SOURCE missing does not exist"),
    ("prepare", "only", "OUT missing; pass SOURCE OUT, in this order"),
    ("prepare", "a b c", "unexpected argument c; --help lists all flags"),
    ("prepare", "a b --to zip", "--to zip: expected one of manifest, clips, shards, tars"),
    ("prepare", "a b --channels 1", "--channels 1 has no effect with --to manifest; leave it out, or pass --to shards"),
    (
        "prepare",
        "a b --to tars --channels 1",
        "--channels 1 has no effect with --to tars; leave it out, or pass --to s",
    ),
    (
        "prepare",
        "a b --codec h264",
        "--codec h264 has no effect with --to manifest; leave it out, or pass --to clips or",
    ),
    ("prepare", "a b --to shards --height 8 --width 8 --gop 9", "--gop 9 has no effect with --to shards; leave it"),
    ("prepare", "a b --to clips --shard-size 9", "--shard-size 9 has no effect with --to clips; leave it out, or pass"),
    ("info", "--jsno", "unknown flag --jsno (did you mean --json?); --help lists all flags"),
    ("report", "--run missing", "missing is not a folder; pass a run folder with --run"),
    ("metrics.train_oracle", "--steps -3", "--steps -3: must be at least 1"),
    ("generation.make_shipped", "run", "EVALUATION missing; pass RUN EVALUATION, in this order"),
]


@pytest.mark.parametrize(("command", "line", "sentence"), [*(("train", *case) for case in TRAIN), *OTHERS])
def test_a_wrong_flag_is_one_sentence_that_shows_what_was_typed(command, line, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(f"fastvgan.{command}", line.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--data", "--config", "--run-dir", "--resume", "--preset", "--wandb", "--root"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_name_is_no_name(flag, value):
    assert call("fastvgan.train", [flag, value])[2].startswith(f"error: {flag} '{value}': expected a ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("fi\nve", "'fi\\nve'"),
        ("\x1b[31m5", "'\\x1b[31m5'"),
        ("fünf", "fünf"),
        ("\udcff", "'\\udcff'"),
        ("x" * 99, "x" * 60),
    ],
)
def test_values_of_any_letters_stay_on_one_line(value, shown):
    status, _, err = call("fastvgan.train", ["--steps", value])
    assert (
        status == 2
        and err.startswith(f"error: --steps {shown}")
        and err.count("\n") == 1
        and err.isascii() == ("ü" not in err and "…" not in err)
    )


def test_a_message_is_one_line_of_bounded_length():
    told = one_line("a\nb\x07\u2028c\udcff " + "x" * 10**6)
    assert told.startswith("a\\nb\\x07\\u2028c\\udcff xxx") and len(told) < 2100


@pytest.mark.parametrize(
    "line",
    [
        "--steps 5 --batch_size 4 --seed=3 --warp --no-clock",
        "--betas 0.1 0.2 --condition image class --motion-latent None --lr-generator 1e-4",
        "--discriminators clip difference --precision bf16 --data ../clips --wandb x --watchdog 0",
        "--run-dir a/b --resume auto --dry-run --preset clips --max-stride 7 --stride 3 --channels 1 --hold-out 0.5",
        "--steps 1 --steps 2 --no-warp --warp --data=--odd --max-bad 0",
    ],
)
def test_right_flags_mean_what_tyro_says(line):
    base = TrainArguments(run=preset("digits"))
    expected = tyro.cli(TrainArguments, args=line.split(), default=base)
    assert settings_from(TrainArguments, read_flags(TrainArguments, line.split()), base) == expected


@pytest.mark.parametrize("command", ["generate", "evaluate", "prepare", "report", "info"])
def test_right_flags_of_other_commands_mean_what_tyro_says(command):
    lines = {
        "generate": "--run x --text=-- b --seed 0-7 9 --n 3 --fps 2.5 --out ü.mp4 --frames None",
        "evaluate": "--run x --clips 16 --json y.json --split test",
        "prepare": "a b --to shards --height 8 --width 9 --tolerant --keep-free 0.5",
        "report": "--run x",
        "info": "--json",
    }
    arguments = importlib.import_module(f"fastvgan.{command}").Arguments
    line = lines[command].split()
    assert parse(arguments, "x", line) == tyro.cli(arguments, args=line)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--text A --text B C --fps 9 --text=D", "text", ("A", "B", "C", "D")),
        ("--text A --text None --text B", "text", ("B",)),
        ("--seed 1 --seed 4-6", "seed", ("1", "4-6")),
        ("--fps 9 --fps 5", "fps", 5),
    ],
)
def test_texts_and_seeds_are_collected_and_of_other_flags_the_last_one_counts(line, name, value):
    run = ["--run", "r", "--out", "o.gif"]
    assert getattr(parse(GenerateArguments, "", [*run, *line.split()]), name) == value


def test_a_wrong_value_among_collected_ones_is_shown_with_them():
    with pytest.raises(UserError, match="^--seed 1 x: "):
        parse(GenerateArguments, "", "--run r --out o.gif --seed 1 --seed x".split())


def test_the_last_of_several_names_counts():
    line = "--discriminators clip frame --discriminators clip".split()
    assert read_flags(TrainArguments, line).get("run", "model", "discriminators") == ("clip",)


def test_help_is_printed_whatever_else_is_there():
    status, out, _ = call("fastvgan.train", ["--steps", "five", "--help"])
    words = " ".join(out.replace("│", "").split())
    assert status == 0 and "--batch-size" in words and "--no-matching-aware needs --contrast 0" in words
    status, out, _ = call("fastvgan.train", ["--preset", "reference", "--data", "missing", "--help"])
    assert status == 0 and "The defaults shown are those of the preset digits; --print-config prints" in out
    assert f"(default: {preset('digits').training.wrong_conditions})" in out


def test_help_begins_with_what_the_settings_say_of_themselves():
    class Command(Settings):
        """Do one thing.

        And another.
        """

    out = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
        parse(Command, "x", ["--help"])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[2:5] == ["Do one thing.", "", "And another."]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: hello", "model 'hello': expected a mapping of settings"),
        ("model: [1]", "model [1]: expected a mapping of settings"),
        ("training: {lr_generator: .inf}", "lr_generator inf: expected a finite number"),
        ("training: {ema: .nan}", "ema nan: "),
        ("training: {betas: [0.5]}", "betas"),
        ("training: {seed: 18446744073709551616}", "seed 18446744073709551616: must be less than"),
        ("training: {batch_siez: 3}", "batch_siez: is not a setting; did you mean batch_size?"),
        ("training: {steps: yes}", "steps True: expected a number or a text, not true or false"),
        ("training: {betas: [true, 0.5]}", "expected a number or a text, not true or false"),
        ("training: {wandb: ''}", "wandb '': must not be empty; leave it out"),
        ("data: {data: ' '}", "data ' ': must not be empty"),
        ("training: {steps: 3, seed: 1, steps: 5}", "line 1: the key steps occurs twice; keep one of them"),
        ("data: {}\ntraining: {}\ndata: {}", "line 3: the key data occurs twice"),
        ("training: {7: 3}", "line 1: the key 7 is no name of a setting"),
        ("training: {? [a] : 1}", "line 1: the list or mapping that is a key is no name of a setting"),
        ("model: !!map [a]", "not a YAML file of settings: expected a mapping node"),
        (
            "training: {cuda_graphs: off}",
            "cuda_graphs False: expected a number or a text, not true or false (which yes",
        ),
        ("model: {class_names: [a, '']}", "must not be empty"),
        ("2020-13-45", "not a YAML file of settings: month must be in 1..12"),
        ("[" * 5000, "not a YAML file"),
        ("3: 4", "line 1: the key 3 is no name of a setting"),
        ("- 1", "holds no settings"),
        ("a: !!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path)) and sentence in str(caught.value)


def test_a_folder_a_device_or_no_text_is_no_configuration(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "bytes"):
        with pytest.raises(UserError, match="cannot read|more than|not a YAML"):
            read_config(path)


def test_faults_can_be_sent_to_another_process():
    with pytest.raises(UserError) as caught:
        ModelConfig(frames=3, latent=0, nonsense=3)
    for copied in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert str(copied) == str(caught.value) and copied.faults == caught.value.faults
    assert str(caught.value) == "frames 3: must be at least 4; latent 0: must be at least 2; nonsense: is not a setting"


def test_presets_are_read_back_as_they_were():
    for name in ("digits", "reference", "clips-64"):
        assert RunConfig.model_validate(yaml.safe_load(preset(name).to_yaml())) == preset(name)


def test_resuming_names_the_folder_that_was_given(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder in (tmp_path / "a" / "b", tmp_path / "a", tmp_path):
        err = call("fastvgan.train", ["--resume", str(folder), "--dry-run"])[2]
        assert err.startswith(f"error: --resume {folder}: this is neither a run folder") and "config.yaml" in err


# These tests patch the free memory to a small amount.


def test_a_step_that_does_not_fit_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device=None: 2**28)
    monkeypatch.chdir(tmp_path)
    for flags, sentence in {
        "--base-width 4096": "a model with --base-width 4096 and --latent 100 needs at least ",
        "--base-width 2 --batch-size 100000": "a step on 100000 clips at once needs at least ",
        "--base-width 2 --evaluate-clips 50000": "an evaluation with --evaluate-clips 50000 needs at least ",
        "--base-width 2 --batch-size 8192 --wrong-conditions 4096": "a step on 8192 clips at once needs at least ",
    }.items():
        status, _, err = call("fastvgan.train", [*flags.split(), "--preset", "digits-conv3d"])
        assert status == 2 and err.startswith(f"error: {sentence}") and err.count("\n") == 1
        assert "of memory, and this machine has 256 MiB left; use " in err
    assert not list(tmp_path.iterdir())
    accumulated = ["--base-width", "2", "--batch-size", "8192", "--accumulate", "4096", "--wrong-conditions", "1"]
    assert call("fastvgan.train", [*accumulated, "--preset", "clips", "--dry-run"])[0] == 0


def test_clips_that_do_not_fit_are_refused_before_they_are_made(tmp_path, monkeypatch):
    model = ModelConfig(family="recurrent", condition=(), base_width=2, latent=4)
    export(build_generator(model).state_dict(), model, tmp_path / "x.safetensors")
    generator = load(tmp_path / "x.safetensors")
    monkeypatch.setattr(memory, "free_bytes", lambda device=None: 2**24)
    with pytest.raises(UserError, match="4 clips of 10000 frames needs at least"):
        generator.generate(n=4, frames=10_000)
    assert generator.generate(n=1).shape == (1, 16, 16, 16, 3)
    flags = ["--run", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "x.gif"), "--scale", "64", "--n", "2"]
    assert "pixels needs at least" in call("fastvgan.generate", flags)[2]
    assert "an evaluation with --clips 5000" in call("fastvgan.evaluate", [*flags[:2], "--clips", "5000"])[2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_weights_are_counted_from_below_and_nearly(name, family):
    model = PRESETS[name].model.model_copy(update={"family": family, "vocabulary": ("a",), "caption_length": 1})
    model = model.model_copy(update={"condition": (), "base_width": 64})
    for counted, network in zip(count_min_weights(model), build(model), strict=True):
        there = sum(weight.numel() for weight in network.parameters())
        assert 0.3 * there < counted <= there


def test_a_container_has_what_its_group_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    before = memory.free_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("50000\n")
    assert memory.free_bytes() == pytest.approx(before, rel=0.2)
    (tmp_path / "memory.max").write_text("100000\n")
    assert memory.free_bytes() == 50000
    (tmp_path / "memory.stat").write_text("anon 30000\ninactive_file 20000\n")
    assert memory.free_bytes() == 70000


def test_an_exported_file_that_asks_for_more_than_it_holds_is_refused_at_once(tmp_path):
    model = ModelConfig(condition=(), base_width=2, latent=4)
    export(
        build_generator(model).state_dict(), model.model_copy(update={"base_width": 65536}), tmp_path / "x.safetensors"
    )
    with pytest.raises(UserError, match="does not fit this version of fastvgan"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("fps", [0.01, 7, 8, 24, 30, 50])
def test_a_gif_lasts_as_long_as_its_rate_says(tmp_path, fps):
    frames = (255 * build_frames(12)).astype("uint8")
    write_video(tmp_path / "x.gif", frames, fps)
    with Image.open(tmp_path / "x.gif") as gif:
        delays = []
        for number in range(gif.n_frames):
            gif.seek(number)
            delays.append(gif.info["duration"])
    assert len(delays) == 12 and min(delays) >= 20
    assert sum(delays) == pytest.approx(12_000 / fps, abs=10)


def test_a_gif_that_stands_still_too_long_is_refused(tmp_path):
    """Pillow joins equal frames into one, whose duration has 16 bits."""
    still = (255 * build_frames(1)).astype("uint8").repeat(16, 0)
    with pytest.raises(UserError, match=r"0\.01 frames per second: .* stands still for 1600; pass a higher rate"):
        write_video(tmp_path / "x.gif", still, 0.01)
    assert not list(tmp_path.iterdir())
    write_video(tmp_path / "x.gif", still, 0.025)  # 640 seconds
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.info["duration"] == 640_000


def build_frames(count):
    """Frames (T, 8, 8, 3) in [0, 1], no two alike."""
    import numpy as np

    return np.random.default_rng(0).random((count, 8, 8, 3))


@pytest.mark.parametrize(("name", "fps"), [("x.gif", 51), ("x.gif", 0.001), ("x.mp4", float("inf")), ("x.mp4", 0)])
def test_a_rate_that_no_viewer_shows_is_refused(tmp_path, name, fps):
    with pytest.raises(UserError, match="frames per second; .(gif|mp4) supports"):
        write_video(tmp_path / name, (255 * build_frames(2)).astype("uint8"), fps)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_is_no_reader_that_went_away():
    def main():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit, match="2"):
        run_command(main)


_PRINT = """
import sys
from fastvgan.command_line import run_command

def main():
    for _ in range(100000):
        print("a \\udcff line")

run_command(main)
"""


def test_a_reader_that_goes_away_is_no_fault_and_a_full_disk_is():
    root = Path(__file__).resolve().parents[1]
    program = [sys.executable, "-c", _PRINT]
    process = subprocess.Popen(program, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"a \\udcff line\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(program, cwd=root, stdout=full, stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 2 and done.stderr == b"error: No space left on device\n"


def test_no_refusal_imports_what_takes_seconds():
    """A wrong flag is answered at once: torch, PyAV and TensorBoard are not there yet."""
    root = Path(__file__).resolve().parents[1]
    program = (
        "import importlib, sys\n"
        "for name in ('train', 'generate', 'evaluate', 'prepare', 'info', 'report', 'metrics.train_oracle',\n"
        "             'generation.make_shipped'):\n"
        "    module = importlib.import_module('fastvgan.' + name)\n"
        "    try: module.main(['--nonsense'])\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "print(*sorted({'torch', 'av', 'tensorboard', 'matplotlib', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["UserError"] * 8 + [""], done.stderr


def test_names_are_separated_by_blanks_or_commas():
    found = [
        parse(TrainArguments, "train", flags).run.training.augment
        for flags in (["--augment", "cutout,color"], ["--augment", "cutout", "color"], ["--augment=cutout,color"])
    ]
    assert found == [("color", "cutout")] * 3
