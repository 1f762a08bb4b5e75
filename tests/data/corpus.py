"""Files of every container and codec that PyAV writes, and what FFmpeg shows of each, found without our readers."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph

FRAMES, HEIGHT, WIDTH = 14, 48, 64
# By muxer; m2ts is mpegts with four more bytes in front of each packet.
CONTAINERS = {
    **{"mp4": ".mp4", "mov": ".mov", "ismv": ".ismv", "f4v": ".f4v", "3gp": ".3gp", "3g2": ".3g2", "ipod": ".m4v"},
    **{
        "avif": ".avif",
        "matroska": ".mkv",
        "webm": ".webm",
        "avi": ".avi",
        "asf": ".wmv",
        "flv": ".flv",
        "nut": ".nut",
    },
    **{"mpegts": ".ts", "m2ts": ".m2ts", "mpeg": ".mpg", "vob": ".vob", "dvd": ".mpeg", "mxf": ".mxf", "ogg": ".ogv"},
    **{"ivf": ".ivf", "rm": ".rm", "wtv": ".wtv", "swf": ".swf", "gif": ".gif", "yuv4mpegpipe": ".y4m", "roq": ".roq"},
    **{"h264": ".h264", "hevc": ".hevc", "mpeg1video": ".m1v", "mpeg2video": ".m2v", "mjpeg": ".mjpeg", "dv": ".dv"},
    **{"h261": ".h261", "h263": ".h263", "obu": ".obu"},
}
CODECS = """
    libx264 libx264rgb libx265 libsvtav1 libvpx libvpx-vp9 mpeg1video mpeg2video mpeg4 msmpeg4v2 msmpeg4 wmv1 wmv2 flv
    h261 h263 h263p mjpeg jpeg2000 jpegls png bmp tiff targa ffv1 ffvhuff huffyuv utvideo magicyuv asv1 asv2 cinepak
    prores_ks prores qtrle rpza smc svq1 snow rv10 rv20 roqvideo flashsv flashsv2 gif zlib msvideo1 rawvideo v210 v308
    v408 v410 yuv4 r210 r10k y41p cljr amv speedhq dvvideo
