"""Reading video files by PyAV: full checks, frame-exact access, and sequential reading."""

import bisect
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import av
import fsspec
import numpy as np

from fastvgan.data.media import zips
from fastvgan.data.media.types import FARTHEST, LARGEST_SIDE, BadVideo, Media, Probe
from fastvgan.data.media.video.deinterlacing import deinterlace
from fastvgan.data.media.video.endings import ends_early
from fastvgan.data.media.video.film import decoder_of, films, longest_film
from fastvgan.data.media.video.shown import Orientation, Scaler, display_size, has_alpha, orientation_of, pixel_aspect

_BLOCK = 2**26  # bytes
_COLOURS = {1: "bt709", 9: "bt2020", 10: "bt2020"}  # matrix coefficients of ITU-T H.273
# Containers that hold their frames themselves: a playlist or a concat script disguised as a video must not make FFmpeg
# open another file. Formats that show a text as a terminal's screen, or a single picture as a film, are left out too.
_CONTAINERS = ",".join(
    """
    mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi gif mpeg mpegts ogg asf flv live_flv kux
    mxf gxf lxf dv nut rm wtv ivf yuv4mpegpipe swf film_cpk filmstrip nsv nuv dhav ty pva pmp mtv mlv cine r3d dxa
    h261 h263 h264 hevc vvc evc m4v mpegvideo mjpeg mjpeg_2000 mpjpeg ingenient obu av1 dirac vc1 vc1test cavsvideo
    avs2 avs3 apv dnxhd smjpeg simbiosis_imx xmv jpegxl_anim
    flic roq bink smk 4xm ea idcin ipmovie wc3movie wsvqa vmd vividas siff cdxl dfa jv lvf mm mods moflex paf psxstr
    rl2 rpl tmv tiertexseq vivo yop hnm gdv bfi bethsoftvid c93 dsicin frm ifv ipu iv8 mgsts msnwctcp mv mvi mxg anm
    argo_brp avs bmv thp smush
    """.split()
)
# A decoder allocates the size that a frame declares before the frame can be checked, first while the file is opened.
_PIXELS = {"max_pixels": str(LARGEST_SIDE**2)}
_ON_DISK = "file:"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS, **_PIXELS}

# FFmpeg's messages on stderr name no file, and the exceptions suffice. With any level but None, PyAV takes Python's
# lock for a message of a decoder's thread: a deadlock if another thread holds the lock and waits for that thread.
av.logging.set_level(None)


_Size = tuple[tuple[int, int], Orientation]  # height and width as shown


class _Shown(NamedTuple):
    """A decoded frame and when it is shown, in the stream's time base."""

    pts: int | None
    frame: av.VideoFrame
    is_key: bool


def probe(media: Media, tolerant: bool = False) -> Probe:
    """Decode a video file; see `fastvgan.data.media.frames.probe`."""
    source = _source(media)
    number = _film(source)
    with _open(source) as container:
        # By default FFmpeg conceals errors without a report.
        stream = _stream(container, number, {} if tolerant else {"err_detect": "explode"})
        aspect = pixel_aspect(stream)
        pts: list[int | None] = []
        keys: list[int] = []
        seen: _Size | None = None
        frame: av.VideoFrame | None = None
        is_interlaced = False
        try:
            for shown in _frames(container, stream, tolerant):
                frame = shown.frame
                if seen is None:
                    Scaler((1, 1), 16, 16, 3)(frame)  # refuses pixels that could not be shown later
                seen = _same_size(frame, aspect, seen, len(pts))
                if frame.is_corrupt and not tolerant:
                    raise BadVideo(f"damaged at frame {len(pts)}")
                if shown.is_key:
                    keys.append(len(pts))
                pts.append(shown.pts)
                is_interlaced |= frame.interlaced_frame
        except av.FFmpegError as error:
            if not (tolerant and pts):
                raise BadVideo(_damage(error, len(pts))) from error
        if not pts:
            raise BadVideo("has no frames")
        if not tolerant and _breaks_off(source, container, stream):
            raise BadVideo(f"truncated: after {len(pts)} frames the file ends before its container does")
        times = _rising(pts)
        fps, steady = _rate(times, stream)
        codec = stream.codec_context.codec.canonical_name
        colours = _COLOURS.get(int(stream.codec_context.colorspace), "")
    assert seen is not None and frame is not None  # there is a time for each frame, and there are times
    (height, width), orientation = seen
    return Probe(
        *(len(pts), height, width, codec, fps, steady, 90 * orientation.quarters, times, tuple(keys), colours),
        stream=number,
        mirrored=orientation.mirrored,
        square_pixels=round(frame.width * aspect) == frame.width,
        interlaced=is_interlaced,
        transparent=has_alpha(frame),
    )


