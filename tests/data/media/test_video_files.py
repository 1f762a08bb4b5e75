"""Frames come out by their number, whatever the codec, and a bad file says what is wrong with it."""

import dataclasses
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from broken import BROKEN, at_times, corrupt_in_the_middle, no_permission, one_frame, variable_rate, variable_size
from commands import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from make_videos import CODECS, encode, make_numbered, number_of
from PIL import Image

from fastvgan.data.folders.entry import Entry, Rejected
from fastvgan.data.folders.survey import examine, notes
from fastvgan.data.media import video_files
from fastvgan.data.media.frames import probe, read_frames, walk
from fastvgan.data.media.types import BadVideo, Media, Probe, check_probe


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    options = {"h264": {"g": "12", "bf": "2"}, "vp9": {"g": "12"}, "vp8": {"g": "12"}}
    return {
        codec: encode(folder / f"{codec}{CODECS[codec][0]}", make_numbered(140), codec, **options.get(codec, {}))
        for codec in CODECS
    }


@pytest.mark.parametrize("codec", CODECS)
@given(first=st.integers(0, 139), count=st.integers(1, 20), stride=st.integers(1, 4))
@settings(max_examples=12)
def test_frames_are_exact(files, codec, first, count, stride):
    """Past frame 64 this goes through a seek; x265 makes open groups of pictures, where plain seeks go wrong."""
    found = probe(Media("video", files[codec]))
    assert found.frames == 140
    indices = [min(first + i * stride, 139) for i in range(count)]
    video = read_frames(Media("video", files[codec]), found, indices, 48, 64, 3)
    assert video.shape == (count, 48, 64, 3) and video.dtype == np.uint8
    assert [number_of(frame) for frame in video] == indices


def test_a_gif_with_transparency_shows_black(tmp_path):
    frames = []
    for t in range(5):
        frame = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        frame.paste((250, 0, 0, 255), (t * 4, 0, t * 4 + 16, 32))
        frames.append(frame)
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    found = probe(Media("video", tmp_path / "x.gif"))
    assert found.frames == 5
    video = read_frames(Media("video", tmp_path / "x.gif"), found, [0, 4], 32, 32, 3)
    assert video[0, 5, 8, 0] > 200 and video[0, :, 20:].max() < 20
    grey = read_frames(Media("video", tmp_path / "x.gif"), found, [4], 32, 32, 1)
    assert grey.shape == (1, 32, 32, 1) and grey[0, 5, 20, 0] > 50


def test_frames_that_are_slim_are_scaled_to_no_giants(tmp_path):
    media = Media("video", encode(tmp_path / "x.avi", np.zeros((2, 2, 8192, 3), np.uint8), "mjpeg"))
    found = probe(media)
    with pytest.raises(BadVideo, match="frames of 8192x2, one side more than 64 times the other"):
        read_frames(media, found, [0], 256, 256, 3)
    result = examine(Entry(media, "x.avi"))
    assert isinstance(result, Rejected) and "8192x2" in result.reason


def test_more_frames_than_a_manifest_takes_are_refused():
    check_probe(Probe(10**7, 1, 64, ""))
    with pytest.raises(BadVideo, match="has 10000001 frames, more than"):
        check_probe(Probe(10**7 + 1, 1, 64, ""))


def test_scaling_covers_the_size_asked_for(files):
    found = probe(Media("video", files["h264"]))  # 48 high, 64 wide
    for height, width, expected in [(16, 16, (16, 21)), (96, 64, (96, 128)), (10, 64, (48, 64))]:
        assert read_frames(Media("video", files["h264"]), found, [3], height, width, 3).shape[1:3] == expected


