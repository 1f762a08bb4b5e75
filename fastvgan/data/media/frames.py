"""One interface to the frames of video files, sequences of pictures and animated pictures."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from fastvgan.data.media import animations, pictures
from fastvgan.data.media.types import Media, Probe
from fastvgan.machine.optional import check_installed

if TYPE_CHECKING:
    import numpy as np


class FrameReader(Protocol):
    """A module that reads some kinds of `Media`."""

    def probe(self, media: Media, tolerant: bool = False) -> Probe:
        """Decode a clip from end to end; see `probe` below."""
        ...

    def read_frames(
        self,
        media: Media,
        found: Probe,
        indices: list[int],
        height: int,
        width: int,
        channels: int,
        threads: int = 1,
    ) -> "np.ndarray":
        """Read frames by their indices, uint8 (N, H, W, C); see `read_frames` below."""
        ...

    def walk(
        self, media: Media, height: int, width: int, channels: int, found: Probe | None = None
    ) -> "Iterator[tuple[float | None, np.ndarray]]":
        """Yield times and frames, uint8 (H, W, C); see `walk` below."""
        ...


def probe(media: Media, tolerant: bool = False) -> Probe:
    """Decode a clip from end to end.

    Args:
        media: The clip.
        tolerant: Take frames in which the decoder concealed errors, and all frames before damage that it cannot
            conceal.

    Raises:
        BadVideo: It is not a video, has no frames, is damaged or truncated, changes its size, or is too large.
    """
    return _reader_of(media).probe(media, tolerant)


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> "np.ndarray":
    """Read frames by their indices, scaled to just cover height x width.

    Args:
        media: The clip.
        found: Result of `probe`.
        indices: Rising indices; the last may be repeated.
        height: Height to cover.
        width: Width to cover.
        channels: 1 for grey, 3 for RGB.
        threads: Number of threads that decode a video file.

    Returns:
        uint8 (N, H, W, C), H >= height and W >= width, one of them equal. Frames are rotated,
        mirrored and stretched as the file asks for; transparent pixels are black.

    Raises:
        BadVideo: The clip has changed: a frame is missing or cannot be decoded.
    """
    return _reader_of(media).read_frames(media, found, indices, height, width, channels, threads)


def walk(
    media: Media, height: int, width: int, channels: int, found: Probe | None = None
) -> "Iterator[tuple[float | None, np.ndarray]]":
    """Yield all frames in order, uint8 (H, W, C), each with its time in seconds or None if it is unknown.

    Args:
        media: The clip.
        height: Height to cover, as in `read_frames`.
        width: Width to cover.
        channels: 1 for grey, 3 for RGB.
        found: Result of `probe`; without it the clip is probed first.

    Raises:
        BadVideo: A frame cannot be decoded.
    """
    return _reader_of(media).walk(media, height, width, channels, found)


def _reader_of(media: Media) -> FrameReader:
    if media.kind in ("video", "tar"):
        check_installed("av", "video", f"{media.path}: a video file")
        from fastvgan.data.media import video_files  # imports FFmpeg, which folders of pictures do not need

        return video_files
    return animations if media.kind == "animation" else pictures
