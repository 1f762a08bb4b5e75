"""Clips as results: files, PIL images, tensors, arrays, notebooks; and `write_video`."""

import base64
import io
import re

import av
import numpy as np
import pytest
import torch
from PIL import Image

import fastvgan
from fastvgan import Video, Videos
from fastvgan.errors import UserError
from fastvgan.machine import memory

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 24, 3), np.uint8)


@pytest.fixture
def videos():
    return Videos(torch.from_numpy(PIXELS), captions=["a", "b <i>", "c"])


def gif_frames(source):
    with Image.open(source) as file:
        return [frame.convert("RGB").copy() for frame in frames_of(file)]


def frames_of(file):
    for number in range(file.n_frames):
        file.seek(number)
        yield file


def test_a_sequence_of_clips(videos):
    assert len(videos) == 3 and videos.shape == (3, 4, 16, 24, 3)
    assert isinstance(videos[1], Video) and videos[1].caption == "b <i>" and len(videos[1]) == 4
    np.testing.assert_array_equal(videos[-1].to_numpy(), PIXELS[2])
    assert isinstance(videos[1:], Videos) and videos[1:].captions == ["b <i>", "c"]
    for backwards in (slice(None, None, -1), slice(2, None, -2), slice(0, 2, -1)):
        np.testing.assert_array_equal(videos[backwards].to_numpy(), PIXELS[backwards])
        assert videos[backwards].captions == videos.captions[backwards]
    assert [one.caption for one in videos] == videos.captions
    with pytest.raises(IndexError, match="clip 3 of 3"):
        videos[3]
    assert repr(videos) == "Videos(3 clips of 4 frames of 16x24 pixels, RGB, 8 fps)"
    assert repr(videos[0]) == "Video(4 frames of 16x24 pixels, RGB, 8 fps)"


def test_conversions(videos):
    np.testing.assert_array_equal(videos.to_numpy(), PIXELS)
    np.testing.assert_array_equal(np.asarray(videos), PIXELS)
    assert np.asarray(videos[0], dtype=np.float32).dtype == np.float32
    assert torch.equal(videos.to_tensor(), torch.from_numpy(PIXELS)) and videos[0].to_tensor().shape == (4, 16, 24, 3)
    pictures = videos.to_pil()
    assert [len(one) for one in pictures] == [4, 4, 4]
    np.testing.assert_array_equal(np.stack([np.stack(list(map(np.asarray, one))) for one in pictures]), PIXELS)
    grey = Videos(torch.from_numpy(PIXELS[..., :1]))
    assert grey[0].to_pil()[0].mode == "L"
    np.testing.assert_array_equal(np.asarray(grey[2].to_pil()[3]), PIXELS[2, 3, :, :, 0])


def test_saving_one_clip_and_several(videos, tmp_path):
    videos[0].save(tmp_path / "one.mp4", fps=5)
    with av.open(tmp_path / "one.mp4") as file:
        assert file.streams.video[0].average_rate == 5
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(shown) == 4 and shown[0].shape == (96, 144, 3)
    videos.save(str(tmp_path / "all.gif"))
    frames = gif_frames(tmp_path / "all.gif")
    assert len(frames) == 4 and frames[0].width > 2 * 144 and frames[0].height > 2 * 96
    videos.save(tmp_path / "row.gif", scale=1, columns=3)
    with Image.open(tmp_path / "row.gif") as row:
        assert row.width > 3 * 24 and row.height < 2 * 16
    videos.save(tmp_path / "all.png", scale=1)
    with Image.open(tmp_path / "all.png") as still:
        assert (still.width, still.height) == (4 * 25, 3 * 17)
        np.testing.assert_array_equal(np.asarray(still)[17:33, 25:49], PIXELS[1, 1])


