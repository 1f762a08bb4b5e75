"""Reading video files by PyAV: checking one in full, taking exact frames out of it, and walking through it."""

import bisect
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from fastvgan.data.media import FARTHEST, BadVideo, Media, Probe, cover

_LARGEST = 8192  # pixels a side; a tiny file can claim frames that fill the memory
_BLOCK = 2**26  # bytes
# By areas; without the second flag colours are halved in resolution again wherever the width is even.
_COLOURS = {1: "bt709", 9: "bt2020", 10: "bt2020"}  # matrix coefficients of ITU-T H.273
_SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
# Containers that hold their frames themselves: a playlist or a concat script disguised as a video must not make FFmpeg
# open anything but the file itself.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,ogg,asf,flv"
# A decoder allocates what a frame claims before anybody has seen it, for the first time while the file is opened.
_PIXELS = {"max_pixels": str(_LARGEST**2)}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS, **_PIXELS}

# FFmpeg's own words on stderr name no file; the exceptions serve. With any level but None PyAV takes Python's lock for
# what a decoder's thread says, which ends in a deadlock where that thread is waited for with the lock held.
av.logging.set_level(None)


def probe(media: Media, tolerant: bool = False) -> Probe:
    """See `fastvgan.data.media.probe`."""
    with _open(media) as container:
        # By default FFmpeg mends what it can and says nothing.
        stream = _stream(container, {} if tolerant else {"err_detect": "explode"})
        pts, keys, seen = [], [], None
        try:
            for frame in container.decode(stream):
                seen = _same_size(frame, seen, len(pts))
                if frame.is_corrupt and not tolerant:
                    raise BadVideo(f"damaged at frame {len(pts)}")
                if frame.key_frame:
                    keys.append(len(pts))
                pts.append(frame.pts)
        except av.FFmpegError as error:
            if not (tolerant and pts):
                raise BadVideo(_damage(error, len(pts))) from error
        if not pts:
            raise BadVideo("has no frames")
        promised = _promised(container, stream)
        if not tolerant and promised and len(pts) < 0.8 * promised - 1:
            raise BadVideo(f"cut short: {len(pts)} of about {promised} frames")
        height, width, rotation = seen
        times = _rising(pts)
        fps, steady = _rate(times, stream)
        codec = stream.codec_context.codec.canonical_name
        colours = _COLOURS.get(int(stream.codec_context.colorspace), "")
    return Probe(len(pts), height, width, codec, fps, steady, rotation, times, tuple(keys), colours)


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> np.ndarray:
    """See `fastvgan.data.media.read_frames`."""
    frames = _decode(media, found, indices, threads)
    scale = _Scaler(height, width, channels)
    scaled = {index: scale(frame) for index, frame in frames.items()}
    return np.stack([scaled[index] for index in indices])


def walk(media: Media, height: int, width: int, channels: int) -> Iterator[tuple[float | None, np.ndarray]]:
    """See `fastvgan.data.media.walk`."""
    with _open(media) as container:
        stream = _stream(container)
        scale, count = _Scaler(height, width, channels), 0
        try:
            for frame in container.decode(stream):
                yield frame.time, scale(frame)
                count += 1
        except av.FFmpegError as error:
            raise BadVideo(_damage(error, count)) from error


def _decode(media: Media, found: Probe, indices: list[int], threads: int) -> dict[int, av.VideoFrame]:
    for start in _starts(found, indices[0]):
        frames = _decode_from(media, found, start, indices, threads)
        if frames is not None:
            return frames
    raise BadVideo("has changed: its frames are not there any more")


