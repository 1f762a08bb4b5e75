"""Measures of artefacts, on clips to which a known artefact was added."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.metrics.artefacts import end_sharpness, grid_peaks


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


@pytest.mark.parametrize("side", [16, 32, 64])
def test_textures_have_no_peak(side):
    assert grid_peaks(textures(32, 8, side)).abs().max() < 4


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("i, j", [(i, j) for i in range(3) for j in range(3) if i + j])
def test_each_pattern_is_found_at_its_own_frequency(side, i, j):
    clips = textures(16, 8, side)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pattern = 8 * torch.cos(torch.pi / 2 * (i * row + j * column))
    risen = grid_peaks(add(clips, pattern)) - grid_peaks(clips)
    place = 3 * i + j - 1
    assert risen[place] > 8 and risen.argmax() == place


def test_one_pattern_counts_as_much_as_the_formula_says():
    # White noise of variance s² under a Hann window w: power s² sum(w²). A pattern of amplitude a: (a sum(w))².
    side, sigma, amplitude = 32, 20.0, 4.0
    noise = np.random.default_rng(0).normal(128, sigma, (64, 16, side, side))
    i = torch.arange(side)
    pattern = amplitude * torch.cos(torch.pi * (i[:, None] + i))
    clips = add(torch.from_numpy(noise)[..., None], pattern)
    w = np.outer(np.hanning(side + 1)[:-1], np.hanning(side + 1)[:-1])
    expected = 10 * np.log10(1 + (amplitude * w.sum()) ** 2 / (sigma**2 * (w**2).sum()))
    assert grid_peaks(clips)[-1].item() == pytest.approx(expected, abs=0.5)


def test_blank_clips_have_no_pattern_and_no_sharp_frame():
    blank = torch.zeros(1, 4, 16, 16, 1, dtype=torch.uint8)
    assert grid_peaks(blank).abs().max() == 0 and end_sharpness(blank) == (0, 0)


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
