"""Good files that look odd are taken and shown right: the film among the streams, its times, pixels and fields."""

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph
from corpus import Case, write
from make_videos import encode, make_numbered, number_of
from PIL import Image

from fastvgan.data.decoders import dali
from fastvgan.data.folders.entry import Entry
from fastvgan.data.folders.manifest import Record
from fastvgan.data.folders.survey import Found, notes
from fastvgan.data.media.frames import probe, read_frames, walk
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.media.video.shown import Scaler
from fastvgan.data.preparation import PrepareConfig, prepare, record


def numbers(media, found):
    return [number_of(frame) for _, frame in walk(media, found.height, found.width, 3, found)]


def with_cover(path, cover_first):
    """A film and a larger cover, marked as such."""
    picture = io.BytesIO()
    Image.new("RGB", (200, 200), (200, 0, 0)).save(picture, "JPEG")
    film = encode(path.with_name("film.mp4"), make_numbered(12), bf="0")
    with av.open(str(film)) as given, av.open(str(path), "w") as target:
        order = ("cover", "film") if cover_first else ("film", "cover")
        streams = {}
        for kind in order:
            if kind == "film":
                streams[kind] = target.add_stream_from_template(given.streams.video[0])
            else:
                streams[kind] = target.add_stream("mjpeg", rate=1)
                streams[kind].width, streams[kind].height, streams[kind].pix_fmt = 200, 200, "yuvj420p"
                streams[kind].disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = streams["cover"], 0, 0, True
        target.mux(packet)
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = streams["film"]
                target.mux(packet)
    return Media("video", path)


@pytest.mark.parametrize("cover_first", [True, False])
def test_the_film_is_taken_and_not_its_cover(tmp_path, cover_first):
    for suffix in (".mp4", ".nut"):
        media = with_cover(tmp_path / f"x{suffix}", cover_first)
        with av.open(str(media.path)) as container:
            assert len(container.streams.video) == 2
        found = probe(media)
        assert (found.frames, found.height, found.width, found.codec) == (12, 48, 64, "h264")
        assert numbers(media, found) == list(range(12))
        assert [number_of(frame) for frame in read_frames(media, found, [3, 9], 48, 64, 3)] == [3, 9]


def test_a_still_picture_as_first_stream_is_no_film(tmp_path):
    for container in ("matroska", "mp4", "avi", "nut"):
        found = probe(Media("video", write(tmp_path, Case(container, "libx264", beside="still picture"))))
        assert (found.frames, found.height, found.width, found.stream) == (14, 48, 64, 1), container


