"""The frames of a clip of any kind: video files, pictures in order and pictures that move are read by one interface."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from fastvgan.data.media import animations, pictures
from fastvgan.data.media.types import Media, Probe


class FrameReader(Protocol):
    """What a module that reads some kinds of `Media` defines; each function is described below."""

    def probe(self, media: Media, tolerant: bool = False) -> Probe: ...

    def read_frames(
        self,
        media: Media,
        found: Probe,
        indices: list[int],
        height: int,
        width: int,
        channels: int,
        threads: int = 1,
    ) -> np.ndarray: ...

    def walk(
        self, media: Media, height: int, width: int, channels: int, found: Probe | None = None
    ) -> Iterator[tuple[float | None, np.ndarray]]: ...


def probe(media: Media, tolerant: bool = False) -> Probe:
    """Decode a clip from end to end.

    Args:
        tolerant: take frames that the decoder mended, and all up to damage that it cannot mend.

    Raises:
        BadVideo: it is no video, has no frames, is damaged or cut short, changes its size, or its frames are too large.
    """
    return _reader_of(media).probe(media, tolerant)


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> np.ndarray:
    """Frames by their index, scaled so that they just cover height x width.

    Args:
        found: what `probe` found. indices: rising; the last may be repeated. channels: 1 for grey, 3 for RGB.
        threads: that decode frames of a video file at the same time.

    Returns:
        uint8 (len(indices), h, w, channels), h >= height and w >= width, one of them equal. Frames are rotated and
        mirrored as the file asks for, in the proportions in which they are shown; transparency shows black.

    Raises:
        BadVideo: the clip has changed since: a frame is missing or cannot be decoded.
    """
    return _reader_of(media).read_frames(media, found, indices, height, width, channels, threads)


def walk(
    media: Media, height: int, width: int, channels: int, found: Probe | None = None
) -> Iterator[tuple[float | None, np.ndarray]]:
    """All frames in order, each with its time in seconds (None where none is known), scaled as by `read_frames`.

    Args:
        found: what `probe` found; without it the clip is decoded once more, to find it.

    Raises:
        BadVideo: a frame cannot be decoded.
    """
    return _reader_of(media).walk(media, height, width, channels, found)


def _reader_of(media: Media) -> FrameReader:
    if media.kind in ("video", "tar"):
        from fastvgan.data.media import video_files  # loads FFmpeg, which folders of pictures do not need

        return video_files
    return animations if media.kind == "animation" else pictures