def why_no_video(path: Path) -> str | None:
    """Return why a file cannot be a clip, by its first bytes; None if it may be a clip. No frame is decoded."""
    try:
        with _open(_source(Media("video", path))) as container:
            form = container.format
            # Bare streams are guessed at by a few bytes: the pictures in a PDF file would be a film.
            if form.flags & av.format.Flags.no_timestamps.value and path.suffix[1:].lower() not in form.extensions:
                return "is not a video file"
            if all(container.streams.video[number].frames == 1 for number in films(container)):
                return "is a single picture"  # a photograph of HEIC or AVIF
    except BadVideo as error:
        return str(error)
    return None


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> np.ndarray:
    """Read frames, uint8 (N, H, W, C); see `fastvgan.data.media.frames.read_frames`."""
    frames = _decode(media, found, indices, threads)
    scale = Scaler((found.height, found.width), height, width, channels)
    scaled = {index: scale(frame) for index, frame in frames.items()}
    return np.stack([scaled[index] for index in indices])


def walk(
    media: Media, height: int, width: int, channels: int, found: Probe | None = None
) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yield times and frames, uint8 (H, W, C); see `fastvgan.data.media.frames.walk`."""
    found = found or probe(media, tolerant=True)
    with _open(_source(media)) as container:
        stream = _stream(container, found.stream)
        scale, count = Scaler((found.height, found.width), height, width, channels), 0
        times: list[float | None] = []
        frames = _record_times(_frames(container, stream, True), stream, times)
        try:
            for frame in deinterlace(frames) if found.interlaced else frames:
                yield times[count], scale(frame)
                count += 1
        except av.FFmpegError as error:
            raise BadVideo(_damage(error, count)) from error


def _record_times(
    shown: Iterable[_Shown], stream: av.VideoStream, times: list[float | None]
) -> Iterator[av.VideoFrame]:
    for pts, frame, _ in shown:
        times.append(None if pts is None or stream.time_base is None else float(pts * stream.time_base))
        yield frame


def _frames(container: av.container.InputContainer, stream: av.VideoStream, tolerant: bool) -> Iterator[_Shown]:
    """Yield the frames of a stream in the order of presentation, from the container's current position."""
    decoder = decoder_of(stream)
    if decoder is not stream.codec_context:
        decoder.options, decoder.thread_type, decoder.thread_count = stream.codec_context.options, "NONE", 1
    last = None
    for packet in container.demux(stream):
        if packet.is_corrupt and not tolerant and container.format.name != "mpegts":
            # Packet counters jump where transport streams were joined, without harm to any frame.
            raise BadVideo("truncated or damaged: a packet of the video ends early")
        if packet.size == 0 and packet.dts is not None:
            # An empty packet of Theora repeats the previous frame; those of other codecs hold no frame.
            if last is not None and stream.codec_context.name == "theora":
                yield _Shown(packet.pts, last, False)
            continue
        for last in decoder.decode(packet):
            # libvpx's wrapper marks no frame as a key frame, but returns one frame per packet, without delay.
            yield _Shown(last.pts, last, packet.is_keyframe if decoder is not stream.codec_context else last.key_frame)


