"""The public names of the package, what importing it loads, and what generating needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_generators import make_generator

import fastvgan

ROOT = Path(__file__).resolve().parents[2]
HIDE = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numpy", "av"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""


def python(program, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_every_public_name_is_there():
    names = set(fastvgan.__all__)
    assert {"VideoGenerator", "Videos", "from_pretrained", "load", "write_video"} <= names <= set(dir(fastvgan))
    for name in names:
        assert getattr(fastvgan, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        fastvgan.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    assert python("import sys, fastvgan; dir(fastvgan); print('torch' in sys.modules, fastvgan.__version__)") == [
        "False",
        fastvgan.__version__,
    ]


def test_training_on_a_dataset_needs_neither_numpy_nor_pyav(tmp_path):
    # Not HIDE: torch asks whether numpy can be found, and None as a module stands for no.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules |= {'numpy': None, 'av': None}")
    program = """
import torch, fastvgan
data = [{"video": torch.rand(4, 16, 16, 3), "caption": "a"} for _ in range(3)]
trainer = fastvgan.Trainer(data=data, device="cpu", base_width=2, run_dir="never-written")
print(trainer.config.model.condition[0])
"""
    assert python(program, PYTHONPATH=str(tmp_path)) == ["text"]


def test_clips_pictures_and_gifs_need_neither_numpy_nor_pyav(tmp_path):
    """From a first frame as well; and the sentence that names numpy where a user asks for an array."""
    make_generator(condition=("text", "image")).save_pretrained(tmp_path / "model")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    program = f"""
import sys, torch, fastvgan
from PIL import Image
generator = fastvgan.from_pretrained({str(tmp_path / "model")!r})
picture = Image.new("RGB", (40, 30), "red")
videos = generator("a red", seed=range(2), image=[picture, torch.zeros(3, 20, 20)])
videos.save({str(tmp_path / "x.gif")!r})
videos.save({str(tmp_path / "x.png")!r})
fastvgan.write_video({str(tmp_path / "y.gif")!r}, videos[0])
fastvgan.write_video({str(tmp_path / "z.gif")!r}, videos[0].to_pil())
generator.interpolate("a red", "a green", 3, image=picture)._repr_html_()
try:
    videos.to_numpy()
except fastvgan.errors.UserError as error:
    print(str(error).replace(" ", "-"), "numpy" in sys.modules)
"""
    found = python("import fastvgan.errors\n" + program, PYTHONPATH=str(tmp_path))
    assert found == ['to_numpy-needs-the-package-numpy:-pip-install-"fastvgan[video]",-or-use-to_tensor', "False"]
    assert {"x.gif", "x.png", "y.gif", "z.gif"} <= {path.name for path in tmp_path.iterdir()}