""".split()
B_FRAMES = ("libx264", "libx265", "mpeg1video", "mpeg2video", "mpeg4")
SIZES = {"h261": (144, 176), "h263": (144, 176), "dvvideo": (576, 720)}
OPTIONS = {
    "libx265": {"x265-params": "log-level=none:keyint=6:min-keyint=6:scenecut=0"},
    "libsvtav1": {"preset": "12", "svtav1-params": "keyint=6"},
    "libvpx": {"deadline": "realtime", "b": "400k"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
RATES = [Fraction(25), Fraction(12), Fraction(24000, 1001), Fraction(30), Fraction(60)]
# Matrices of whole turns, and of those after a mirror, in the order of Exif: a, b, c, d of FFmpeg's display matrix.
ORIENTATIONS = [
    *((1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1)),
    *((0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)),
]
HAVE_MATRICES = ("mp4", "mov", "ismv", "f4v", "3gp", "3g2", "ipod", "matroska", "webm")
HAVE_EDITS = ("mp4", "mov", "f4v", "3gp", "3g2", "ipod")
TIMES = ("plain", "late", "epoch", "lead-in", "gaps")
BESIDE = ("nothing", "longer audio", "subtitles", "still picture", "smaller film")


@dataclasses.dataclass(frozen=True)
class Case:
    """One file. rate: frames a second. times: of TIMES; beside: of BESIDE, the other stream."""

    container: str
    codec: str
    rate: Fraction = RATES[0]
    b_frames: bool = False
    orientation: tuple[int, int, int, int] = ORIENTATIONS[0]
    times: str = "plain"
    beside: str = "nothing"

    def __str__(self) -> str:
        parts = [
            self.container,
            self.codec,
            f"{float(self.rate):.3g}",
            "b" if self.b_frames else "",
            self.times,
            self.beside,
        ]
        turned = "" if self.orientation == ORIENTATIONS[0] else "matrix" + ",".join(map(str, self.orientation))
        return " ".join(part for part in (*parts, turned) if part)


def cases() -> Iterator[Case]:
    """For every container and codec one plain case, and one for each other value of everything else."""
    for container, codec in itertools.product(CONTAINERS, CODECS):
        if (container, codec) == ("wtv", "wmv2"):
            continue  # FFmpeg leaves out what the decoder has to know, and shows something broken
        plain = Case(container, codec)
        yield plain
        for rate in RATES[1:]:
            yield dataclasses.replace(plain, rate=rate)
        if codec in B_FRAMES:
            yield dataclasses.replace(plain, b_frames=True)
        if container in HAVE_MATRICES:
            for number, orientation in enumerate(ORIENTATIONS[1:]):
                rate, b_frames = RATES[number % len(RATES)], codec in B_FRAMES and number % 2 == 1
                yield dataclasses.replace(plain, orientation=orientation, rate=rate, b_frames=b_frames)
        for times in TIMES[1:]:
            if times != "lead-in" or container in HAVE_EDITS:
                yield dataclasses.replace(plain, times=times)
                if codec in B_FRAMES:
                    yield dataclasses.replace(plain, times=times, b_frames=True)
        for beside in BESIDE[1:]:
            yield dataclasses.replace(plain, beside=beside)


class CannotWrite(Exception):
    """This container does not hold that codec, or FFmpeg writes no such file."""


def write(folder: Path, case: Case) -> Path:
    """The file of a case.

    Raises:
        CannotWrite: FFmpeg does not write it.
    """
    path = folder / f"x{CONTAINERS[case.container]}"
    muxer, options = ("mpegts", {"mpegts_m2ts_mode": "1"}) if case.container == "m2ts" else (case.container, {})
    if case.times != "plain":
        options = {**options, "avoid_negative_ts": "disabled"}
    try:
        packets, template = make_packets(case.codec, case.rate, case.b_frames, _has_header(muxer))
        with av.open(str(path), "w", format=muxer, options=options) as target:
            if case.beside == "still picture":
                _add_still(target)
            stream = target.add_stream_from_template(template)
            stream.time_base = 1 / case.rate
            if case.orientation != ORIENTATIONS[0]:
                a, b, c, d = (65536 * number for number in case.orientation)
                stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
            others = _others(target, case)
            # Other streams first: a muxer writes its header with the first packet, and must know them all.
            for packet in others:
                target.mux(packet)
            for packet in _set_times(packets, case):
                packet.stream = stream
                target.mux(packet)
    except (av.FFmpegError, ValueError, NotImplementedError, OverflowError, av.codec.codec.UnknownCodecError) as error:
        raise CannotWrite(str(error)) from error
    return path


@functools.lru_cache(400)
def make_packets(
    codec: str, rate: Fraction, b_frames: bool, has_header: bool, height: int = 0, width: int = 0
) -> tuple:
    """Packets of a codec as (bytes, pts, dts, whether a key frame), and a stream to take as a template.

    Args:
        has_header: what a decoder has to know first is in the container's header, not among the packets.

    Raises:
        CannotWrite: there is no such encoder, or it takes no such frames.
    """
    height, width = (height, width) if height else SIZES.get(codec, (HEIGHT, WIDTH))
    formats = [form.name for form in av.Codec(codec, "w").video_formats or ()] or ["yuv420p"]
    likes = ["yuvj420p"] if codec in ("mjpeg", "amv") else ["yuv420p", "yuv422p", "rgb24"]
    form = next((name for name in likes if name in formats), formats[0])
    container = av.open("none", "w", format="null")
    stream = container.add_stream(codec, rate=rate, options=OPTIONS.get(codec, {}))
    stream.width, stream.height, stream.pix_fmt = width, height, form
    stream.gop_size, stream.codec_context.max_b_frames = 6, 2 if b_frames else 0
    if has_header:
        stream.codec_context.flags |= av.codec.context.Flags.global_header
    container.start_encoding()  # gives the template what the header says
    packets = []
    for number in range(FRAMES):
        frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24").reformat(format=form)
        frame.pts, frame.time_base = number, 1 / rate
        packets += stream.encode(frame)
    packets += stream.encode()
    unit = stream.codec_context.time_base * rate
    kept = [(bytes(p), p.pts * unit, (p.pts if p.dts is None else p.dts) * unit, p.is_keyframe) for p in packets]
    if not kept:
        raise CannotWrite("the encoder gave nothing")
    return kept, stream


def _has_header(muxer: str) -> bool:
    return bool(av.format.ContainerFormat(muxer, "w").flags & av.format.Flags.global_header.value)


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A frame that no turn or mirror leaves as it is, and whose number should be seen."""
    down, across = np.mgrid[:height, :width]
    made = np.stack([across * 255 // width, down * 255 // height, np.full((height, width), 60)], -1).astype(np.uint8)
    made[: height // 3, : width // 4] = (230, 40, 40)
    made[height // 2 :, width // 2 :] = 16 + 15 * number
    return made


def _set_times(packets: list, case: Case) -> Iterator[av.Packet]:
    """Packets at their times, in frames: all, or those that a cut leaves."""
    shift = {"late": 40, "epoch": round(1_700_000_000 * case.rate), "lead-in": -5}.get(case.times, 0)
    for data, pts, dts, is_key in packets:
        packet = av.Packet(data)
        gap = 3 * (pts >= 8) if case.times == "gaps" else 0
        packet.pts, packet.dts = int(pts) + shift + gap, int(dts) + shift + 3 * (dts >= 8 and bool(gap))
        packet.time_base, packet.is_keyframe = 1 / case.rate, is_key
        yield packet


def _add_still(target) -> None:
    """A picture as the first stream of video, which nothing marks as one."""
    stream = target.add_stream("mjpeg" if target.format.name != "webm" else "libvpx", rate=1)
    stream.width, stream.height, stream.pix_fmt = 128, 128, "yuvj420p" if target.format.name != "webm" else "yuv420p"


def _others(target, case: Case) -> list[av.Packet]:
    """The packets of the files beside the film."""
    if case.beside == "longer audio":
        return _audio(target)
    if case.beside == "subtitles":
        stream = target.add_stream("ass")  # PyAV opens no encoder for others
        packet = av.Packet(b"0,0,Default,,0,0,0,,words")
        packet.stream, packet.pts, packet.dts, packet.duration = stream, 0, 0, 9000
        packet.time_base = stream.time_base = Fraction(1, 1000)
        return [packet]
    if case.beside == "still picture":
        stream = target.streams.video[0]
        frame = av.VideoFrame.from_ndarray(np.full((128, 128, 3), 90, np.uint8), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        return [*stream.encode(frame), *stream.encode()]
    if case.beside == "smaller film":
        packets, template = make_packets(case.codec, case.rate, False, _has_header(target.format.name), 32, 32)
        stream = target.add_stream_from_template(template)
        made = list(_set_times(packets, dataclasses.replace(case, times="plain")))
        for packet in made:
            packet.stream = stream
        return made
    return []


def _audio(target) -> list[av.Packet]:
    for codec in ("aac", "libopus", "mp2", "pcm_s16le"):
        if codec in target.supported_codecs:
            break
    else:
        raise CannotWrite("no audio codec here")
    stream = target.add_stream(codec, rate=48000, layout="mono")
    stream.codec_context.open()
    size = stream.codec_context.frame_size or 1024
    made = []
    for number in range(5 * 48000 // size):
        form = stream.codec_context.format.name
        frame = av.AudioFrame(format=form, layout="mono", samples=size)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * size, Fraction(1, 48000)
        made += stream.encode(frame)
    return made + stream.encode()


def decode_by_ffmpeg(path: Path, case: Case) -> np.ndarray:
    """What FFmpeg's command line shows of a file's film, its default filters in place: uint8 (T, H, W, 3).

    Raises:
        CannotWrite: it cannot be played either.
    """
    try:
        with av.open(str(path)) as container:
            stream = _film(container, case)
            packets = [packet for packet in container.demux(stream) if packet.size or packet.dts is None]
            stored = [frame for packet in packets for frame in packet.decode()]
            if len({(frame.width, frame.height) for frame in stored}) != 1 or len(stored) < 2:
                raise CannotWrite("two streams come out as one, or FFmpeg takes the stream for a picture")
            graph = _graph(stored[0], case, stream.sample_aspect_ratio or 1)
            for frame in (*stored, None):
                graph.vpush(frame)
            return np.stack([graph.vpull().to_ndarray() for _ in stored])
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise CannotWrite(str(error)) from error


def _film(container, case: Case) -> av.VideoStream:
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    size = SIZES.get(case.codec, (HEIGHT, WIDTH))
    right = [stream for stream in streams if (stream.height, stream.width) == size] if len(streams) > 1 else streams
    return right[-1]  # an AVIF file has its first picture in a separate stream


# FFmpeg's fftools/ffmpeg_filter.c: what `-autorotate` puts before all other filters, for each matrix of ORIENTATIONS.
_UPRIGHT = dict(
    zip(
        ORIENTATIONS,
        ([], [("hflip", "")], [("hflip", ""), ("vflip", "")], [("vflip", "")], [("transpose", "cclock_flip")],
         [("transpose", "clock")], [("transpose", "clock_flip")], [("transpose", "cclock")]),
        strict=True,
    )
)  # fmt: skip


def _graph(frame: av.VideoFrame, case: Case, aspect: Fraction) -> Graph:
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))]
    if frame.interlaced_frame:
        nodes.append(graph.add("bwdif", "send_frame:auto:interlaced"))
    scaling = f"{round(frame.width * aspect)}:{frame.height}:flags=area+full_chroma_int+accurate_rnd"
    nodes += [graph.add("scale", scaling), graph.add("format", "rgb24")]
    has_matrix = any(item.type.name == "DISPLAYMATRIX" for item in frame.side_data)
    nodes += [graph.add(name, value) for name, value in (_UPRIGHT[case.orientation] if has_matrix else ())]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
