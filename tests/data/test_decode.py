"""Frames come out by their number, whatever the codec, and a bad file says what is wrong with it."""

import shutil

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_videos import CODECS, encode, number_of, numbered
from PIL import Image

from fastvgan.data.decode import BadVideo, probe, read_frames


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    options = {"h264": {"g": "12", "bf": "2"}, "vp9": {"g": "12"}, "mjpeg": {}, "hevc": {}}
    return {
        codec: encode(folder / f"{codec}{CODECS[codec][0]}", numbered(140), codec, **options[codec]) for codec in CODECS
    }


@pytest.mark.parametrize("codec", CODECS)
@given(first=st.integers(0, 139), count=st.integers(1, 20), stride=st.integers(1, 4))
@settings(max_examples=12)
def test_frames_are_exact(files, codec, first, count, stride):
    """Past frame 64 this goes through a seek; x265 makes open groups of pictures, where plain seeks go wrong."""
    found = probe(files[codec])
    assert found.frames == 140
    indices = [min(first + i * stride, 139) for i in range(count)]
    video = read_frames(files[codec], found, indices, 48, 64, 3)
    assert video.shape == (count, 48, 64, 3) and video.dtype == np.uint8
    assert [number_of(frame) for frame in video] == indices


def test_a_gif_with_transparency_shows_black(tmp_path):
    frames = []
    for t in range(5):
        frame = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        frame.paste((250, 0, 0, 255), (t * 4, 0, t * 4 + 16, 32))
        frames.append(frame)
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    found = probe(tmp_path / "x.gif")
    assert found.frames == 5
    video = read_frames(tmp_path / "x.gif", found, [0, 4], 32, 32, 3)
    assert video[0, 5, 8, 0] > 200 and video[0, :, 20:].max() < 20
    grey = read_frames(tmp_path / "x.gif", found, [4], 32, 32, 1)
    assert grey.shape == (1, 32, 32, 1) and grey[0, 5, 20, 0] > 50


def test_scaling_covers_the_size_asked_for(files):
    found = probe(files["h264"])  # 48 high, 64 wide
    for height, width, expected in [(16, 16, (16, 21)), (96, 64, (96, 128)), (10, 64, (48, 64))]:
        assert read_frames(files["h264"], found, [3], height, width, 3).shape[1:3] == expected


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_of_phone_videos_is_honoured(tmp_path, degrees):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255  # white at the top left
    path = encode(tmp_path / "plain.mp4", frames)
    turned = tmp_path / "turned.mp4"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(degrees)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    height, width = (64, 32) if degrees % 180 else (32, 64)
    video = read_frames(turned, probe(turned), [0], height, width, 1)
    expected = np.rot90(frames[0, :, :, :1], degrees // 90)
    assert np.abs(video[0].astype(int) - expected).mean() < 10


def noise(path, good):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def cut(path, good):
    path.write_bytes(good["h264"].read_bytes()[:2000])


def cut_without_an_index(path, good):
    data = good["mjpeg"].read_bytes()
    path.write_bytes(data[: len(data) // 3])


def holes(path, good):
    data = bytearray(good["mjpeg"].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20000] = np.random.default_rng(0).bytes(20000)
    path.write_bytes(data)


def sound_only(path, good):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path, good: path.write_bytes(b""), "is empty"),
        (lambda path, good: path.write_text("no video\n" * 50), "is no video file"),
        (noise, "is no video file"),
        (cut, "is no video file"),
        (cut_without_an_index, "cut short|damaged"),
        (holes, "damaged|cut short"),
        (sound_only, "has no video stream"),
        (lambda path, good: None, "cannot be read|is no video file"),
    ],
)
def test_bad_files_say_why(tmp_path, files, make, reason):
    path = tmp_path / "x.mp4"
    make(path, files)
    with pytest.raises(BadVideo, match=reason):
        probe(path)


def test_frames_too_large_are_refused_before_they_are_decoded(tmp_path):
    path = encode(tmp_path / "big.avi", np.zeros((1, 8, 8200, 3), np.uint8), "mjpeg")
    with pytest.raises(BadVideo, match="8200x8, larger than"):
        probe(path)


def test_a_playlist_in_disguise_opens_nothing(tmp_path, files):
    shutil.copy(files["h264"], tmp_path / "secret.mp4")
    (tmp_path / "x.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(BadVideo):
        probe(tmp_path / "x.mp4")


def test_a_file_that_was_changed_afterwards_is_bad(tmp_path, files):
    path = shutil.copy(files["h264"], tmp_path / "x.mp4")
    found = probe(path)
    encode(path, numbered(10))
    with pytest.raises(BadVideo):
        read_frames(path, found, [100, 101], 48, 64, 3)


def test_names_with_spaces_colons_and_umlauts(tmp_path):
    path = encode(tmp_path / "ä b:c%d.mp4", numbered(3))
    assert probe(path).frames == 3
