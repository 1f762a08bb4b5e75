"""Each script and the notebook of examples/, on problems so small that they take seconds."""

import importlib.util
import re
import sys

import pytest
import torch
from commands import ROOT
from PIL import Image

import fastvgan
from fastvgan.training.run import output, samples

EXAMPLES = ROOT / "examples"
needs_models = pytest.mark.skipif(not hasattr(fastvgan, "from_pretrained"), reason="no shipped models in this version")
needs_video = pytest.mark.skipif(not hasattr(fastvgan, "write_video"), reason="no fastvgan.write_video in this version")


def example(name):
    """Import examples/name.py as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def frames_of(path):
    with Image.open(path) as picture:
        return picture.n_frames


@needs_models
def test_clips_from_sentences_are_saved(tmp_path, capsys):
    arguments = ["a blue 5 moving left and right", "a red 3 moving up and down", "--seed", "3", "--out", str(tmp_path)]
    example("generate_clips").main(arguments)
    generator = fastvgan.from_pretrained("digits")
    assert frames_of(tmp_path / "all.gif") == generator.config.frames
    for number in range(2):
        assert (tmp_path / f"{number}.mp4").stat().st_size > 500
    assert "1.mp4: a red 3 moving up and down" in capsys.readouterr().out


@needs_video
def test_a_dataset_of_one_s_own_is_trained_on(tmp_path, capsys, monkeypatch):
    module = example("train_on_dataset")
    item = module.Discs()[4]
    assert item["video"].shape == (8, 16, 16, 3) and item["caption"] == "a large green disc"
    colour = item["video"].amax((0, 1, 2))
    torch.testing.assert_close(colour, torch.tensor([0.2, 0.9, 0.3]))
    monkeypatch.setattr(module.Discs.__init__, "__defaults__", (48,))
    monkeypatch.setattr(samples, "_POOL", 16)
    monkeypatch.setattr(output, "write_report", lambda folder: None)  # it takes a second, and others test it
    module.main(["--steps", "2", "--small", "--run-dir", str(tmp_path / "r")])
    out = capsys.readouterr().out
    assert "step 2 of 2: coarse_frechet" in out and "48 clips; 2 steps of 4 clips" in out
    assert frames_of(tmp_path / "r" / "disc.gif") == 8


def test_early_stopping_counts_scores_that_are_worse():
    module, stopped = example("train_on_dataset"), []

    class Run:
        step, steps = 1, 9

        def stop(self):
            stopped.append(True)

    callback = module.StopWithoutProgress(patience=2)
    for score in (3.0, 2.0, 2.5, 1.5, 1.6):
        callback.on_evaluate(Run(), {"coarse_frechet": score})
    assert not stopped
    callback.on_evaluate(Run(), {"coarse_frechet": 1.7})
    assert stopped == [True]


def test_a_network_is_fused_with_the_same_results(capsys):
    example("fuse_network").main(["--channels", "4", "--size", "8", "--frames", "4", "--repeats", "1"])
    out = capsys.readouterr().out
    assert re.search(r"down\.0\S* +\w+ +(FusedSequential|\w+3d)", out) and re.search(r"\d+ replaced, \d+ left", out)
    difference = float(re.search(r"largest difference of the outputs: (\S+)", out)[1])
    assert difference < 1e-4
    stock, fused, ratio = map(float, re.search(r"stock (\S+) ms, fused (\S+) ms \((\S+) times", out).groups())
    assert ratio == pytest.approx(stock / fused, rel=0.2)


@needs_video
def test_frames_are_predicted(tmp_path, capsys):
    module = example("predict_frames")
    module.main(["--steps", "12", "--hidden", "4", "--batch-size", "4", "--out", str(tmp_path / "p.gif")])
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"step \d+: loss (\S+)", out)]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.03
    assert frames_of(tmp_path / "p.gif") == 15
    # No frame may be predicted from itself or from later ones.
    network = module.Predictor(2)
    x = torch.rand(1, 3, 6, 16, 16, requires_grad=True)
    network(x)[:, :, 2].sum().backward()
    assert x.grad[:, :, :3].abs().sum() > 0 and not x.grad[:, :, 3:].any()


@needs_models
def test_the_notebook_runs_and_shows_clips(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "first_clip.ipynb", 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "strip the notebook's outputs"
    cells[0].source = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{cells[0].source}"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data.get("text/html", "") for cell in cells for output in cell.outputs if "data" in output]
    assert sum("<img" in html or "<video" in html for html in shown) == 3
    assert frames_of(tmp_path / "between.gif") > 1
    errors = [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert any("elephant" in text for text in errors)


def test_the_list_names_every_example():
    listed = re.findall(r"\]\((\S+)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".ipynb"))