@pytest.mark.parametrize(("columns", "sentence"), [(2.5, "columns 2.5 is no whole number"), (0, "columns 0")])
def test_unusable_numbers_of_columns(videos, tmp_path, columns, sentence):
    with pytest.raises(UserError, match=sentence):
        videos.save(tmp_path / "x.gif", columns=columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("x.txt", {}, "unsupported video format; pass a .mp4, .gif or .png file"),
        ("x.gif", {"fps": 60}, "60 frames per second"),
        ("x.gif", {"scale": -1}, "scale -1: pass 0 or the factor"),
        ("x.gif", {"scale": 1.5}, "scale 1.5: pass 0 or the factor"),
        ("x.gif", {"scale": True}, "scale True: pass 0 or the factor"),
        ("x.gif", {"scale": 10_000}, ".gif is limited to 65535 pixels per side"),
        ("x.png", {"scale": 10_000}, ".png is limited to 65535 pixels per side"),
        ("no/x.gif", {}, "the folder .*no does not exist"),
    ],
)
def test_unusable_files(videos, tmp_path, name, arguments, sentence):
    for one in (videos, videos[0]):
        with pytest.raises(UserError, match=sentence):
            one.save(tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_too_little_memory_for_a_file(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with pytest.raises(UserError, match=r"all\.gif of 4 frames .* needs at least 2 MiB of memory.* a smaller scale"):
        videos.save(tmp_path / "all.gif", scale=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 0, 3)])
def test_a_clip_has_pixels(shape, tmp_path):
    with pytest.raises(UserError, match=r"pass uint8 \(T, H, W, C\)"):
        Video(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(UserError, match="there are no frames to write"):
        fastvgan.write_video(tmp_path / "x.gif", np.zeros(shape, np.uint8))


def test_clips_of_an_array(videos):
    assert torch.equal(Videos(PIXELS).frames, videos.frames) and torch.equal(Video(PIXELS[0]).frames, videos[0].frames)
    with pytest.raises(UserError, match="the frames are a list; pass a tensor or an array"):
        Videos([1])


def test_clips_that_are_none(tmp_path):
    sentence = r"frames of torch\.float32 and the shape \(2, 3\); pass uint8 \(N, T, H, W, C\)"
    with pytest.raises(UserError, match=sentence):
        Videos(torch.zeros(2, 3))
    with pytest.raises(UserError, match="1 clips have 2 captions"):
        Videos(torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), captions=["a", "b"])
    with pytest.raises(UserError, match=r"x\.gif: there are no clips"):
        Videos(torch.zeros(0, 2, 4, 4, 3, dtype=torch.uint8)).save(tmp_path / "x.gif")


def test_a_notebook_shows_each_clip_with_its_caption(videos):
    page = videos._repr_html_()
    found = re.findall(r'<img src="data:image/gif;base64,([^"]+)" alt="([^"]*)">', page)
    assert [caption for _, caption in found] == ["a", "b &lt;i&gt;", "c"]
    frames = gif_frames(io.BytesIO(base64.b64decode(found[1][0])))
    assert len(frames) == 4 and frames[0].size == (144, 96)
    assert "<i>" not in page and "and 2 more" in Videos(torch.zeros(18, 2, 4, 4, 1, dtype=torch.uint8))._repr_html_()
    assert videos[0]._repr_html_().count("<img") == 1


def test_write_video_takes_clips_of_each_kind(tmp_path):
    clip = PIXELS[0]
    forms = {
        "array": clip,
        "tensor": torch.from_numpy(clip),
        "video": Video(torch.from_numpy(clip)),
        "floats": clip / 255,
        "planes": torch.from_numpy(clip.transpose(0, 3, 1, 2) / 255),
        "pictures": [Image.fromarray(frame) for frame in clip],
        "arrays": list(clip),
    }
    for name, frames in forms.items():
        fastvgan.write_video(str(tmp_path / f"{name}.png"), frames)
        with Image.open(tmp_path / f"{name}.png") as still:
            np.testing.assert_array_equal(np.asarray(still), np.concatenate(list(clip), 1), err_msg=name)


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ([], "there are no frames to write"),
        (3, "the frames are a int"),
        ("x.png", "the frames are a str"),
        (torch.tensor(3), "the frames are a Tensor"),
        (Videos(PIXELS), r"several clips; pass one of them, such as videos\[0\], or use videos.save"),
        (PIXELS, "several clips; pass one of them, "),
        (PIXELS[0] / 25.5, "the image holds floats from 0 to 10"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)], "frames of 4x4 and 4x5 pixels; pass frames of one"),
        (np.zeros((2, 4, 4, 7), np.uint8), r"the image has the shape \(4, 4, 7\)"),
    ],
)
def test_write_video_refuses_what_is_no_clip(tmp_path, frames, sentence):
    with pytest.raises(UserError, match=sentence):
        fastvgan.write_video(tmp_path / "x.gif", frames)
    assert not list(tmp_path.iterdir())