def write_rotated(path, frames, degrees):
    """A video file that asks to be turned, as phones write them."""
    plain = encode(path.with_name("plain.mp4"), frames)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(degrees)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_of_phone_videos_is_honoured(tmp_path, degrees):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255  # white at the top left
    turned = write_rotated(tmp_path / "turned.mp4", frames, degrees)
    height, width = (64, 32) if degrees % 180 else (32, 64)
    video = read_frames(Media("video", turned), probe(Media("video", turned)), [0], height, width, 1)
    expected = np.rot90(frames[0, :, :, :1], degrees // 90)
    assert np.abs(video[0].astype(int) - expected).mean() < 10


def test_a_rotation_by_no_right_angle_is_refused(tmp_path):
    path = write_rotated(tmp_path / "turned.mp4", make_numbered(4), 45)
    with pytest.raises(BadVideo, match="asks to be turned by 45 degrees"):
        probe(Media("video", path))
    with pytest.raises(BadVideo, match="asks to be turned by 45 degrees"):
        list(walk(Media("video", path), 48, 64, 3))


def test_only_frames_that_are_wanted_are_kept(files):
    found = probe(Media("video", files["h264"]))
    frames = video_files._decode(Media("video", files["h264"]), found, [20, 90, 90], 1)
    assert list(frames) == [20, 90]


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def truncate(path):
    data = encode(path, make_numbered(60)).read_bytes()
    path.write_bytes(data[:2000])
    return path


@pytest.mark.parametrize(
    ("make", "suffix", "reason"),
    [
        *((make, *said) for make, said in BROKEN.items() if make not in (one_frame, variable_rate, no_permission)),
        (noise, ".mp4", "is not a video file"),
        (truncate, ".mp4", "is not a video file"),
        (lambda path: path, ".mp4", "cannot be read: No such file"),
    ],
)
def test_bad_files_say_why(tmp_path, make, suffix, reason):
    path = make(tmp_path / f"x{suffix}")
    with pytest.raises(BadVideo, match=reason):
        probe(Media("video", path))


def test_damage_that_ffmpeg_conceals_is_found_and_may_be_tolerated(tmp_path):
    path = corrupt_in_the_middle(tmp_path / "x.mp4")
    with pytest.raises(BadVideo, match="damaged at frame"):
        probe(Media("video", path))
    assert probe(Media("video", path), tolerant=True).frames > 20


def test_what_a_probe_finds(tmp_path, files):
    found = probe(Media("video", files["h264"]))
    assert found[:6] == (140, 48, 64, "h264", 12.0, True) and found.rotation == 0
    with av.open(str(files["vp9"])) as container:  # frames are stored in the order they are shown in
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert list(probe(Media("video", files["vp9"])).keys) == keys and len(keys) >= 12
    wild = probe(Media("video", variable_rate(tmp_path / "x.mp4")))
    assert not wild.steady and wild.fps == pytest.approx(29 / (15 * 0.04 + 14 * 0.12), abs=0.01)


def test_a_frame_in_an_hour_is_no_rate(tmp_path):
    found = probe(Media("video", at_times(tmp_path / "x.mov", [0, 40, 8_000_000])))
    assert found.fps is None and found.frames == 3


def test_times_whose_differences_need_more_than_64_bits_are_none():
    assert video_files._rising([-(2**63) + 1, 2**63 - 1]) is None
    assert video_files._rising([-(2**62), 2**62]).tolist() == [-(2**62), 2**62]


@pytest.mark.parametrize("fps", [24, 25, 30, 50, 60])
@pytest.mark.parametrize("codec", ["vp9", "mjpeg", "h264"])
def test_constant_rates_are_seen_as_such_however_coarse_the_clock(tmp_path, codec, fps):
    """Matroska counts milliseconds, in which 30 frames a second are 33, 33 and 34 apart."""
    found = probe(Media("video", encode(tmp_path / f"x{CODECS[codec][0]}", make_numbered(60), codec, fps)))
    assert found.steady and found.fps == pytest.approx(fps, rel=0.005)


@pytest.mark.parametrize("said", ["bt709", "bt2020nc", "smpte170m"])
def test_colours_are_noted_and_heeded(tmp_path, said):
    """A saturated colour comes back as it was, whichever matrix the file was made with."""
    frames = np.empty((3, 32, 32, 3), np.uint8)
    frames[:] = (30, 200, 30)
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5", "x264-params": f"colormatrix={said}"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        space = {"bt709": 1, "bt2020nc": 9, "smpte170m": 6}[said]
        stream.codec_context.colorspace = space
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace={1: 1, 9: 9, 6: 5}[space])
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    media = Media("video", path)
    found = probe(media)
    assert found.colours == {"bt709": "bt709", "bt2020nc": "bt2020", "smpte170m": ""}[said]
    off = np.abs(read_frames(media, found, [0], 32, 32, 3).astype(int) - frames[:1]).max()
    assert off <= 6, off


def test_walking_gives_every_frame_with_its_time(tmp_path, files):
    times, frames = zip(*walk(Media("video", files["vp9"]), 48, 64, 3), strict=True)
    assert [number_of(frame) for frame in frames] == list(range(140))
    np.testing.assert_allclose(times, np.arange(140) / 12, atol=0.001)


def test_a_file_in_a_tar_is_read_in_its_place(tmp_path, files):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for codec in ("h264", "vp9"):
            tar.add(files[codec], f"{codec}.bin")
    with tarfile.open(tmp_path / "x.tar") as tar:
        members = [Media("tar", tmp_path / "x.tar", m.name, (m.offset_data, m.size)) for m in tar]
    for media, codec in zip(members, ("h264", "vp9"), strict=True):
        found, expected = probe(media), probe(Media("video", files[codec]))
        assert found.codec == codec and np.array_equal(found.pts, expected.pts)
        assert [number_of(f) for f in read_frames(media, found, [90, 93], 48, 64, 3)] == [90, 93]
    cut = dataclasses.replace(members[1], span=(members[1].span[0], members[1].span[1] + 10**6))
    with pytest.raises(BadVideo, match="is truncated"):
        probe(cut)


