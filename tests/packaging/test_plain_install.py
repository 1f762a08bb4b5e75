"""What the plain install can do: layers, info, generation, and training on the digits, bit by bit as with everything."""

import os
import subprocess
import sys

import pytest
from plain import ROOT, PlainPython, plain_distributions
from safetensors.torch import load_file

STEPS = ["-m", "fastvgan.train", "--steps", "2", "--batch-size", "4", "--evaluate-clips", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return PlainPython(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def runs(plain, tmp_path_factory):
    """A run by the plain install, the same by all that is installed here, and what the plain one said."""
    folder = tmp_path_factory.mktemp("runs")
    # A checkout may have the extension where the links do not.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVGAN_DISABLE_EXTENSION", "1")
        both = PlainPython(tmp_path_factory.mktemp("site without extension"))
        said = both(*STEPS, "--run-dir", str(folder / "plain"))
        whole = [sys.executable, *STEPS, "--run-dir", str(folder / "whole")]
        done = subprocess.run(whole, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "plain", folder / "whole", said


def test_it_brings_few_megabytes_beside_torch():
    torch_and_below = {
        *("torch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy"),
        *("triton", "typing-extensions"),
    }
    added = {
        name: distribution
        for name, distribution in plain_distributions().items()
        if name not in torch_and_below and not name.startswith(("nvidia-", "cuda-"))
    }
    assert "numpy" not in added and {"pillow", "pydantic", "safetensors", "tyro"} <= set(added)
    files = [file.locate() for found in added.values() for file in found.files or ()]
    # An editable or linked install of a dependency has none.
    assert len(files) > 300
    folders = [ROOT / "fastvgan", ROOT / "kernels"]
    files += [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    size = sum(os.path.getsize(path) for path in files if os.path.isfile(path))
    assert size < 60e6, f"{size / 1e6:.0f} MB, to which come the compiled extension and __pycache__"


def test_layers_and_every_command_are_imported_without_what_is_optional(plain):
    code = """
import sys, warnings
warnings.simplefilter("error")
import fastvgan, torch
from fastvgan.layers import Conv3d, ConvLSTM, fuse
import fastvgan.evaluate, fastvgan.generate, fastvgan.prepare, fastvgan.report, fastvgan.train
import fastvgan.metrics.evaluation, fastvgan.metrics.detectors.comparison
Conv3d(3, 4, 3)(torch.zeros(1, 3, 4, 8, 8)).sum().backward()
print(*sorted({"numpy", "av", "tensorboard", "matplotlib", "webdataset", "sklearn", "scipy"} & set(sys.modules)))
"""
    assert plain("-c", code) == "\n"
    assert "operations" in plain("-m", "fastvgan.info")


def test_training_gives_the_same_bits(runs):
    plain, whole, _ = runs
    for name in ("checkpoints/step-2/state.safetensors", "export/generator.safetensors"):
        ours, all_of_them = load_file(plain / name), load_file(whole / name)
        assert ours.keys() == all_of_them.keys()
        assert all(ours[key].equal(all_of_them[key]) for key in ours), name
    for name in ("samples/step-000002.gif", "samples/step-000002.png"):
        assert (plain / name).read_bytes() == (whole / name).read_bytes(), name
    assert (whole / "tb").is_dir() and not (plain / "tb").exists()


def test_training_says_once_what_it_leaves_out(runs):
    plain, _, said = runs
    assert said.count('tb: the package tensorboard is not installed (pip install "fastvgan[train]")') == 1
    assert said.count('no scores: the package numpy is not installed (pip install "fastvgan[train]")') == 1
    assert "No curve: matplotlib is not installed" in (plain / "report.html").read_text(encoding="utf-8")
    assert "NumPy" not in said  # torch's own warning


def test_it_generates_the_same_files(plain, runs, tmp_path):
    run, caption = str(runs[1]), "a green 3 moving left and right"
    for name in ("x.gif", "x.png"):
        flags = ["-m", "fastvgan.generate", "--run", run, "--text", caption, "--n", "2", "--out"]
        plain(*flags, str(tmp_path / name))
        done = subprocess.run([sys.executable, *flags, str(tmp_path / f"whole-{name}")], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["generate", "--out", "x.mp4"], 'x.mp4: .mp4 needs the package av: pip install "fastvgan[video]", or write a '),
        (["train", "--data", "clips"], '--data clips needs the package av: pip install "fastvgan[video]", or leave'),
        (["prepare", "clips", "out"], 'prepare needs the package av: pip install "fastvgan[video]"'),
        (["evaluate"], 'an evaluation needs the package numpy: pip install "fastvgan[evaluate]"'),
        (["train", "--wandb", "x", "--steps", "1"], '--wandb needs the package wandb: pip install "fastvgan[wandb]", or '),
        (["train", "--text-encoder", "clips"], '--text-encoder needs the package transformers: pip install "fastvgan[te'),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(plain, tmp_path, command, sentence):
    (tmp_path / "clips").mkdir()
    said = plain("-m", f"fastvgan.{command[0]}", *command[1:], status=2, cwd=tmp_path)
    assert sentence in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["clips"], "something was written"
