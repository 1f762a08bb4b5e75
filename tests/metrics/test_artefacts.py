"""Measures of artefacts, on clips to which a known artefact was added."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.metrics import artefacts
from fastvgan.metrics.artefacts import end_sharpness, grid_pattern, measure_grid


def textures(n, frames, side, seed=0):
    """Random textures with the 1/f spectrum of natural pictures (Field 1987), uint8 (N, T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    f = np.fft.fftfreq(side)
    falloff = np.maximum(np.hypot(f[:, None], f), 1 / side)
    x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, frames, side, side))) / falloff).real
    grey = np.clip(x / x.std() * 40 + 128, 0, 255).astype(np.uint8)
    return torch.from_numpy(grey)[..., None].expand(-1, -1, -1, -1, 3)


def add(video, pattern):
    return (video.double() + pattern[..., None]).clamp(0, 255).round().to(torch.uint8)


def decibels(power):
    return 10 * (power.at / power.around).log10()


@pytest.mark.parametrize("side", [16, 32, 64])
def test_textures_have_no_pattern(side):
    real = measure_grid(textures(32, 8, side))
    assert decibels(real).abs().max() < 4
    assert grid_pattern(measure_grid(textures(32, 8, side, seed=1)), real) < 1


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("i, j", [(i, j) for i in range(3) for j in range(3) if i + j])
def test_each_pattern_is_found_at_its_own_frequency(side, i, j):
    clips = textures(16, 8, side)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    found = measure_grid(add(clips, 8 * torch.cos(torch.pi / 2 * (i * row + j * column))))
    risen = decibels(found) - decibels(measure_grid(clips))
    place = 3 * i + j - 1
    assert risen[place] > 8 and risen.argmax() == place
    assert grid_pattern(found, measure_grid(clips)) > 8


def test_a_pattern_that_real_clips_have_does_not_count():
    i = torch.arange(32)
    stripes = 8 * torch.cos(torch.pi / 2 * i).expand(32, 32)
    one, other = (measure_grid(add(textures(16, 8, 32, seed), stripes)) for seed in range(2))
    assert decibels(one).max() > 8 and grid_pattern(one, other) < 1


def test_a_weak_line_in_a_gap_of_the_spectrum_does_not_count():
    # Blurred clips have next to no energy at the highest frequencies, where a faint line stands out.
    clips = textures(16, 8, 32)
    frames = clips.permute(0, 1, 4, 2, 3).flatten(0, 1).float()
    smooth = torch.nn.functional.avg_pool2d(frames, 3, 1, 1).unflatten(0, (16, 8)).permute(0, 1, 3, 4, 2)
    i = torch.arange(32)
    found = measure_grid(add(smooth, 0.6 * torch.cos(torch.pi * (i[:, None] + i))))
    assert decibels(found)[-1] > 4 and grid_pattern(found, measure_grid(clips)) < 1


def test_a_patterns_power_is_what_the_formula_says():
    # White noise of variance s² has the power s² at each frequency, a pattern of amplitude a under a window w adds
    # (a sum(w))² / sum(w²).
    side, sigma, amplitude = 32, 20.0, 4.0
    noise = np.random.default_rng(0).normal(128, sigma, (64, 16, side, side))
    i = torch.arange(side)
    found = measure_grid(add(torch.from_numpy(noise)[..., None], amplitude * torch.cos(torch.pi * (i[:, None] + i))))
    w = np.outer(np.hanning(side + 1)[:-1], np.hanning(side + 1)[:-1])
    assert found.at[-1].item() == pytest.approx(sigma**2 + (amplitude * w.sum()) ** 2 / (w**2).sum(), rel=0.1)
    assert found.around.mean().item() == pytest.approx(sigma**2, rel=0.1)


@pytest.mark.parametrize("clips", [1, 2])
def test_clips_are_measured_in_parts(monkeypatch, clips):
    video = textures(5, 8, 16)
    grid, ends = measure_grid(video), end_sharpness(video)
    monkeypatch.setattr(artefacts, "_CHUNK", clips * video[0].numel())
    again = measure_grid(video)
    torch.testing.assert_close([again.at, again.around], [grid.at, grid.around])
    assert end_sharpness(video) == pytest.approx(ends)


def test_blank_clips_have_no_pattern_and_no_sharp_frame():
    blank = torch.zeros(1, 4, 16, 16, 1, dtype=torch.uint8)
    grid = measure_grid(blank)
    assert grid.at.abs().max() == 0 == grid_pattern(grid, grid) and end_sharpness(blank) == (0, 0)


@given(frames=st.integers(4, 20), height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_sharpness_of_the_ends_by_numpy(frames, height, width, seed):
    video = np.random.default_rng(seed).integers(0, 256, (3, frames, 2 * height, 2 * width, 3), dtype=np.uint8)
    grey = (video @ np.array([0.299, 0.587, 0.114])).reshape(3, frames, height, 2, width, 2).mean((3, 5))
    down, across = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=3))
    sharpness = down.mean((0, 2, 3)) + across.mean((0, 2, 3))
    middle = sharpness[frames // 4 : frames - frames // 4].mean()
    found = end_sharpness(torch.from_numpy(video))
    assert found == pytest.approx((sharpness[0] / middle, sharpness[-1] / middle))


def test_a_checkerboard_is_not_sharpness():
    clips = textures(8, 8, 32)
    i = torch.arange(32)
    pattern = torch.zeros(8, 32, 32)
    pattern[0] = 20 * torch.cos(torch.pi * (i[:, None] + i))
    first, last = end_sharpness(add(clips, pattern))
    assert first == pytest.approx(1, abs=0.05) and last == pytest.approx(1, abs=0.05)


def test_a_blurred_end_is_noticed():
    clips = textures(8, 8, 32).clone()
    assert end_sharpness(clips) == pytest.approx((1, 1), abs=0.05)
    last = clips[:, -1].permute(0, 3, 1, 2).float()
    clips[:, -1] = torch.nn.functional.avg_pool2d(last, 3, 1, 1).permute(0, 2, 3, 1).to(torch.uint8)
    first, last = end_sharpness(clips)
    assert first == pytest.approx(1, abs=0.05) and last < 0.8
