"""Digits drawn large: the ink is where the 8x8 grey values say, edges are sharp, and motion stays smooth."""

import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from fastvgan.data.digits import DigitsSource
from fastvgan.data.digits.shapes import REACH, coverage, distance_pictures, reconstruct_bitmaps

GREY = torch.from_numpy(load_digits().images[:200]).float() / 16  # (200, 8, 8)


def inner(pictures):
    return pictures[:, REACH:-REACH, REACH:-REACH]


def block_means(pictures):
    rows, columns = (size // 8 for size in pictures.shape[1:])
    return pictures.unflatten(1, (8, rows)).unflatten(3, (8, columns)).mean((2, 4))


@pytest.fixture(scope="module")
def bitmaps():
    return reconstruct_bitmaps(GREY)


def test_a_bitmap_has_the_ink_of_each_block(bitmaps):
    assert set(bitmaps.unique().tolist()) == {0, 1} and bitmaps.shape == (200, 32, 32)
    assert torch.equal(block_means(bitmaps), GREY)


def test_strokes_hang_together(bitmaps):
    """Filling each block from its brightest side, as interpolation does it, leaves strokes in pieces."""
    enlarged = torch.nn.functional.interpolate(GREY[:, None], scale_factor=4, mode="bicubic")[:, 0]
    filled = enlarged.unflatten(1, (8, 4)).unflatten(3, (8, 4)).transpose(2, 3).flatten(3)
    filled = filled.argsort(-1, descending=True).argsort(-1) < (GREY * 16)[..., None]
    filled = filled.float().unflatten(3, (4, 4)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    assert torch.equal(block_means(filled), GREY)
    # Pieces beyond one for each digit.
    ours, theirs = (sum(ndimage.label(bitmap.numpy())[1] - 1 for bitmap in kind) for kind in (bitmaps, filled))
    assert ours < 0.1 * len(GREY) and ours < theirs / 2


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 64), (16, 64)])
def test_a_picture_keeps_the_grey_of_each_block(bitmaps, size):
    off = block_means(inner(coverage(distance_pictures(bitmaps, *size)))) - GREY
    assert off.abs().mean() < 0.025 and off.mean().abs() < 0.01


@pytest.mark.parametrize("size", [32, 64, 128])
def test_edges_are_about_one_pixel_wide(size):
    video = next(DigitsSource(8, size, size, channels=1).batches(64, seed=0)).video[..., 0]
    between = ((video > 12) & (video < 243)).sum((2, 3)).float()
    edges = ((video[:, :, 1:] > 127) != (video[:, :, :-1] > 127)).sum((2, 3))
    edges += ((video[..., 1:] > 127) != (video[..., :-1] > 127)).sum((2, 3))
    # A slanted edge crosses rows and columns, so that it has more crossings than pixels.
    assert between.sum() < 1.1 * edges.sum()
    assert video.amax((2, 3)).eq(255).all() and video[:, 0].flatten(1).median() == 0


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 128), (16, 64)])
def test_a_digit_keeps_its_shape_between_pixels(size):
    """As it moves by parts of a pixel its ink stays the same, and its centre follows its path."""
    video = next(DigitsSource(16, *size, channels=1).batches(64, seed=3)).video[..., 0].double()
    ink = video.sum((2, 3))
    ripple = (ink / ink.mean(1, keepdim=True) - 1).abs()
    assert ripple.max() < (0.1 if min(size) == 16 else 0.06) and ripple.mean() < 0.02
    x = video.sum(2) @ torch.arange(size[1], dtype=torch.double) / ink / size[1]
    y = video.sum(3) @ torch.arange(size[0], dtype=torch.double) / ink / size[0]
    # Paths are sines of one cycle in 16 frames: the sum of opposite frames is the same for all pairs.
    for centre in (x, y):
        middle = (centre[:, :8] + centre[:, 8:]) / 2
        assert (middle - middle.mean(1, keepdim=True)).abs().max() < 0.015


def test_both_sizes_show_the_same_clip():
    small, large = (next(DigitsSource(16, size, size).batches(32, seed=2)) for size in (16, 64))
    assert torch.equal(small.caption, large.caption)
    reduced = torch.nn.functional.avg_pool3d(large.video.permute(0, 4, 1, 2, 3).float(), (1, 4, 4)).permute(
        0, 2, 3, 4, 1
    )
    assert (reduced - small.video.float()).abs().mean() < 8
