"""What the plain install can do: layers, info, generation, training on the digits, to the bit as with everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from plain import ROOT, PlainPython, plain_distributions
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).with_name("plain_run.py"))
REFUSED = {
    "generate --out x.mp4": 'x.mp4: .mp4 needs the package av: pip install "fastvgan[video]", or write a .gif file',
    "train --data tests": '--data tests needs the package av: pip install "fastvgan[video]", or leave --data out to '
    "train on the digits",
    "prepare tests out": 'prepare needs the package av: pip install "fastvgan[video]"',
    "evaluate": 'an evaluation needs the package numpy: pip install "fastvgan[evaluate]"',
    "train --wandb x --steps 1": '--wandb needs the package wandb: pip install "fastvgan[wandb]", or omit the flag',
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What plain_run.py wrote by the plain install, and by all that is installed here; and what the former said."""
    plain, whole = (tmp_path_factory.mktemp(name) for name in ("plain", "whole"))
    with pytest.MonkeyPatch.context() as patch:
        # The plain install's folder has no compiled extension, whose results differ in the last bits.
        patch.setenv("FASTVGAN_DISABLE_EXTENSION", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(ROOT)
        commands = [command.split() for command in REFUSED]
        said = PlainPython(tmp_path_factory.mktemp("site"))(SCRIPT, str(plain), json.dumps(commands), cwd=plain)
        done = subprocess.run(
            [sys.executable, SCRIPT, str(whole)], env=_with_checkout(), capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return plain, whole, said


def _with_checkout():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


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


def test_nothing_optional_is_imported_for_layers(folders):
    assert json.loads((folders[0] / "found.json").read_text())["loaded"] == []


def test_training_gives_the_same_bits(folders):
    plain, whole = folders[0] / "run", folders[1] / "run"
    for name in ("checkpoints/step-1/state.safetensors", "export/generator.safetensors"):
        ours, all_of_them = load_file(plain / name), load_file(whole / name)
        assert ours and ours.keys() == all_of_them.keys()
        assert all(ours[key].equal(all_of_them[key]) for key in ours), name
    assert (whole / "tb").is_dir() and not (plain / "tb").exists()


@pytest.mark.parametrize("name", ["x.gif", "x.png", "run/samples/step-000001.gif", "run/samples/step-000001.png"])
def test_pictures_are_the_same_files(folders, name):
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_training_says_once_what_it_leaves_out(folders):
    plain, _, said = folders
    assert said.count('tb: the package tensorboard is not installed (pip install "fastvgan[train]")') == 1
    assert said.count('no scores: the package numpy is not installed (pip install "fastvgan[train]")') == 1
    assert "No curve: matplotlib is not installed" in (plain / "run" / "report.html").read_text(encoding="utf-8")
    assert "NumPy" not in said  # torch's own warning


def test_what_is_missing_is_said_in_one_sentence_before_anything_is_written(folders):
    assert json.loads((folders[0] / "found.json").read_text())["refused"] == REFUSED