def _starts(found: Probe, first: int) -> Iterator[int]:
    """Frames to decode from, until all turn up: the key frame before the first one, the one before that, and the start.

    Some demuxers seek by decoding time and land late, and after some key frames frames refer to what is before them.
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
    """Frames by index, decoding from frame `start`; None where they do not turn up."""
    wanted, first, last = frozenset(indices), indices[0], indices[-1]
    with _open(media) as container:
        stream = _stream(container)
        # Frames decoded side by side come late, and a few are decoded in vain.
        stream.thread_type, stream.codec_context.thread_count = "FRAME" if threads > 1 else "NONE", threads
        if start:
            container.seek(int(found.pts[start]), stream=stream)
        frames, counted = {}, 0
        try:
            for frame in container.decode(stream):
                index = counted
                if start:  # after a seek a frame is known by its time alone
                    index = int(np.searchsorted(found.pts, frame.pts))
                    if index >= found.frames or found.pts[index] != frame.pts or (not counted and index > first):
                        return None
                counted += 1
                if start and first <= index <= last and frame.is_corrupt:
                    return None
                if index in wanted:  # those between may be many, and large
                    frames[index] = frame
                if index >= last:
                    break
        except av.FFmpegError as error:
            if start:
                return None
            raise BadVideo(f"damaged: {error.strerror}") from error
    return frames if len(frames) == len(wanted) else None


@contextmanager
def _open(media: Media) -> Iterator[av.container.InputContainer]:
    try:
        source = _source(media)
        container = av.open(source, options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise BadVideo(f"is no video file: {error.strerror}") from error
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error
    with container:
        yield container


def _source(media: Media) -> "str | io.BytesIO":
    """What PyAV is to open: a path of this machine, or the bytes of the file; never a URL that FFmpeg would follow."""
    if media.kind == "video" and isinstance(media.path, Path):
        if media.path.stat().st_size == 0:
            raise BadVideo("is empty")
        with media.path.open("rb"):  # a file without permission says so here; FFmpeg's own words are vaguer
            return f"file:{media.path}"
    begin, length = media.span or (0, None)
    found = _fetch(str(media.path), begin, length)
    if not found:
        raise BadVideo("is empty")
    if length is not None and len(found) < length:
        raise BadVideo(f"is cut short: {len(found)} of {length} bytes")
    return io.BytesIO(found)


def _fetch(location: str, begin: int, length: int | None) -> bytes:
    """The bytes of a file or URL from `begin` on: `length` of them, or as many as there are."""
    try:
        with fsspec.open(location, "rb") as file:
            file.seek(begin)
            if length is None:
                return file.read()
            blocks = []
            # At once, memory would be taken for all that a manifest claims.
            while length > 0 and (block := file.read(min(length, _BLOCK))):
                blocks.append(block)
                length -= len(block)
            return b"".join(blocks)
    except OSError:
        raise
    except Exception as error:  # what the file systems behind URLs raise is no closed list
        raise BadVideo(f"cannot be read: {error or type(error).__name__}") from error


def _stream(container, options: dict[str, str] | None = None) -> av.VideoStream:
    if not container.streams.video:
        raise BadVideo("has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadVideo("has a codec that FFmpeg does not know")
    _check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {**_PIXELS, **(options or {})}
    # Slices decoded side by side swallow their errors, and frames give them late: files are worked on side by side.
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return stream


def _damage(error: av.FFmpegError, number: int) -> str:
    # All that FFmpeg says of a frame beyond max_pixels is that its argument is invalid.
    large = f", or larger than {_LARGEST} a side" if isinstance(error, av.ArgumentError) else ""
    return f"damaged at frame {number}{large}: {error.strerror}"


def _check_size(width: int, height: int) -> None:
    if max(width, height) > _LARGEST:
        raise BadVideo(f"has frames of {width}x{height}, larger than {_LARGEST} a side")


def _same_size(frame: av.VideoFrame, seen: tuple[int, int, int] | None, number: int) -> tuple[int, int, int]:
    """Height, width and rotation of a frame, which must be those of the first one."""
    _check_size(frame.width, frame.height)
    size = (*_shown(frame), 90 * _quarters(frame))
    if seen and seen[:2] != size[:2]:
        raise BadVideo(f"changes its size at frame {number}, from {seen[1]}x{seen[0]} to {size[1]}x{size[0]}")
    return seen or size


def _promised(container, stream) -> int:
    """How many frames the header says there are; 0 where it does not say."""
    if stream.frames:
        return stream.frames
    if container.duration and stream.average_rate:
        return int(container.duration / av.time_base * stream.average_rate)
    return 0


def _rising(pts: list[int | None]) -> np.ndarray | None:
    if pts[0] is None or any(a is None or b is None or a >= b for a, b in zip(pts, pts[1:], strict=False)):
        return None
    if pts[0] < -FARTHEST or pts[-1] > FARTHEST:
        return None
    return np.array(pts, dtype=np.int64)


def _rate(pts: np.ndarray | None, stream) -> tuple[float | None, bool]:
    """Frames a second, and whether all frames last equally long, but for the rounding of coarse time bases."""
    said = stream.average_rate or stream.guessed_rate
    if pts is None or len(pts) < 2 or not stream.time_base:
        return (_rounded(said) if said else None), True
    steps = np.diff(pts)
    # Times rounded to a coarse unit move by one, and by two where a container rounded what another had rounded.
    common = Counter(steps.tolist()).most_common(1)[0][0]
    steady = bool(np.all(np.abs(steps - common) <= max(min(2, common // 4), 0.02 * common)))
    seconds = Fraction(int(pts[-1] - pts[0]), len(pts) - 1) * stream.time_base
    return _rounded(1 / seconds), steady


def _rounded(rate: Fraction) -> float | None:
    """None where next to nothing is left: a frame in hours is no rate to be counted by."""
    rounded = round(float(rate), 3)
    return rounded if rounded > 0 else None


def _shown(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width as shown."""
    return (frame.width, frame.height) if _quarters(frame) % 2 else (frame.height, frame.width)


def _quarters(frame: av.VideoFrame) -> int:
    """By how many right angles a frame is to be turned, counter-clockwise."""
    quarters = round(frame.rotation / 90)
    if abs(frame.rotation - 90 * quarters) > 1:  # PyAV cuts off what is less than a degree
        raise BadVideo(f"asks to be turned by {frame.rotation} degrees, which is no right angle; encode it upright")
    return quarters


class _Scaler:
    """Scales the frames of one clip so that they just cover a size, and turns them upright; see `media.read_frames`."""

    def __init__(self, height: int, width: int, channels: int):
        self._wanted, self._channels = (height, width), channels
        self._size = None
        # One for all frames: the tables of its filters take longer to make than a frame to scale.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        self._size = self._size or cover(_shown(frame), *self._wanted)
        height, width = self._size[::-1] if _quarters(frame) % 2 else self._size
        alpha = any(component.is_alpha for component in frame.format.components)
        kind = "rgba" if alpha else "gray" if self._channels == 1 else "rgb24"
        pixels = self._reformatter.reformat(frame, width, height, kind, interpolation=_SCALING).to_ndarray()
        if alpha:
            pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)
            if self._channels == 1:
                pixels = (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
        return np.rot90(pixels, _quarters(frame)).reshape(*self._size, self._channels)