def _decode(media: Media, found: Probe, indices: list[int], threads: int) -> dict[int, av.VideoFrame]:
    """Decode frames by index, deinterlaced if the clip is interlaced."""
    if not found.interlaced:
        return _decode_as_stored(media, found, indices, threads)
    around = {i for index in indices for i in (index - 1, index, index + 1) if 0 <= i < found.frames}
    stored = _decode_as_stored(media, found, sorted(around), threads)
    whole = {}
    try:
        for run in _runs(sorted(around)):
            whole.update(zip(run, deinterlace(stored[i] for i in run), strict=True))
    except av.FFmpegError as error:
        raise BadVideo(f"cannot be deinterlaced: {error.strerror}") from error
    return {index: whole[index] for index in indices}


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Split rising numbers into runs of consecutive ones."""
    run = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run
            run = []
        run.append(number)
    yield run


def _decode_as_stored(media: Media, found: Probe, indices: list[int], threads: int) -> dict[int, av.VideoFrame]:
    for start in _starts(found, indices[0]):
        frames = _decode_from(media, found, start, indices, threads)
        if frames is not None:
            return frames
    raise BadVideo("has changed: frames are missing")


def _starts(found: Probe, first: int) -> Iterator[int]:
    """Yield frames to start decoding from, in turn: the last key frame up to `first`, the one before it, and frame 0.

    Some demuxers seek by decoding time and land late, and frames after some key frames refer to frames before them.
    """
    if found.pts is not None:
        place = bisect.bisect_right(found.keys, first) - 1
        for back in (place, place - 1):
            if back > 0:
                yield found.keys[back]
    yield 0


def _decode_from(
    media: Media, found: Probe, start: int, indices: list[int], threads: int
) -> dict[int, av.VideoFrame] | None:
    """Decode frames by index, starting at frame `start`; None if some are not found."""
    wanted, first, last = frozenset(indices), indices[0], indices[-1]
    times = found.pts if start else None
    with _open(_source(media)) as container:
        stream = _stream(container, found.stream)
        aspect = pixel_aspect(stream)
        # Frame threads delay frames, and decode a few that are not needed.
        if stream.codec_context.name != "theora":  # an empty packet repeats the last frame, which must not be delayed
            stream.thread_type, stream.codec_context.thread_count = "FRAME" if threads > 1 else "NONE", threads
        frames, counted, is_sure = {}, 0, not start
        try:
            if times is not None:
                container.seek(int(times[start]), stream=stream)
            for pts, frame, is_key in _frames(container, stream, True):
                index = counted
                if times is not None:  # after a seek, only its time identifies the frame
                    if pts is None:  # some demuxers set no time until the next key frame
                        return None
                    index = int(np.searchsorted(times, pts))
                    if index >= found.frames or times[index] != pts:
                        return None
                    # Some demuxers land between key frames, and some decoders conceal missing frames without an error.
                    is_sure |= is_key and index <= first
                    if index >= first and not is_sure:
                        return None
                counted += 1
                if start and first <= index <= last and frame.is_corrupt:
                    return None
                if index in wanted:  # keeping all frames could fill the memory
                    _check_same(frame, aspect, found, index)
                    frames[index] = frame
                if index >= last:
                    break
        except av.FFmpegError as error:
            if start:
                return None
            raise BadVideo(f"damaged: {error.strerror}") from error
    return frames if len(frames) == len(wanted) else None


@contextmanager
def _open(source: "str | bytes") -> Iterator[av.container.InputContainer]:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        container = av.open(file, "r", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise BadVideo(f"is not a video file: {error.strerror}") from error
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error
    with container:
        yield container


def _source(media: Media) -> "str | bytes":
    """Return what PyAV opens: a local path or the bytes of the file, never a URL that FFmpeg would follow.

    Raises:
        BadVideo: It cannot be read, is empty, or is shorter than its span.
    """
    try:
        if media.kind == "video" and media.member:
            return zips.read_member(Path(media.path), media.member)
        if media.kind == "video" and isinstance(media.path, Path):
            if media.path.stat().st_size == 0:
                raise BadVideo("is empty")
            with media.path.open("rb"):  # names a missing permission; FFmpeg's error is vaguer
                return f"{_ON_DISK}{media.path}"
        begin, length = media.span or (0, None)
        found = _fetch(media.path, begin, length)
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error
    if not found:
        raise BadVideo("is empty")
    if length is not None and len(found) < length:
        raise BadVideo(f"is truncated: {len(found)} of {length} bytes")
    return found


def _fetch(location: "Path | str", begin: int, length: int | None) -> bytes:
    """Read `length` bytes of a file or URL from `begin` on, or all bytes up to its end if `length` is None."""
    try:
        # fsspec would take "~" in a path for the home, and "::" for the beginning of a URL.
        opened = location.open("rb") if isinstance(location, Path) else fsspec.open(location, "rb")
        with cast(BinaryIO, opened) as file:  # fsspec's stub adds list, for patterns
            file.seek(begin)
            if length is None:
                return file.read()
            blocks = []
            # A single read would allocate all bytes that a manifest declares.
            while length > 0 and (block := file.read(min(length, _BLOCK))):
                blocks.append(block)
                length -= len(block)
            return b"".join(blocks)
    except OSError:
        raise
    except Exception as error:  # the file systems behind URLs raise errors of any kind
        raise BadVideo(f"cannot be read: {error or type(error).__name__}") from error


def _film(source: "str | bytes") -> int:
    """The number of the film among the video streams."""
    with _open(source) as container:
        candidates = films(container)
        return candidates[0] if len(candidates) == 1 else longest_film(container, candidates)


def _breaks_off(source: "str | bytes", container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the file is shorter than its structure, or than its index of this stream, says."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source.removeprefix(_ON_DISK), "rb") as file:
        size = file.seek(0, io.SEEK_END)
        if ends_early(file, size, container.format.name):
            return True
        # Other demuxers count from elsewhere than the file's beginning.
        return container.format.name.startswith("mov") and any(
            entry.pos + entry.size > size for entry in stream.index_entries if not entry.is_discard
        )


def _stream(
    container: av.container.InputContainer, number: int = 0, options: dict[str, str] | None = None
) -> av.VideoStream:
    if len(container.streams.video) <= number:
        raise BadVideo("has no video stream" if not number else f"has no video stream {number} any more")
    stream = container.streams.video[number]
    if stream.codec_context is None:
        raise BadVideo("has a codec that FFmpeg does not know")
    _check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {**_PIXELS, **(options or {})}
    # Slice threads swallow errors, and frame threads report them late; several files are decoded in parallel instead.
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return stream


def _damage(error: av.FFmpegError, number: int) -> str:
    # For a frame beyond max_pixels FFmpeg only reports an invalid argument.
    large = f", or larger than {LARGEST_SIDE} a side" if isinstance(error, av.ArgumentError) else ""
    return f"damaged at frame {number}{large}: {error.strerror}"


def _check_size(width: int, height: int) -> None:
    if max(width, height) > LARGEST_SIDE:
        raise BadVideo(f"has frames of {width}x{height}, larger than {LARGEST_SIDE} a side")


def _same_size(frame: av.VideoFrame, aspect: Fraction, seen: _Size | None, number: int) -> _Size:
    """Return size as shown and orientation of the first frame; all others must have the same size."""
    _check_size(frame.width, frame.height)
    size = display_size(frame, aspect)
    _check_size(size[1], size[0])
    if seen and seen[0] != size:
        was = seen[0]
        raise BadVideo(f"changes its size at frame {number}, from {was[1]}x{was[0]} to {size[1]}x{size[0]}")
    return seen or (size, orientation_of(frame))


def _check_same(frame: av.VideoFrame, aspect: Fraction, found: Probe, number: int) -> None:
    # Manifests that were written before pixels were heeded have the size of square ones.
    (height, width), *others = display_size(frame, aspect), display_size(frame, Fraction(1))
    if (found.height, found.width) not in ((height, width), *others):
        raise BadVideo(f"has changed: frame {number} is {width}x{height} now, not {found.width}x{found.height}")


def _rising(pts: list[int | None]) -> np.ndarray | None:
    times = [time for time in pts if time is not None]
    if len(times) < len(pts) or any(a >= b for a, b in itertools.pairwise(times)):
        return None
    if times[0] < -FARTHEST or times[-1] > FARTHEST:
        return None
    return np.array(times, dtype=np.int64)


def _rate(pts: np.ndarray | None, stream: av.VideoStream) -> tuple[float | None, bool]:
    """Frames per second, and whether all durations are equal except for rounding in coarse time bases."""
    declared = stream.average_rate or stream.guessed_rate
    if pts is None or len(pts) < 2 or not stream.time_base:
        return (_round_rate(declared) if declared else None), True
    steps = np.diff(pts)
    # Rounding to a coarse unit moves times by one, and by two if a second container rounded them again.
    common = Counter(steps.tolist()).most_common(1)[0][0]
    steady = bool(np.all(np.abs(steps - common) <= max(min(2, common // 4), 0.02 * common)))
    seconds = Fraction(int(pts[-1] - pts[0]), len(pts) - 1) * stream.time_base
    return _round_rate(1 / seconds), steady


def _round_rate(rate: Fraction) -> float | None:
    """Round a rate to three decimals; None if it rounds to 0."""
    rounded = round(float(rate), 3)
    return rounded if rounded > 0 else None