def test_a_span_far_larger_than_its_tar_is_cut_short(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(1000))
    with pytest.raises(BadVideo, match="is truncated: 1000 of 4611686018427387904 bytes"):
        probe(Media("tar", tmp_path / "x.tar", "a.mp4", (0, 2**62)))


def test_a_url_that_cannot_be_read_says_why(failing):
    for url, reason in (("nosuch://x", "nosuch"), (failing, "status 503")):
        for media in (Media("video", f"{url}/a.mp4"), Media("tar", f"{url}/a.tar", "a.mp4", (0, 10))):
            with pytest.raises(BadVideo, match=f"cannot be read: .*{reason}"):
                probe(media)


def test_frames_too_large_are_refused_before_they_are_decoded(tmp_path):
    path = encode(tmp_path / "big.avi", np.zeros((1, 8, 8200, 3), np.uint8), "mjpeg")
    with pytest.raises(BadVideo, match="8200x8, larger than"):
        probe(Media("video", path))


def test_frames_that_grow_too_large_midway_are_not_even_allocated(tmp_path, monkeypatch):
    path = variable_size(tmp_path / "x.ts")  # 64x48, then 128x96
    monkeypatch.setattr(video_files, "_PIXELS", {"max_pixels": "6400"})
    with pytest.raises(BadVideo, match="damaged at frame 1[0-2]: "):
        probe(Media("video", path))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
def test_frames_larger_than_the_header_says_fill_no_memory(tmp_path):
    """FFmpeg decodes one while it opens the file, before anybody can say that it is too large."""
    picture = io.BytesIO()
    Image.new("L", (9000, 9000)).save(picture, "PNG")
    with av.open(str(tmp_path / "x.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "gray"
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        container.mux(packet)
    check = """
import sys
import fastvgan.data.media.video_files  # loads FFmpeg, which is not to be counted
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import BadVideo, Media
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
try:
    probe(Media("video", sys.argv[1]))
except BadVideo as error:
    print((peak() - before) // 1024, error)
"""
    done = subprocess.run([sys.executable, "-c", check, tmp_path / "x.mov"], capture_output=True, text=True, cwd=ROOT)
    grown, said = done.stdout.split(maxsplit=1)
    assert int(grown) < 40 and "larger than 8192 a side" in said  # MiB; the frame has 77


def test_a_playlist_in_disguise_opens_nothing(tmp_path, files):
    shutil.copy(files["h264"], tmp_path / "secret.mp4")
    (tmp_path / "x.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(BadVideo):
        probe(Media("video", tmp_path / "x.mp4"))


@pytest.mark.parametrize(("name", "frames", "is_slow"), [("x.h264", 301, 1), ("x.h264", 300, 0), ("x.mp4", 301, 0)])
def test_a_long_clip_that_is_decoded_from_its_start_is_named(tmp_path, name, frames, is_slow):
    path = encode(tmp_path / name, make_numbered(frames, 16, 16), bf="2", g="12")
    clip = examine(Entry(Media("video", path), name))
    words = (
        "has no usable times, so each sample decodes it from its start; `fastvgan prepare --to clips` makes this fast"
    )
    assert notes(clip) == [f"{name}: {words}"] * is_slow and notes(clip, is_made_constant=True) == []


def test_a_file_that_was_changed_afterwards_is_bad(tmp_path, files):
    path = shutil.copy(files["h264"], tmp_path / "x.mp4")
    found = probe(Media("video", path))
    encode(path, make_numbered(10))
    with pytest.raises(BadVideo):
        read_frames(Media("video", path), found, [100, 101], 48, 64, 3)


@pytest.mark.parametrize("indices", [[0, 1], [100, 101]])
def test_frames_of_another_size_are_not_squeezed_to_the_one_on_record(tmp_path, files, indices):
    path = shutil.copy(files["h264"], tmp_path / "x.mp4")
    found = probe(Media("video", path))
    encode(path, make_numbered(140, 64, 48), g="12", bf="2")
    with pytest.raises(BadVideo, match=f"^has changed: frame {indices[0]} is 48x64 now, not 64x48$"):
        read_frames(Media("video", path), found, indices, 48, 64, 3)


def test_names_with_spaces_colons_and_umlauts(tmp_path):
    path = encode(tmp_path / "ä b:c%d.mp4", make_numbered(3))
    assert probe(Media("video", path)).frames == 3
