"""Written clips read back as they were, grids have their labels, and nothing half-written stays."""

import errno

import av
import numpy as np
import pytest
from PIL import Image

from fastvgan.errors import UserError
from fastvgan.files import video


def clip(frames=6, height=33, width=47, channels=3):
    ramp = np.linspace(0, 255, width)[None, None, :, None] + np.zeros((frames, height, 1, channels))
    for t in range(frames):
        ramp[t, : height // 2] = 40 * t
    return ramp.astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_reads_back(tmp_path, channels):
    frames = clip(channels=channels)
    video.write_video(tmp_path / "x.mp4", frames, fps=5)
    with av.open(str(tmp_path / "x.mp4")) as file:
        assert file.streams.video[0].average_rate == 5 and file.streams.video[0].codec_context.pix_fmt == "yuv420p"
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert back.shape == (6, 34, 48, 3)  # even sizes, by repeating the edge
    assert np.abs(back[:, :33, :47].astype(int) - frames).mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_reads_back(tmp_path, channels):
    frames = clip(channels=channels)
    video.write_video(tmp_path / "x.gif", frames, fps=5)
    with Image.open(tmp_path / "x.gif") as file:
        assert file.n_frames == 6 and file.info["loop"] == 0 and file.info["duration"] == 200
        for t in range(6):
            file.seek(t)
            assert np.abs(np.asarray(file.convert("RGB")).astype(int) - frames[t]).mean() < 4


def test_png_lays_frames_side_by_side(tmp_path):
    frames = clip()
    video.write_video(tmp_path / "x.png", frames)
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(picture[:, 47 * 2 : 47 * 3], frames[2])


def test_a_still_clip_keeps_all_its_frames(tmp_path):
    video.write_video(tmp_path / "x.gif", np.zeros((7, 16, 16, 3), np.uint8))
    with Image.open(tmp_path / "x.gif") as file:
        file.seek(file.n_frames - 1)
        assert file.n_frames == 7 or file.n_frames == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_clip_and_its_label(channels):
    videos = np.random.default_rng(0).integers(100, 255, (5, 4, 16, 24, channels), dtype=np.uint8)
    bare, told = video.grid(videos, scale=2), video.grid(videos, ["a label"] * 5, scale=2)
    assert told.shape[0] == 4 and told.shape[1] > bare.shape[1] and told.shape[3] == 3
    large = video.enlarge(videos, 2)
    for t in range(4):
        for i in range(5):
            row, column = divmod(i, 3)
            top, left = 4 + row * (32 + 4), 4 + column * (48 + 8)
            assert np.array_equal(bare[t, top : top + 32, left : left + 48], np.broadcast_to(large[i, t], (32, 48, 3)))
    assert (told[0, 37:49, :56] > 150).any()  # ink below the first clip


def ink_of_label(label):
    """Where the label of one clip of 64x64 is drawn, bool (H, 120)."""
    picture = video.strip_grid(np.zeros((1, 16, 64, 64, 3), np.uint8), [label])
    return (np.asarray(picture)[:, :120] > 100).any(-1)


@pytest.mark.parametrize("label", ["a white 4 moving left and right", "W" * 60, "MM WWWW " * 9, "i l " * 40, "x", ""])
def test_labels_are_neither_on_the_frames_nor_in_the_next_row(label):
    ink = ink_of_label(label)
    assert not ink[:, 118:].any() and not ink[60:].any() and ink.any() == bool(label)


@pytest.mark.parametrize("label", ["4 m", "7 i", "3 b", "a w", "p a"])
def test_a_space_is_seen_in_a_label(label):
    gaps = np.diff(np.flatnonzero(ink_of_label(label).any(0))) - 1
    assert gaps.max() >= 3, gaps


def test_a_strip_grid_has_a_row_a_clip():
    videos = np.random.default_rng(0).integers(0, 255, (2, 40, 64, 64, 3), dtype=np.uint8)
    picture = video.strip_grid(videos)
    assert picture.shape == (2 * 65, 16 * 65, 3)
    assert np.array_equal(picture[65:129, 0:64], videos[1, 0])
    assert np.array_equal(picture[:64, 15 * 65 : 15 * 65 + 64], videos[0, 39])
    assert video.strip_grid(videos, ["x", "y"]).shape[1] > picture.shape[1]
    longer = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 8, 8, 3))[None]
    shown = video.strip_grid(longer, scale=1).numpy()[0, ::9, 0]
    assert shown.tolist() == np.linspace(0, 39, 16).round().tolist()


def test_small_clips_are_enlarged_by_whole_pixels():
    assert video.enlarge(np.zeros((2, 16, 32, 3), np.uint8)).shape == (2, 96, 192, 3)
    assert video.enlarge(np.zeros((2, 128, 128, 3), np.uint8)).shape == (2, 128, 128, 3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x.webp", "pass a .mp4, .gif or .png"),
        ("no/x.gif", "does not exist; create it"),
        ("x", "unsupported video format"),
    ],
)
def test_unusable_names(tmp_path, name, sentence):
    with pytest.raises(UserError, match=sentence):
        video.write_video(tmp_path / name, clip())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.gif", "x.mp4", "x.png"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, name, monkeypatch):
    video.write_video(tmp_path / name, clip())
    before = (tmp_path / name).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(UserError, match="No space left"):
        video.write_video(tmp_path / name, clip(frames=3))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before
