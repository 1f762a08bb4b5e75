"""A cut file is named by evidence, wherever the cut is; one that plays to its end is taken, whatever it promises."""

import io

import av
import numpy as np
import pytest
from corpus import BESIDE, TIMES, CannotWrite, Case, write
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import BadVideo, Media
from fastvgan.data.media.video.endings import _LOOKS, ends_early

# muxer, codec, suffix, options of the muxer
KINDS = {
    "mp4 with its index first": ("mp4", "libx264", ".mp4", {"movflags": "faststart"}),
    "fragmented mp4": ("mp4", "libx264", ".mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "fragmented mp4 with a segment index": ("mp4", "libx264", ".mp4", {"movflags": "dash+frag_keyframe"}),
    "mkv": ("matroska", "libx265", ".mkv", {}),
    "live webm": ("webm", "libvpx", ".webm", {"live": "1"}),
    "webm": ("webm", "libvpx-vp9", ".webm", {}),
    "avi": ("avi", "mpeg4", ".avi", {}),
    "flv": ("flv", "flv", ".flv", {}),
    "wmv": ("asf", "wmv2", ".wmv", {}),
    "ts": ("mpegts", "libx264", ".ts", {}),
    "m2ts": ("mpegts", "mpeg2video", ".m2ts", {"mpegts_m2ts_mode": "1"}),
    "mpg": ("mpeg", "mpeg2video", ".mpg", {}),
    "mxf": ("mxf", "mpeg2video", ".mxf", {}),
    "ogv": ("ogg", "libvpx", ".ogv", {}),
    "ivf": ("ivf", "libvpx", ".ivf", {}),
    "y4m": ("yuv4mpegpipe", "rawvideo", ".y4m", {}),
    "nut": ("nut", "ffv1", ".nut", {}),
    "gif": ("gif", "gif", ".gif", {}),
}


def lively(path, muxer, codec, options):
    """A file of 40 frames with enough in them that cuts fall into frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=muxer, options=options) as container:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = container.add_stream(codec, rate=25, options=quiet)
        stream.width, stream.height, stream.gop_size = 96, 64, 10
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for number in range(40):
            frame = np.clip(100 + number + rng.integers(-30, 30, (64, 96, 3)), 0, 255).astype(np.uint8)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_is_named_wherever_the_cut_is(tmp_path, kind):
    muxer, codec, suffix, options = KINDS[kind]
    path = tmp_path / f"x{suffix}"
    data = lively(path, muxer, codec, options)
    assert probe(Media("video", path)).frames == 40
    for share in np.random.default_rng(1).uniform(0.15, 0.93, 6):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadVideo, match="truncated|damaged|not a video|no video|no frames"):
            probe(Media("video", path))
        try:
            assert 0 < probe(Media("video", path), tolerant=True).frames <= 40
        except BadVideo as error:
            assert "truncated" not in str(error)


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm", "mpegts", "flv", "avi", "asf", "nut"])
def test_a_file_that_plays_to_its_end_is_taken_whatever_its_header_promises(tmp_path, container):
    """Edit lists, later starts, times since 1970, dropped frames, and longer sound beside the film."""
    codec, taken = "libvpx-vp9" if container == "webm" else "libx264", 0
    for times, beside in [(times, BESIDE[0]) for times in TIMES] + [(TIMES[0], beside) for beside in BESIDE]:
        try:
            path = write(tmp_path, Case(container, codec, times=times, beside=beside))
        except CannotWrite:
            continue
        # Of these containers two hide the data before the beginning, by an edit list.
        hidden = 5 if times == "lead-in" and container in ("mp4", "mov") else 0
        assert probe(Media("video", path)).frames == 14 - hidden, (times, beside)
        taken += 1
    assert taken >= 5


@given(name=st.sampled_from(sorted(_LOOKS)), junk=st.binary(max_size=300), cut=st.floats(0, 1), at=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_any_bytes_get_an_answer(whole_files, name, junk, cut, at):
    """Whatever a header claims, the answer comes at once and is no exception."""
    data = whole_files(name)
    data = data[: int(cut * len(data))]
    place = int(at * len(data))
    for spoiled in (junk, data, data[:place] + junk + data[place + len(junk) :]):
        assert ends_early(io.BytesIO(spoiled), len(spoiled), name) in (True, False)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("whole"), {}
    for muxer, codec, suffix, options in KINDS.values():
        data = lively(folder / f"x{suffix}", muxer, codec, options)
        with av.open(str(folder / f"x{suffix}")) as container:
            name = container.format.name.split(",")[0]
        files[name] = data
        assert not ends_early(io.BytesIO(data), len(data), name)
    return files.get  # a function, whose representation is short
