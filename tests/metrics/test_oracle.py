"""The packaged oracle on clips of unseen writers, and its training."""

import os

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fastvgan.data.digits import DigitsSource
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import save_tensors
from fastvgan.metrics import oracle, train_oracle
from fastvgan.metrics.oracle import ORACLE, load_oracle
from fastvgan.metrics.oracle import training as oracle_training
from fastvgan.metrics.oracle.network import to_grey, to_inputs


@pytest.fixture(scope="module")
def real():
    return next(DigitsSource(split="test").batches(480, seed=11))


def share(right):
    return right.double().mean().item()


def test_it_reads_clips_and_frames_of_unseen_writers(real):
    reading = load_oracle().read(real.video)
    assert share(reading.digits == real.label) >= 0.985
    assert share(reading.frame_digits == real.label[:, None]) >= 0.98
    assert torch.allclose(reading.log_probabilities.exp().sum(-1), torch.ones(480, 16), atol=1e-4)


@pytest.mark.parametrize(
    "size",
    [
        {"channels": 1},
        {"frames": 40},
        {"frames": 4},
        {"height": 64, "width": 64},
        {"height": 16, "width": 32},
    ],
)
def test_it_reads_clips_of_other_sizes(size):
    clips = next(DigitsSource(split="test", **size).batches(120, seed=12))
    reading = load_oracle().read(clips.video)
    assert share(reading.digits == clips.label) >= 0.95
    assert reading.log_probabilities.shape == (120, clips.video.shape[1], 10)
    assert reading.features.shape == (120, 192)


def test_dim_clips_are_read_as_bright_ones_are(real):
    dim = (real.video.float() * 0.3).round().to(torch.uint8)
    assert share(load_oracle().read(dim).digits == real.label) >= 0.98


def test_clips_are_read_alike_in_any_company(real):
    whole, alone = (load_oracle().read(part) for part in (real.video[:70], real.video[69:70]))
    assert torch.allclose(whole.features[69:], alone.features, atol=1e-4)
    assert torch.allclose(whole.log_probabilities[69:], alone.log_probabilities, atol=1e-4)


def test_features_have_unit_variance_and_know_colour_motion_and_digit(real):
    """A linear classifier trained on half of the clips reads all three from the features of the other half."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    clips = next(DigitsSource(split="test").batches(960, seed=13))
    features = load_oracle().read(clips.video).features.numpy()
    assert 0.3 < np.median(features.std(0)) < 2
    caption = clips.caption.numpy()
    for values, least in ((caption % 4, 0.97), (caption // 4 % 6, 0.97), (clips.label.numpy(), 0.95)):
        classifier = linear_model.RidgeClassifier().fit(features[:480], values[:480])
        assert classifier.score(features[480:], values[480:]) >= least


def test_what_it_is_shown():
    video = torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8)
    video[0, 0, 1, 2] = torch.tensor([51, 102, 0], dtype=torch.uint8)
    clips = to_inputs(video)
    assert clips.shape == (2, 3, 3, 16, 16) and clips[0, :, 0, 1, 2].tolist() == pytest.approx([0.2, 0.4, 0])
    grey = to_grey(clips[:, :, 0])
    assert grey.shape == (2, 1, 16, 16) and grey[0].max() == 1 and grey[0].sum() == 1 and grey[1].max() == 0
    larger = video.repeat_interleave(4, 2).repeat_interleave(2, 3)
    assert torch.allclose(to_inputs(larger), clips)
    assert torch.allclose(to_inputs(video[..., :1])[:, 1], to_inputs(video)[:, 0])


@pytest.mark.parametrize(
    "video", [torch.zeros(2, 4, 16, 16, 3), torch.zeros(2, 1, 16, 16, 3).byte(), torch.zeros(2, 4, 16, 16, 2).byte()]
)
def test_what_it_cannot_read(video):
    with pytest.raises(ValueError, match="clips must be uint8"):
        load_oracle().read(video)


def test_the_file_is_small_and_says_where_it_comes_from():
    assert os.path.getsize(ORACLE) <= 2**20
    with safe_open(ORACLE, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
        metadata = file.metadata()
    assert metadata["command"].startswith("python -m fastvgan.metrics.train_oracle")
    assert metadata["accuracy"] in " ".join(oracle.__doc__.split())


def test_other_files_are_refused(tmp_path):
    save_tensors({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no digit oracle of this version") as raised:
        load_oracle(tmp_path / "x.safetensors")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="does not exist"):
        load_oracle(tmp_path / "y.safetensors")


def test_training_is_a_function_of_the_seed_and_sees_no_test_clip(monkeypatch):
    monkeypatch.setattr(oracle_training, "_SCALE_CLIPS", 32)
    opened = []

    class Watched(DigitsSource):
        def __init__(self, *args, split="train", **values):
            opened.append(split)
            super().__init__(*args, split=split, **values)

    monkeypatch.setattr(oracle_training, "DigitsSource", Watched)
    first, again, other = (oracle_training.train(3, seed).state_dict() for seed in (0, 0, 1))
    assert set(opened) == {"train"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["digit.weight"], other["digit.weight"])


def test_training_learns_and_writes_a_file_that_can_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_oracle, "_TEST_CLIPS", 64)
    monkeypatch.setattr(oracle_training, "_AVERAGE", 0.8)
    monkeypatch.setattr(oracle_training, "_SCALE_CLIPS", 32)
    out = tmp_path / "o.safetensors"
    train_oracle.main(["--out", str(out), "--steps", "60"])
    printed = capsys.readouterr().out
    assert str(out) in printed
    clips = next(DigitsSource().batches(128, seed=5))
    assert share(load_oracle(out).read(clips.video).digits == clips.label) > 0.3
    with safe_open(out, "pt") as file:
        assert file.metadata()["command"].endswith("--steps 60 --seed 0")
        assert file.metadata()["accuracy"] in printed


def test_distortion_keeps_frames_in_range_and_the_digit_in_place():
    frames = to_grey(to_inputs(next(DigitsSource().batches(64, seed=0)).video[:, :1]).transpose(1, 2).flatten(0, 1))
    bent = oracle_training.distort(frames)
    assert bent.shape == frames.shape and bent.isfinite().all() and bent.min() >= 0 and bent.max() < 1.6
    moved = oracle_training._centre(bent) - oracle_training._centre(frames)
    assert moved.abs().mean() < 0.12 and moved.abs().mean() > 0.01
    assert not torch.allclose(bent, frames, atol=0.1)