def test_pixels_that_are_not_square_are_shown_in_their_proportions(tmp_path):
    def write_stretched(path, aspect, rotation=0, width=64):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=12)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = aspect
            if rotation:
                stream.set_display_rotation(rotation)
            for frame in make_numbered(5, 48, width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return Media("video", path)

    for name in ("x.mp4", "x.mkv", "x.mov", "x.ts"):
        for aspect, width in ((Fraction(64, 45), 91), (Fraction(8, 9), 57), (Fraction(1), 64)):
            media = write_stretched(tmp_path / name, aspect)
            found = probe(media)
            assert (found.height, found.width, found.square_pixels) == (48, width, aspect == 1)
            assert read_frames(media, found, [2], 48, width, 3).shape == (1, 48, width, 3)
            assert numbers(media, found) == list(range(5))
    media = write_stretched(tmp_path / "turned.mp4", Fraction(2), 90)
    found = probe(media)
    assert (found.height, found.width) == (128, 48)
    # A manifest that was written before pixels were heeded gives the frames that it always gave.
    old = found._replace(height=64, width=48)
    assert read_frames(media, old, [2], 64, 48, 3).shape == (1, 64, 48, 3)
    with pytest.raises(BadVideo, match="frames of 9600x48, larger than 8192"):
        probe(write_stretched(tmp_path / "wide.mp4", Fraction(8), width=1200))


def write_interlaced(path, codec, options, frames=17, mixed=False):
    """A bar that moves by a line's width between the two fields of each frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 6
        for number in range(frames):
            frame = np.full((48, 64, 3), 30, np.uint8)
            for field in range(2):
                left = (3 * (2 * number + field)) % 50
                frame[field::2, left : left + 10] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    return Media("video", path)


INTERLACED = {
    "h264": ("libx264", {"x264-params": "tff=1:keyint=6"}, ".mp4"),
    "mpeg2": ("mpeg2video", {"flags": "+ildct+ilme", "qscale": "2"}, ".mpg"),
}


@pytest.mark.parametrize("kind", INTERLACED)
def test_interlaced_frames_are_made_whole_by_bwdif(tmp_path, kind):
    codec, options, suffix = INTERLACED[kind]
    media = write_interlaced(tmp_path / f"x{suffix}", codec, options)
    found = probe(media)
    assert found.interlaced and found.frames == 17
    assert notes(Found(Entry(media, "x"), found)) == [
        "x: is interlaced; FFmpeg's filter bwdif makes one frame of each two fields"
    ]
    graph, expected = Graph(), []
    with av.open(str(media.path)) as container:
        stored = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in stored)
    source = graph.add_buffer(width=64, height=48, format="yuv420p", time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink")).configure()
    for frame in (*stored, None):
        graph.vpush(frame)
    expected = [graph.vpull().to_ndarray(format="gray") for _ in stored]
    walked = [frame[..., 0] for _, frame in walk(media, 48, 64, 1, found)]
    assert np.abs(np.stack(walked).astype(int) - expected).max() <= 3
    combs = np.abs(np.diff(np.stack([f.to_ndarray(format="gray") for f in stored]).astype(int), axis=1)).mean()
    assert np.abs(np.diff(np.stack(walked).astype(int), axis=1)).mean() < 0.5 * combs
    for indices in ([0], [1], [16], [7, 8, 9], [2, 5, 11, 16, 16], list(range(17))):
        seen = read_frames(media, found, indices, 48, 64, 1, threads=2)[..., 0]
        assert np.array_equal(seen, np.stack(walked)[indices]), indices


def test_frames_of_three_lines_are_left_as_they_are(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"flags": "+ildct"})
        stream.width, stream.height, stream.pix_fmt = 8, 3, "yuv444p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((3, 8, 3), 40 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv444p")))
        container.mux(stream.encode())
    media = Media("video", tmp_path / "x.mkv")
    found = probe(media)._replace(interlaced=True)
    assert [round(frame.mean() / 40) for frame in read_frames(media, found, [0, 2, 3], 3, 8, 3)] == [0, 2, 3]


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_transparency_of_webm_is_black(tmp_path, codec):
    """As of GIF and PNG; FFmpeg's own decoders pass over it."""
    pixels = np.zeros((20, 48, 64, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[..., :32, 3] = 255
    for t in range(20):
        pixels[t, :24, :32, :3] = 10 * t
    with av.open(str(tmp_path / "x.webm"), "w") as container:
        options = {"auto-alt-ref": "0", "g": "6", "deadline": "realtime", "crf": "10", "b:v": "1M"}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format="yuva420p")))
        container.mux(stream.encode())
    media = Media("video", tmp_path / "x.webm")
    found = probe(media)
    assert found.frames == 20 and found.transparent and found.codec == ("vp9" if codec.endswith("9") else "vp8")
    assert len(found.keys) > 1
    for indices in ([0], [7, 15], [19]):
        seen = read_frames(media, found, indices, 48, 64, 3, threads=2).astype(int)
        expected = (pixels[indices][..., :3] * (pixels[indices][..., 3:] / 255)).astype(int)
        assert np.abs(seen - expected)[:, 4:20, 4:28].mean() < 6 and seen[:, :, 40:].max() < 12


