"""Reading video files by PyAV: checking one in full, and taking exact frames out of it."""

import bisect
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

_LARGEST = 8192  # pixels a side; a tiny file can claim frames that fill the memory
_SEEK_BEYOND = 64  # frames; nearer ones are reached by decoding from the start
# Containers that hold their frames themselves: a playlist or a concat script disguised as a video must not make FFmpeg
# open anything but the file itself.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,ogg,asf,flv"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}

av.logging.set_level(av.logging.PANIC)  # FFmpeg's own words on stderr name no file; the exceptions serve


class Probe(NamedTuple):
    """What a full decode of a file found.

    pts: int64 (frames,), presentation time of each frame in the stream's time base, or None where the stream has none
        that rise. keys: indices of key frames, for seeking.
    """

    frames: int
    pts: np.ndarray | None
    keys: list[int]


class BadVideo(Exception):
    """A file that gives no frames that could be trusted; the message is the reason."""


def probe(path: Path) -> Probe:
    """Decode a file from end to end.

    Raises:
        BadVideo: it is no video, has no frames, is damaged or cut short, or its frames are too large.
    """
    with _open(path) as container:
        stream = _stream(container)
        pts, keys = [], []
        try:
            for frame in container.decode(stream):
                _check_size(frame.width, frame.height)
                if frame.is_corrupt:
                    raise BadVideo(f"damaged at frame {len(pts)}")
                if frame.key_frame:
                    keys.append(len(pts))
                pts.append(frame.pts)
        except av.FFmpegError as error:
            raise BadVideo(f"damaged at frame {len(pts)}: {error.strerror}") from error
        if not pts:
            raise BadVideo("has no frames")
        promised = _promised(container, stream)
        if promised and len(pts) < 0.8 * promised - 1:
            raise BadVideo(f"cut short: {len(pts)} of about {promised} frames")
    rises = all(a is not None and b is not None and a < b for a, b in zip(pts, pts[1:], strict=False))
    return Probe(len(pts), np.array(pts, dtype=np.int64) if rises and pts[0] is not None else None, keys)


def read_frames(path: Path, found: Probe, indices: list[int], height: int, width: int, channels: int) -> np.ndarray:
    """Frames by their index, scaled so that they just cover height x width.

    Args:
        found: what `probe` found in this file. indices: rising; the last may be repeated.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 (len(indices), h, w, channels), h >= height and w >= width, one of them equal. Rotation that the file
        asks for is applied; transparency shows black.

    Raises:
        BadVideo: the file has changed since: a frame is missing or cannot be decoded.
    """
    frames = _decode(path, found, indices[0], indices[-1])
    size, scaled = None, {}
    for index in dict.fromkeys(indices):
        frame = frames[index]
        size = size or _cover(frame, height, width)
        scaled[index] = _pixels(frame, *size, channels)
    return np.stack([scaled[index] for index in indices])


def _decode(path: Path, found: Probe, first: int, last: int) -> dict[int, av.VideoFrame]:
    start = _seek_to(found, first)
    frames = _decode_from(path, found, start, first, last)
    if frames is None and start:
        frames = _decode_from(path, found, 0, first, last)
    if frames is None:
        raise BadVideo(f"frames {first} to {last} are not there any more")
    return frames


def _seek_to(found: Probe, first: int) -> int:
    """The frame to decode from: two key frames back, since a demuxer that seeks by decoding time may land late."""
    if first < _SEEK_BEYOND or found.pts is None:
        return 0
    back = bisect.bisect_right(found.keys, first) - 2
    return found.keys[back] if back > 0 else 0


def _decode_from(path: Path, found: Probe, start: int, first: int, last: int) -> dict[int, av.VideoFrame] | None:
    """Frames first to last by index, decoding from frame `start`; None where they do not turn up."""
    with _open(path) as container:
        stream = _stream(container)
        if start:
            container.seek(int(found.pts[start]), stream=stream)
        frames, counted = {}, 0
        try:
            for frame in container.decode(stream):
                index = counted
                if start:  # after a seek a frame is known by its time alone
                    index = int(np.searchsorted(found.pts, frame.pts))
                    if index >= found.frames or found.pts[index] != frame.pts:
                        return None
                counted += 1
                if first <= index <= last:
                    frames[index] = frame
                if index >= last:
                    break
        except av.FFmpegError as error:
            raise BadVideo(f"damaged: {error.strerror}") from error
    return frames if len(frames) == last - first + 1 else None


def _open(path: Path) -> av.container.InputContainer:
    try:
        if path.stat().st_size == 0:
            raise BadVideo("is empty")
        return av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise BadVideo(f"is no video file: {error.strerror}") from error
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror}") from error


def _stream(container) -> av.VideoStream:
    if not container.streams.video:
        raise BadVideo("has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadVideo("has a codec that FFmpeg does not know")
    _check_size(stream.codec_context.width, stream.codec_context.height)
    stream.thread_type = "SLICE"  # frame threads would give errors late, on other frames
    return stream


def _check_size(width: int, height: int) -> None:
    if max(width, height) > _LARGEST:
        raise BadVideo(f"has frames of {width}x{height}, larger than {_LARGEST} a side")


def _promised(container, stream) -> int:
    """How many frames the header says there are; 0 where it does not say."""
    if stream.frames:
        return stream.frames
    if container.duration and stream.average_rate:
        return int(container.duration / av.time_base * stream.average_rate)
    return 0


def _cover(frame: av.VideoFrame, height: int, width: int) -> tuple[int, int]:
    """Height and width, as shown, to scale a frame to so that it just covers height x width."""
    shown = (frame.height, frame.width) if frame.rotation % 180 == 0 else (frame.width, frame.height)
    scale = max(height / shown[0], width / shown[1])
    return max(height, round(shown[0] * scale)), max(width, round(shown[1] * scale))


def _pixels(frame: av.VideoFrame, height: int, width: int, channels: int) -> np.ndarray:
    stored = (height, width) if frame.rotation % 180 == 0 else (width, height)
    alpha = any(component.is_alpha for component in frame.format.components)
    kind = "rgba" if alpha else "gray" if channels == 1 else "rgb24"
    pixels = frame.to_ndarray(format=kind, height=stored[0], width=stored[1], interpolation="AREA")
    if alpha:
        pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)
        if channels == 1:
            pixels = (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    pixels = np.rot90(pixels, frame.rotation // 90)
    return pixels.reshape(height, width, channels)
