"""Detectors: their inputs against torch, how files are called, and the files that are refused."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import scripted
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastvgan.errors import UserError
from fastvgan.metrics.detectors.detector import Detector, to_inputs
from fastvgan.metrics.detectors.flags import View

CPU = torch.device("cpu")
SHAPE = (4, 8, 8, 3)


def clips(n=3, shape=SHAPE, seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def open_detector(path, shape=SHAPE, counts=(2,), **view):
    detector = Detector(View(path, "name", **{"size": 0, **view}), CPU)
    detector.probe(shape, counts)
    return detector


@given(st.sampled_from([(4, 6), (5, 5), (16, 9)]), st.sampled_from([1, 2, 5, 12, 31]), st.sampled_from([1, 3]))
def test_frames_are_scaled_one_by_one_as_torch_scales_images(frame, size, channels):
    video = clips(2, (3, *frame, channels))
    view = View(Path("x"), "x", size, "byte")
    found = to_inputs(video, view)
    assert found.shape == (2, 3, 3, size, size) and found.dtype == torch.float32 and found.is_contiguous()
    for t in range(3):
        image = video[:, t].permute(0, 3, 1, 2).float()
        expected = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[:, :, t], expected.expand(-1, 3, -1, -1))


def test_scaling_equals_that_inside_the_i3d_file():
    """The file scales clips by trilinear interpolation, which leaves time alone: our frames are the same."""
    video = clips(2, (5, 9, 9, 3))
    expected = torch.nn.functional.interpolate(
        video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1, (5, 24, 24), mode="trilinear", align_corners=False
    )
    torch.testing.assert_close(to_inputs(video, View(Path("x"), "x", 24)), expected, atol=1e-5, rtol=0)


def test_antialiasing_is_pillows():
    video = clips(1, (1, 40, 40, 3))
    found = to_inputs(video, View(Path("x"), "x", 11, "byte", "antialias"))[0, :, 0]
    image = np.asarray(Image.fromarray(video[0, 0].numpy()).resize((11, 11), Image.Resampling.BILINEAR))
    assert (found.permute(1, 2, 0) - torch.from_numpy(image.copy()).float()).abs().max() < 1.01  # Pillow rounds
    plain = to_inputs(video, View(Path("x"), "x", 11, "byte"))[0, :, 0]
    assert (found - plain).abs().max() > 20


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("signed", [-1] * 3, [1] * 3),
        ("unit", [0] * 3, [1] * 3),
        ("byte", [0] * 3, [255] * 3),
        ("imagenet", [-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]),  # black and white, as torchvision documents
    ],
)
def test_ranges(name, low, high):
    view = View(Path("x"), "x", 0, name)
    for value, expected in ((0, low), (255, high)):
        found = to_inputs(torch.full((1, 2, 3, 3, 1), value, dtype=torch.uint8), view)
        assert found.shape == (1, 3, 2, 3, 3)
        torch.testing.assert_close(found[0, :, 1, 1, 1], torch.tensor(expected).float(), atol=1e-4, rtol=0)


def test_the_i3d_file_is_called_as_published(tmp_path):
    module = scripted.I3DLike()
    path = scripted.save_scripted(module, tmp_path / "i3d.pt")
    detector = open_detector(path, size=16)
    assert detector.arguments == {"rescale": False, "resize": False, "return_features": True}
    assert detector.is_i3d and detector.features == 6
    assert detector.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    x = to_inputs(clips(), View(path, "x", 16))
    expected = module(x, rescale=False, resize=False, return_features=True)
    torch.testing.assert_close(detector(clips(), "real"), expected.detach())
    assert "called with rescale=False, resize=False, return_features=True" in detector.describe()
    with pytest.raises(UserError, match="pass the range signed, not unit"):
        Detector(View(path, "x", range="unit"), CPU)


def test_a_generic_detector(tmp_path):
    detector = open_detector(scripted.save_scripted(scripted.Flat(), tmp_path / "x.pt"), range="unit")
    assert detector.arguments == {} and not detector.is_i3d and detector.features == 3 * 4 * 8 * 8
    expected = clips().permute(0, 4, 1, 2, 3).flatten(1).float() / 255
    torch.testing.assert_close(detector(clips(), "real"), expected)
    assert detector.facts["size"] == 0 and "frames of the clips' own size" in detector.describe()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_detector_and_one_in_training_mode(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9)).train()
    torch.jit.trace(module, torch.zeros(1, 3, 4, 8, 8), check_trace=False).save(tmp_path / "x.pt")
    traced = torch.jit.load(tmp_path / "x.pt")
    torch.jit.script(module).save(tmp_path / "y.pt")
    detector = open_detector(tmp_path / "y.pt")
    torch.testing.assert_close(detector(clips(), "real"), detector(clips(), "real"))
    assert traced is not None and open_detector(tmp_path / "x.pt").features == 768


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_half_precision_features_become_float32(tmp_path):
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).half()

    path = tmp_path / "x.pt"
    torch.jit.trace(Half(), torch.zeros(2, 3, 4, 8, 8)).save(path)
    assert open_detector(path)(clips(), "real").dtype == torch.float32


def refused(path, video=None, **options):
    with pytest.raises(UserError) as raised:
        detector = open_detector(path, **options)
        detector(clips() if video is None else video, "generated")
    sentence = str(raised.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def test_files_that_are_no_torchscript(tmp_path):
    assert "does not exist" in refused(tmp_path / "missing.pt")
    assert "is not a file" in refused(tmp_path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "is not a TorchScript file" in refused(tmp_path / "weights.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "weights alone, as torch.save writes them, do not suffice" in refused(tmp_path / "old.pt")
    (tmp_path / "empty.pt").touch()
    assert "is not a TorchScript file" in refused(tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("no network\n" * 100)
    assert "is not a TorchScript file" in refused(tmp_path / "text.pt")


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    torch.save(Trap(), tmp_path / "zip.pt")
    for name in ("trap.pt", "zip.pt"):
        assert "is not a TorchScript file" in refused(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_file(tmp_path):
    path = scripted.save_scripted(scripted.I3DLike(), tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[:-200])
    assert "is not a TorchScript file" in refused(path)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (scripted.Unpooled, r"must return features of shape \(2, F\) .* but returned \(2, 3, 8, 8\)"),
        (scripted.Pair, r"but returned tuple"),
        (scripted.NeedsMore, "needs the argument 'mask' besides the clips"),
        (scripted.Counts, "does not take a tensor of clips"),
        (scripted.Whole, "must return floating-point features, but returned torch.int64"),
        (scripted.Infinite, "returns NaN or infinite features for generated clips"),
    ],
)
def test_networks_that_do_not_fit(tmp_path, module, sentence):
    path = scripted.save_scripted(module(), tmp_path / "x.pt")
    assert re.search(sentence, refused(path))


def test_a_network_of_another_size(tmp_path):
    path = scripted.save_scripted(scripted.FixedSize(), tmp_path / "x.pt")
    assert open_detector(path, size=8, shape=(4, 5, 7, 3)).features == 3
    sentence = refused(path, size=16)
    assert "does not take clips of shape (2, 3, 4, 16, 16)" in sentence and "now 16" in sentence


def test_a_network_that_fails_for_a_single_clip_is_noticed_at_once(tmp_path):
    path = scripted.save_scripted(scripted.Squeezed(), tmp_path / "x.pt")
    assert open_detector(path, counts=(2, 3)).features == 12
    assert "shape (1, F)" in refused(path, counts=(2, 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_without_a_forward(tmp_path):
    torch.jit.script(torch.nn.Module()).save(tmp_path / "x.pt")
    assert "has no method forward" in refused(tmp_path / "x.pt")