def test_theora_repeats_a_frame_by_an_empty_packet(tmp_path):
    """`still.ogv` is by FFmpeg's libtheora: ten frames of 32x32, a bright area whose edge moves until the fourth."""
    media = Media("video", Path(shutil.copy(Path(__file__).with_name("still.ogv"), tmp_path / "x.ogv")))
    found = probe(media)
    assert (found.frames, found.fps, found.steady) == (10, 10.0, True)
    expected = [31 - (8 + 4 * min(number, 3)) for number in range(10)]  # columns that are bright
    walked = [frame for _, frame in walk(media, 32, 32, 1, found)]
    assert [(frame[16, :, 0] > 120).sum() for frame in walked] == expected
    for threads in (1, 4):
        seen = read_frames(media, found, [1, 4, 9], 32, 32, 1, threads=threads)
        assert [(frame[16, :, 0] > 120).sum() for frame in seen] == [expected[i] for i in (1, 4, 9)]


def test_transport_streams_that_were_joined_play_to_their_end(tmp_path):
    parts = [encode(tmp_path / f"{number}.ts", make_numbered(12)[6 * number :]).read_bytes() for number in range(2)]
    (tmp_path / "x.ts").write_bytes(b"".join(parts))
    media = Media("video", tmp_path / "x.ts")
    found = probe(media)
    assert numbers(media, found) == [*range(12), *range(6, 12)]
    assert [number_of(frame) for frame in read_frames(media, found, [3, 13], 48, 64, 3)] == [3, 7]


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ({"mirrored": True}, "mirrored"),
        ({"square_pixels": False}, "non-square"),
        ({"interlaced": True}, "deinterlace"),
        ({"transparent": True}, "transparency"),
        ({"stream": 1}, "later video stream"),
    ],
)
def test_what_a_file_asks_for_is_written_down_and_kept_from_dali(tmp_path, shown, why):
    found = Probe(12, 48, 64, "vp9", 12.0, True, 0, np.arange(12), (0,), **shown)
    assert why in dali._find_clip_obstacle(Media("video", tmp_path / "x.webm"), found, "cpu")
    (tmp_path / "x.webm").write_bytes(b"12")
    line = record(Found(Entry(Media("video", tmp_path / "x.webm"), "x.webm"), found), tmp_path, "").to_json()
    again = Record.from_json(line).found
    assert again._replace(pts=None) == found._replace(pts=None)
    assert Record.from_json({k: v for k, v in line.items() if k not in shown}).found.stream == 0


def test_pixels_that_cannot_be_shown_are_refused_when_the_file_is_checked():
    """swscale takes no 32-bit integers; a file of them would otherwise end a training run."""
    with pytest.raises(BadVideo, match=r"pixels of a kind that cannot be shown \(gray32le\)"):
        Scaler((16, 16), 8, 8, 3)(av.VideoFrame(16, 16, "gray32le"))
    assert Scaler((16, 16), 8, 8, 1)(av.VideoFrame(16, 16, "yuv444p12le")).shape == (8, 8, 1)


def test_clips_that_an_older_version_prepared_are_kept(tmp_path):
    """Its journal is of another version, so that all is looked at again; what comes of it is not written again."""
    (tmp_path / "src").mkdir()
    for number in range(2):
        encode(tmp_path / "src" / f"{number}.mp4", make_numbered(6))
    made = prepare(tmp_path / "src", tmp_path / "out", PrepareConfig(to="clips"))
    journal = tmp_path / "out" / ".prepare" / "checked.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert all(line[1][0] == 3 for line in lines)
    journal.write_text("".join(json.dumps([name, [2, *rest], result]) + "\n" for name, (_, *rest), result in lines))
    times = {record.path: (tmp_path / "out" / record.path).stat().st_mtime_ns for record in made.records}
    again = prepare(tmp_path / "src", tmp_path / "out", PrepareConfig(to="clips"))
    assert [record.to_json() for record in again.records] == [record.to_json() for record in made.records]
    assert times == {record.path: (tmp_path / "out" / record.path).stat().st_mtime_ns for record in again.records}
